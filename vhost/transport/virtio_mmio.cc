// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/virtio_mmio.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "vhost/transport/legacy.h"
#include "vhost/transport/register_map.h"
#include "vhost/transport/selected_registers.h"

namespace vhost {
namespace {

namespace abi = kernel_abi;

// Where there is no shared memory region, its length and base read so (4.2.2.1).
constexpr uint32_t kNoSharedMemory = 0xffff'ffff;

// Registers of the six halves of a queue's addresses, in the order of selected_registers.h.
constexpr uint64_t kAddressRegisters[] = {
    abi::kMmioQueueDescLow,    abi::kMmioQueueDescHigh,  abi::kMmioQueueDriverLow,
    abi::kMmioQueueDriverHigh, abi::kMmioQueueDeviceLow, abi::kMmioQueueDeviceHigh,
};

std::optional<uint32_t> AddressHalf(uint64_t offset) {
  const auto* found = std::ranges::find(kAddressRegisters, offset);
  if (found == std::end(kAddressRegisters)) return std::nullopt;
  return static_cast<uint32_t>(found - std::begin(kAddressRegisters));
}

bool IsRegisterAccess(uint64_t offset, size_t size) { return size == 4 && offset % 4 == 0; }

}  // namespace

absl::StatusOr<std::unique_ptr<VirtioMmio>> VirtioMmio::Create(kernel_abi::Kernel& kernel,
                                                               Device& device, Wiring& wiring,
                                                               EventLoop& loop,
                                                               const VirtioMmioOptions& options) {
  if (options.legacy && !TransitionalPciId(device.device_id()).has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        device.name(), ": ", Name(device.device_id()),
        " devices have no legacy interface (virtio 1.3, 5): use version 2 of virtio-mmio"));
  }
  std::unique_ptr<VirtioMmio> transport(new VirtioMmio(kernel, device, wiring, options));
  if (absl::Status wired = transport->WireInterrupt(wiring, loop); !wired.ok()) {
    return kernel_abi::AddContext(wired, device.name());
  }
  transport->notifiers_.BindAt({.space = NotifyAddress::Space::kMmio,
                                .address = options.address + abi::kMmioQueueNotify,
                                .length = 4,
                                .datamatch = 0},
                               /*stride=*/0);
  device.SetInterrupter(transport.get(), absl::StrFormat("virtio-mmio %#x%s", options.address,
                                                         options.legacy ? " (legacy)" : ""));
  return transport;
}

absl::Status VirtioMmio::WireInterrupt(Wiring& wiring, EventLoop& loop) {
  if (device_.queue_count() > 0 && device_.ShareCallFd()) {
    interrupt_fd_ = device_.call_fd(0);
  } else {
    absl::StatusOr<kernel_abi::EventFd> event = kernel_abi::EventFd::Create(kernel_);
    if (!event.ok()) return event.status();
    joined_event_ = std::make_unique<kernel_abi::EventFd>(*std::move(event));
    interrupt_fd_ = joined_event_->get();
  }
  absl::StatusOr<std::unique_ptr<Registration>> bound =
      wiring.BindEdge(options_.gsi, interrupt_fd_);
  if (!bound.ok()) return bound.status();
  interrupt_ = *std::move(bound);
  if (joined_event_ == nullptr) return absl::OkStatus();
  for (int queue = 0; queue < device_.queue_count(); ++queue) {
    const int call_fd = device_.call_fd(queue);
    absl::StatusOr<std::unique_ptr<Watch>> relay = loop.WatchReadable(call_fd, [this, call_fd] {
      if (kernel_abi::EventFd::DrainEventFd(kernel_, call_fd)) joined_event_->Signal();
    });
    if (!relay.ok()) return relay.status();
    relays_.push_back(*std::move(relay));
  }
  return absl::OkStatus();
}

VirtioMmio::~VirtioMmio() { device_.SetInterrupter(nullptr, "none"); }

