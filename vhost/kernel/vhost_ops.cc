// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/vhost_ops.h"

#include <cerrno>
#include <utility>

#include "kernel-abi/node.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

uint64_t AddressOf(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// What is behind an errno of SET_OWNER that says less than it could.
absl::string_view OwnerAdvice(int error) {
  switch (error) {
    case ENOMEM:
      return "the kernel says so whenever it cannot make the worker: check the limits of threads "
             "(ulimit -u, the cgroup's pids.max) and of memory";
    case EBUSY:
      return "the fd has an owner already";
    default:
      return "";
  }
}

}  // namespace

absl::StatusOr<KernelVhostOps> KernelVhostOps::Open(kernel_abi::Kernel& kernel,
                                                    const std::string& path) {
  absl::StatusOr<kernel_abi::UniqueFd> fd = kernel_abi::OpenNode(kernel, path);
  if (!fd.ok()) return fd.status();
  return KernelVhostOps(kernel, *std::move(fd), path);
}

absl::Status KernelVhostOps::SetOwner() {
  const absl::Status status = Call(kernel_abi::kVhostSetOwner, kernel_abi::Nothing{});
  return kernel_abi::AddAdvice(status, OwnerAdvice(kernel_abi::GetErrno(status)));
}

absl::StatusOr<VhostFeatures> KernelVhostOps::GetFeatures() {
  if (wide_features_) {
    kernel_abi::FeatureArray array;
    const absl::Status status =
        kernel_abi::Call(subject(), kernel_abi::kVhostGetFeaturesArray, array).status();
    if (status.ok()) return VhostFeatures::FromWords(array.words[0], array.words[1]);
    if (!kernel_abi::IsUnknownToVhost(kernel_abi::GetErrno(status))) return status;
    wide_features_ = false;  // An older kernel: it has no features beyond 63 either.
  }
  uint64_t features = 0;
  const absl::Status status =
      kernel_abi::Call(subject(), kernel_abi::kVhostGetFeatures, features).status();
  if (!status.ok()) return status;
  return VhostFeatures::FromWords(features);
}

absl::Status KernelVhostOps::SetFeatures(VhostFeatures features) {
  if (features.high() != 0 || wide_features_) {
    return Call(kernel_abi::kVhostSetFeaturesArray,
                kernel_abi::FeatureArray{.words = {features.low(), features.high()}});
  }
  return Call(kernel_abi::kVhostSetFeatures, features.low());
}

absl::StatusOr<uint64_t> KernelVhostOps::GetBackendFeatures() {
  uint64_t features = 0;
  const absl::Status status =
      kernel_abi::Call(subject(), kernel_abi::kVhostGetBackendFeatures, features).status();
  if (!status.ok()) return status;
  return features;
}

absl::Status KernelVhostOps::SetBackendFeatures(uint64_t features) {
  return Call(kernel_abi::kVhostSetBackendFeatures, features);
}

absl::Status KernelVhostOps::SetMemoryTable(std::span<const MemoryRegion> regions) {
  kernel_abi::MemoryTable table(regions.size());
  const std::span<vhost_memory_region> entries = table.entries();
  for (size_t i = 0; i < regions.size(); ++i) {
    entries[i].guest_phys_addr = Value(regions[i].start);
    entries[i].memory_size = regions[i].size;
    entries[i].userspace_addr = AddressOf(regions[i].host);
  }
  return kernel_abi::Call(subject(), kernel_abi::kVhostSetMemTable, table).status();
}

absl::Status KernelVhostOps::SetLogBase(const void* bitmap) {
  return Call(kernel_abi::kVhostSetLogBase, AddressOf(bitmap));
}

absl::Status KernelVhostOps::SetLogFd(int event_fd) {
  return Call(kernel_abi::kVhostSetLogFd, event_fd);
}

absl::Status KernelVhostOps::SetVringSize(uint32_t index, uint32_t entries) {
  return Call(kernel_abi::kVhostSetVringNum, vhost_vring_state{.index = index, .num = entries});
}

