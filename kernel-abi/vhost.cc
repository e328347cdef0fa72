// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/vhost.h"

#include <cerrno>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/bit_names.h"

namespace {

using kernel_abi::BitName;

// The bits that a vhost device may know; the low ones are the device's and stay unnamed, but for
// the one that vhost-net and the virtio driver share by number and meaning.
constexpr BitName kFeatureNames[] = {
    {15, "NET_F_MRG_RXBUF"},
    {24, "F_NOTIFY_ON_EMPTY"},
    {26, "VHOST_F_LOG_ALL"},
    {27, "VHOST_NET_F_VIRTIO_NET_HDR"},
    {28, "RING_F_INDIRECT_DESC"},
    {29, "RING_F_EVENT_IDX"},
    {32, "F_VERSION_1"},
    {33, "F_ACCESS_PLATFORM"},
    {34, "F_RING_PACKED"},
    {35, "F_IN_ORDER"},
    {36, "F_ORDER_PLATFORM"},
    {40, "F_RING_RESET"},
    {65, "NET_F_GUEST_UDP_TUNNEL_GSO"},
    {66, "NET_F_GUEST_UDP_TUNNEL_GSO_CSUM"},
    {67, "NET_F_HOST_UDP_TUNNEL_GSO"},
    {68, "NET_F_HOST_UDP_TUNNEL_GSO_CSUM"},
};

constexpr BitName kBackendFeatureNames[] = {
    {kernel_abi::kVhostBackendFIotlbMsgV2, "IOTLB_MSG_V2"},
    {kernel_abi::kVhostBackendFIotlbBatch, "IOTLB_BATCH"},
    {kernel_abi::kVhostBackendFIotlbAsid, "IOTLB_ASID"},
    {kernel_abi::kVhostBackendFSuspend, "SUSPEND"},
    {kernel_abi::kVhostBackendFResume, "RESUME"},
    {kernel_abi::kVhostBackendFEnableAfterDriverOk, "ENABLE_AFTER_DRIVER_OK"},
    {kernel_abi::kVhostBackendFDescAsid, "DESC_ASID"},
    {kernel_abi::kVhostBackendFIotlbPersist, "IOTLB_PERSIST"},
};

const char* IotlbTypeName(uint8_t type) {
  switch (type) {
    case VHOST_IOTLB_MISS:
      return "MISS";
    case VHOST_IOTLB_UPDATE:
      return "UPDATE";
    case VHOST_IOTLB_INVALIDATE:
      return "INVALIDATE";
    case VHOST_IOTLB_ACCESS_FAIL:
      return "ACCESS_FAIL";
    case VHOST_IOTLB_BATCH_BEGIN:
      return "BATCH_BEGIN";
    case VHOST_IOTLB_BATCH_END:
      return "BATCH_END";
    default:
      return "unknown";
  }
}

// So many regions are listed in a message; a table of 64 would bury the errno.
constexpr size_t kRegionsShown = 4;

}  // namespace

std::string Describe(const vhost_vring_state& state) {
  return absl::StrCat("index=", state.index, " num=", state.num);
}

std::string Describe(const vhost_vring_file& file) {
  return absl::StrCat("index=", file.index, " fd=", file.fd);
}

std::string Describe(const vhost_vring_addr& address) {
  return absl::StrFormat("index=%u flags=%#x desc=%#x avail=%#x used=%#x log=%#x", address.index,
                         address.flags, address.desc_user_addr, address.avail_user_addr,
                         address.used_user_addr, address.log_guest_addr);
}

std::string Describe(const vhost_memory_region& region) {
  return absl::StrFormat("guest=%#x size=%#x host=%#x", region.guest_phys_addr, region.memory_size,
                         region.userspace_addr);
}

std::string Describe(const vhost_iotlb_msg& message) {
  return absl::StrFormat("%s iova=%#x size=%#x host=%#x perm=%u", IotlbTypeName(message.type),
                         message.iova, message.size, message.uaddr, message.perm);
}

std::string Describe(const vhost_msg& message) {
  return absl::StrCat("type=", message.type, " ", Describe(message.iotlb));
}

std::string Describe(const vhost_msg_v2& message) {
  return absl::StrCat("type=", message.type, " asid=", message.asid, " ", Describe(message.iotlb));
}

namespace kernel_abi {

std::string Describe(const MemoryTable& table) {
  const std::span<const vhost_memory_region> regions = table.entries();
  std::string text = absl::StrCat(regions.size(), regions.size() == 1 ? " region" : " regions");
  for (size_t i = 0; i < regions.size() && i < kRegionsShown; ++i) {
    absl::StrAppend(&text, i == 0 ? ": " : ", ", ::Describe(regions[i]));
  }
  if (regions.size() > kRegionsShown) {
    absl::StrAppend(&text, ", and ", regions.size() - kRegionsShown, " more");
  }
  return text;
}

std::string Describe(const FeatureArray& features) {
  return absl::StrCat(DescribeBits(features.words[0], kFeatureNames), ", ",
                      DescribeBits(features.words[1], kFeatureNames, 64));
}

std::string Describe(const WorkerState& worker) {
  return absl::StrCat("worker=", worker.worker_id);
}

std::string Describe(const VringWorker& worker) {
  return absl::StrCat("index=", worker.index, " worker=", worker.worker_id);
}

std::string Describe(const ForkMode& mode) {
  switch (mode) {
    case ForkMode::kKernelThread:
      return "kthread";
    case ForkMode::kOwnerTask:
      return "task";
  }
  return absl::StrCat(static_cast<unsigned>(mode));
}

std::string DescribeVhostFeatures(const uint64_t& features) {
  return DescribeBits(features, kFeatureNames);
}

std::string DescribeBackendFeatures(const uint64_t& features) {
  return DescribeBits(features, kBackendFeatureNames);
}

std::string DescribeCid(const uint64_t& cid) { return absl::StrCat("cid=", cid); }

bool IsUnknownToVhost(int error) {
  return error == ENOTTY || error == EFAULT || error == ENOBUFS || error == EPERM;
}

}  // namespace kernel_abi