void VirtioMmio::ConfigChanged() {
  // The bit before the interrupt: a driver that is interrupted must find it.
  config_changed_.store(true, std::memory_order_release);
  kernel_abi::EventFd::SignalEventFd(kernel_, interrupt_fd_);
}

void VirtioMmio::Read(uint64_t offset, std::span<std::byte> to) {
  std::ranges::fill(to, std::byte{0});
  absl::MutexLock lock(&mutex_);
  if (offset >= abi::kMmioConfig) {
    device_.ReadConfig(static_cast<uint32_t>(offset - abi::kMmioConfig), to);
  } else if (IsRegisterAccess(offset, to.size())) {
    StoreLittleEndian(to, ReadRegister(offset));
  }
}

void VirtioMmio::Write(uint64_t offset, std::span<const std::byte> from) {
  if (offset < abi::kMmioConfig && !IsRegisterAccess(offset, from.size())) return;
  if (offset == abi::kMmioQueueNotify) {
    // Without the lock: another vCPU may hold it for as long as a backend takes to stop. The upper
    // half is notification data, if that was negotiated (4.2.3.3).
    notifiers_.Notify(LoadLittleEndian(from) & 0xffff);
    return;
  }
  absl::MutexLock lock(&mutex_);
  if (offset >= abi::kMmioConfig) {
    device_.WriteConfig(static_cast<uint32_t>(offset - abi::kMmioConfig), from);
  } else {
    WriteRegister(offset, static_cast<uint32_t>(LoadLittleEndian(from)));
  }
}

uint32_t VirtioMmio::DeviceFeatures() const {
  return FeatureWord(options_.legacy ? device_.offered_to_legacy() : device_.offered(),
                     device_features_select_);
}

uint32_t VirtioMmio::ReadRegister(uint64_t offset) const {
  switch (offset) {
    case abi::kMmioMagicValue:
      return abi::kMmioMagic;
    case abi::kMmioVersion:
      return options_.legacy ? abi::kMmioVersionLegacy : abi::kMmioVersionModern;
    case abi::kMmioDeviceId:
      return static_cast<uint32_t>(device_.device_id());
    case abi::kMmioVendorId:
      return abi::kPciVendorId;
    case abi::kMmioDeviceFeatures:
      return DeviceFeatures();
    case abi::kMmioInterruptStatus:
      return InterruptStatus();
    case abi::kMmioStatus:
      return options_.legacy ? LegacyStatus(device_) : device_.status();
    case abi::kMmioShmLenLow:
    case abi::kMmioShmLenHigh:
    case abi::kMmioShmBaseLow:
    case abi::kMmioShmBaseHigh:
      return kNoSharedMemory;
    case abi::kMmioConfigGeneration:
      return device_.config_generation();
    default:
      return ReadQueueRegister(offset);
  }
}

uint32_t VirtioMmio::ReadQueueRegister(uint64_t offset) const {
  if (queue_select_ >= static_cast<uint32_t>(device_.queue_count())) return 0;
  const int queue = static_cast<int>(queue_select_);
  if (options_.legacy && offset != abi::kMmioQueueSizeMax) return legacy_.Read(offset, queue);
  switch (offset) {
    case abi::kMmioQueueSizeMax:
      return device_.queue_max_size(queue);
    case abi::kMmioQueueReady:
      return device_.queue_enabled(queue) ? 1 : 0;
    default:  // Other registers are write-only; QueueReset is over when its write is.
      return 0;
  }
}