absl::Status KernelVhostOps::SetVringBase(uint32_t index, uint32_t base) {
  return Call(kernel_abi::kVhostSetVringBase, vhost_vring_state{.index = index, .num = base});
}

absl::StatusOr<uint32_t> KernelVhostOps::GetVringBase(uint32_t index) {
  vhost_vring_state state{.index = index, .num = 0};
  const absl::Status status =
      kernel_abi::Call(subject(), kernel_abi::kVhostGetVringBase, state).status();
  if (!status.ok()) return status;
  return state.num;
}

absl::Status KernelVhostOps::SetVringAddresses(uint32_t index, const VringAddresses& addresses) {
  return Call(kernel_abi::kVhostSetVringAddr,
              vhost_vring_addr{.index = index,
                               .flags = addresses.log_used ? kernel_abi::kVhostVringFLog : 0,
                               .desc_user_addr = AddressOf(addresses.desc),
                               .used_user_addr = AddressOf(addresses.used),
                               .avail_user_addr = AddressOf(addresses.avail),
                               .log_guest_addr = addresses.log_address});
}

absl::Status KernelVhostOps::SetVringKick(uint32_t index, int event_fd) {
  return Call(kernel_abi::kVhostSetVringKick, vhost_vring_file{.index = index, .fd = event_fd});
}

absl::Status KernelVhostOps::SetVringCall(uint32_t index, int event_fd) {
  return Call(kernel_abi::kVhostSetVringCall, vhost_vring_file{.index = index, .fd = event_fd});
}

absl::Status KernelVhostOps::SetVringErr(uint32_t index, int event_fd) {
  return Call(kernel_abi::kVhostSetVringErr, vhost_vring_file{.index = index, .fd = event_fd});
}

absl::Status KernelVhostOps::SetVringBusyloop(uint32_t index, uint32_t timeout_us) {
  return Call(kernel_abi::kVhostSetVringBusyloopTimeout,
              vhost_vring_state{.index = index, .num = timeout_us});
}

absl::StatusOr<uint32_t> KernelVhostOps::GetVringBusyloop(uint32_t index) {
  vhost_vring_state state{.index = index, .num = 0};
  const absl::Status status =
      kernel_abi::Call(subject(), kernel_abi::kVhostGetVringBusyloopTimeout, state).status();
  if (!status.ok()) return status;
  return state.num;
}

absl::Status KernelVhostOps::ResetOwner() {
  return Call(kernel_abi::kVhostResetOwner, kernel_abi::Nothing{});
}

absl::Status KernelVhostOps::SetForkMode(kernel_abi::ForkMode mode) {
  const absl::Status status = Call(kernel_abi::kVhostSetForkFromOwner, mode);
  const int error = kernel_abi::GetErrno(status);
  if (status.ok() || !kernel_abi::IsUnknownToVhost(error)) return status;
  return kernel_abi::AddAdvice(
      status,
      "choosing how the worker is made needs Linux 6.17 (or a late 6.12), built with "
      "CONFIG_VHOST_ENABLE_FORK_OWNER_CONTROL");
}

bool KernelVhostOps::IsOwner() {
  // Owner-checked, changes nothing, and index 0 is there on every node.
  return kernel_abi::GetErrno(GetVringBase(0).status()) != EPERM;
}

absl::Status KernelVhostOps::NetSetBackend(uint32_t index, int tap_fd) {
  return Call(kernel_abi::kVhostNetSetBackend, vhost_vring_file{.index = index, .fd = tap_fd});
}

absl::Status KernelVhostOps::VsockSetGuestCid(uint64_t cid) {
  return Call(kernel_abi::kVhostVsockSetGuestCid, cid);
}

absl::Status KernelVhostOps::VsockSetRunning(bool running) {
  return Call(kernel_abi::kVhostVsockSetRunning, running ? 1 : 0);
}

}  // namespace vhost
