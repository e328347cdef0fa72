// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/vsock_device.h"

#include <bit>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/virtio.h"

namespace vhost {
namespace {

using enum VirtioFeature;

constexpr int kEventQueue = 2;
constexpr uint16_t kEventQueueSize = 64;
constexpr const char* kRoles[] = {"rx", "tx", "event"};

absl::Status CheckCid(uint64_t cid) {
  if (cid >= kernel_abi::kVsockMinGuestCid && cid <= kernel_abi::kVsockMaxGuestCid) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("CID ", cid, " is none that a guest can have: ", kernel_abi::kVsockMinGuestCid,
                   " to ", kernel_abi::kVsockMaxGuestCid, " can be"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<VsockDevice>> VsockDevice::Create(VsockDeviceOptions options) {
  if (absl::Status status = CheckCid(options.guest_cid); !status.ok()) return status;
  if (!std::has_single_bit(options.queue_size) || options.queue_size > kMaxQueueSize) {
    return absl::InvalidArgumentError(absl::StrCat("a queue size of ", options.queue_size,
                                                   ": a power of two up to ", kMaxQueueSize,
                                                   " can be"));
  }
  return std::unique_ptr<VsockDevice>(new VsockDevice(options));
}

uint16_t VsockDevice::queue_max_size(int queue) const {
  return queue == kEventQueue ? kEventQueueSize : options_.queue_size;
}

QueueRole VsockDevice::role(int queue, VirtioFeatures) const {
  if (queue < 0 || queue > kEventQueue) return {.name = "unused"};
  return {.name = kRoles[queue], .local = queue == kEventQueue, .prompt = queue == 1};
}

VirtioFeatures VsockDevice::features() const {
  return VirtioFeatures{kVersion1,   kRingReset, kIndirectDesc, kEventIdx,
                        kRingPacked, kInOrder,   kVsockStream,  kVsockSeqpacket} -
         options_.withheld;
}

absl::Status VsockDevice::CheckFeatures(VirtioFeatures) const {
  // Any choice makes sense: none at all means stream sockets (5.10.3.2).
  return absl::OkStatus();
}

std::vector<std::byte> VsockDevice::config() const {
  const kernel_abi::VirtioVsockConfig config{.guest_cid = guest_cid_};
  const auto bytes = std::as_bytes(std::span(&config, 1));
  return {bytes.begin(), bytes.end()};
}

absl::Status VsockDevice::SendTransportReset(uint64_t guest_cid) {
  if (absl::Status status = CheckCid(guest_cid); !status.ok()) return status;
  Locked([&] {
    // 5.10.6.7: the driver reads the CID again when it gets the event.
    const bool new_cid = std::exchange(guest_cid_, guest_cid) != guest_cid;
    reset_pending_ = true;
    if (host() == nullptr) return;
    if (new_cid) host()->ConfigChanged();
    host()->KickQueue(kEventQueue);
  });
  return absl::OkStatus();
}

void VsockDevice::Save(DeviceState& state) const {
  state.vsock = VsockState{.guest_cid = guest_cid_};
}

absl::Status VsockDevice::Restore(const DeviceState& state) {
  if (!state.vsock.has_value()) return absl::InvalidArgumentError("a state without its vsock part");
  reset_pending_ = true;
  return absl::OkStatus();
}

void VsockDevice::BackendChanged(BackendKind, BackendKind) {
  reset_pending_ = true;
  if (host() != nullptr) host()->KickQueue(kEventQueue);
}

absl::StatusOr<bool> VsockDevice::Serve(int, inprocess::Virtqueue& ring) {
  // A driver puts buffers in ahead of time, and we take one when there is something to say. Only a
  // driver that left none has to kick when it has one.
  ring.DisableKicks();
  while (reset_pending_) {
    inprocess::Chain buffer;
    if (!ring.Take(buffer)) {
      if (!ring.broken().ok()) return ring.broken();
      // If one came meanwhile, it is for another turn: a driver that moves its index to and fro
      // must not keep us here.
      return ring.EnableKicks();
    }
    const kernel_abi::VirtioVsockEvent event{.id = kernel_abi::kVsockEventTransportReset};
    if (buffer.writable_bytes() < sizeof(event)) {
      return absl::InvalidArgumentError("a buffer too small for an event");
    }
    absl::Status status = buffer.Write(0, std::as_bytes(std::span(&event, 1)));
    if (!status.ok()) return status;
    buffer.Return(sizeof(event));
    reset_pending_ = false;
    ring.SignalUsed();
  }
  return false;
}

}  // namespace vhost