void VirtioMmio::WriteRegister(uint64_t offset, uint32_t value) {
  switch (offset) {
    case abi::kMmioDeviceFeaturesSel:
      device_features_select_ = value;
      return;
    case abi::kMmioDriverFeatures:
      if (driver_features_select_ <= (options_.legacy ? 0 : 3)) {
        device_.WriteDriverFeatures(driver_features_select_, value);
      }
      return;
    case abi::kMmioDriverFeaturesSel:
      driver_features_select_ = value;
      return;
    case abi::kMmioQueueSel:
      queue_select_ = value;
      return;
    case abi::kMmioInterruptAck:
      // The used-buffer bit is live and needs none.
      if ((value & abi::kInterruptConfig) != 0) config_changed_.store(false);
      return;
    case abi::kMmioStatus:
      WriteStatus(static_cast<uint8_t>(value));
      return;
    case abi::kMmioGuestPageSize:
      if (options_.legacy) legacy_.WritePageSize(value);
      return;
    default:
      WriteQueueRegister(offset, value);
  }
}

void VirtioMmio::WriteStatus(uint8_t status) {
  options_.legacy ? device_.WriteLegacyStatus(status) : device_.WriteStatus(status);
  if (status == 0) ResetLocked();
}

void VirtioMmio::WriteQueueRegister(uint64_t offset, uint32_t value) {
  if (queue_select_ >= static_cast<uint32_t>(device_.queue_count())) return;
  const int queue = static_cast<int>(queue_select_);
  if (options_.legacy && offset != abi::kMmioQueueSize) {
    legacy_.Write(offset, queue, value);
    return;
  }
  if (const std::optional<uint32_t> half = AddressHalf(offset)) {
    WriteQueueAddress(device_, queue, *half, value);
    return;
  }
  switch (offset) {
    case abi::kMmioQueueSize:
      // What 16 bits cannot hold stays a size that is refused when the device starts.
      WriteQueueSize(device_, queue, static_cast<uint16_t>(std::min<uint32_t>(value, 0xffff)));
      return;
    case abi::kMmioQueueReady:
      if (value == 1) {
        EnableQueue(device_, queue);
      } else if (value == 0 && device_.queue_enabled(queue)) {
        ResetQueue(queue);  // The driver takes the queue back (4.2.2.2).
      }
      return;
    case abi::kMmioQueueReset:
      if (value == 1 && device_.acked().Has(VirtioFeature::kRingReset)) ResetQueue(queue);
      return;
    default:
      return;
  }
}

void VirtioMmio::ResetQueue(int queue) {
  device_.ResetQueue(queue);
  // The device forgets what that queue signalled, and where the eventfd is shared what others did:
  // an interrupt too many is legal, one too few is not.
  kernel_abi::EventFd::SignalEventFd(kernel_, interrupt_fd_);
}

uint32_t VirtioMmio::InterruptStatus() const {
  uint32_t status = config_changed_.load(std::memory_order_acquire) ? abi::kInterruptConfig : 0;
  if ((device_.status() & device_status::kDriverOk) != 0) {
    for (int queue = 0; queue < device_.queue_count(); ++queue) {
      if (device_.queue_enabled(queue)) return status | abi::kInterruptVring;
    }
  }
  return status;
}

void VirtioMmio::Reset() {
  absl::MutexLock lock(&mutex_);
  WriteStatus(0);
  legacy_.Reset();
}

void VirtioMmio::ResetLocked() {
  device_features_select_ = 0;
  driver_features_select_ = 0;
  queue_select_ = 0;
  config_changed_.store(false);
}

DeviceReport VirtioMmio::Report() const {
  DeviceReport report = device_.Report();
  report.wiring = DescribeWiring();
  return report;
}

std::vector<WiringReport> VirtioMmio::DescribeWiring() const {
  absl::MutexLock lock(&mutex_);
  std::vector<WiringReport> rows;
  notifiers_.Describe("notify", rows);
  WiringReport row;
  row.what = "interrupt";
  row.how = interrupt_->how();
  row.gsi = options_.gsi;
  row.event_fd = interrupt_fd_;
  if (!relays_.empty()) row.problem = "queues are joined by a thread: the device shares no eventfd";
  rows.push_back(std::move(row));
  return rows;
}

}  // namespace vhost
