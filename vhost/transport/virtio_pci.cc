// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/virtio_pci.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/virtio.h"
#include "vhost/transport/legacy.h"
#include "vhost/transport/register_map.h"

namespace vhost {
namespace {

using Layout = VirtioPciLayout;

constexpr uint32_t kClassOther = 0xff0000;
// Class codes as other VMMs give them: drivers match the ids, people and udev the class.
uint32_t ClassCode(DeviceId id) {
  switch (id) {
    case DeviceId::kNet:
      return 0x020000;  // Ethernet
    case DeviceId::kBlock:
    case DeviceId::kScsi:
      return 0x010000;  // SCSI
    case DeviceId::kGpu:
      return 0x038000;  // display, other
    case DeviceId::kInput:
      return 0x098000;  // input, other
    case DeviceId::kVsock:
      return 0x078000;  // communication, other
    case DeviceId::kFs:
      return 0x018000;  // storage, other
    case DeviceId::kRng:
      break;
  }
  return kClassOther;
}

PciConfigSpace::Identity IdentityOf(const Device& device, VirtioPciForm form, bool has_pin) {
  const uint16_t id = static_cast<uint16_t>(device.device_id());
  const uint16_t modern_id = static_cast<uint16_t>(kernel_abi::kPciDeviceIdBase + id);
  const bool legacy = HasLegacy(form);
  return {.vendor = kernel_abi::kPciVendorId,
          .device = legacy ? TransitionalPciId(device.device_id()).value_or(modern_id) : modern_id,
          // Legacy drivers take revision 0 only, and find the type in the subsystem (4.1.2.3). Of
          // others that is from 0x40 on, so that no legacy driver takes it for one of its own.
          .revision = static_cast<uint8_t>(legacy ? 0 : 1),
          .class_code = ClassCode(device.device_id()),
          .subsystem_vendor = kernel_abi::kPciVendorId,
          .subsystem = legacy ? id : static_cast<uint16_t>(0x40 + id),
          .interrupt_pin = static_cast<uint8_t>(has_pin ? 1 : 0)};
}

// What a report says of the form, if it is not the usual one.
const char* Suffix(VirtioPciForm form) {
  switch (form) {
    case VirtioPciForm::kModern:
      break;
    case VirtioPciForm::kTransitional:
      return " (transitional)";
    case VirtioPciForm::kLegacy:
      return " (legacy)";
  }
  return "";
}

std::vector<int> EventFds(const Device& device, int config_event) {
  std::vector<int> fds;
  fds.reserve(static_cast<size_t>(device.queue_count()) + 1);
  for (int queue = 0; queue < device.queue_count(); ++queue) fds.push_back(device.call_fd(queue));
  fds.push_back(config_event);
  return fds;
}

// The window's registers (struct virtio_pci_cfg_cap).
constexpr uint32_t kWindowBar = 4;
constexpr uint32_t kWindowOffset = 8;
constexpr uint32_t kWindowLength = 12;
constexpr uint32_t kWindowData = 16;
constexpr uint32_t kMsixControl = 2;

constexpr uint32_t kLegacyNotifyBytes = 2;

}  // namespace

// Every access of the guest's holds one: the lock, and what must wait until it is released.
class ABSL_SCOPED_LOCKABLE VirtioPci::Entry {
 public:
  explicit Entry(VirtioPci& function) ABSL_EXCLUSIVE_LOCK_FUNCTION(function.mutex_)
      : function_(function) {
    function_.mutex_.Lock();
  }
  ~Entry() ABSL_UNLOCK_FUNCTION() {
    Intx::Watches ended = std::exchange(function_.ended_watches_, {});
    function_.mutex_.Unlock();
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

 private:
  VirtioPci& function_;
};

absl::StatusOr<std::unique_ptr<VirtioPci>> VirtioPci::Create(kernel_abi::Kernel& kernel,
                                                             Device& device, Wiring& wiring,
                                                             EventLoop& loop,
                                                             const VirtioPciOptions& options) {
  const int wanted = options.vectors.value_or(
      static_cast<uint16_t>(std::min<int>(device.queue_count() + 1, MsixTable::kMaxVectors)));
  if (wanted > MsixTable::kMaxVectors) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d MSI-X vectors; at most %d are possible", device.name(), wanted,
                        MsixTable::kMaxVectors));
  }
  if (HasLegacy(options.form) && !TransitionalPciId(device.device_id()).has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(device.name(), ": ", Name(device.device_id()),
                     " devices have no legacy interface (virtio 1.3, 5): use a modern function"));
  }
  absl::StatusOr<kernel_abi::EventFd> config_event = kernel_abi::EventFd::Create(kernel);
  if (!config_event.ok()) return config_event.status();
  std::unique_ptr<VirtioPci> function(new VirtioPci(kernel, device, wiring, loop, options,
                                                    static_cast<uint16_t>(wanted),
                                                    *std::move(config_event)));
  device.SetInterrupter(function.get(),
                        absl::StrCat("virtio-pci ", options.location, Suffix(options.form)));
  return function;
}

VirtioPci::VirtioPci(kernel_abi::Kernel& kernel, Device& device, Wiring& wiring, EventLoop& loop,
                     const VirtioPciOptions& options, uint16_t vectors,
                     kernel_abi::EventFd config_event)
    : device_(device),
      config_event_(std::move(config_event)),
      space_(IdentityOf(device, options.form, options.intx_gsi.has_value())),
      msix_(kernel, wiring, vectors, EventFds(device, config_event_.get())),
      layout_(options.form, device.queue_count(), device.config_size(), msix_.table()),
      capabilities_(AddTo(space_, layout_, msix_.table())),
      common_(device, *this),
      legacy_(device, *this),
      intx_(kernel, wiring, loop, options.intx_gsi, EventFds(device, config_event_.get())),
      notifiers_(wiring, device),
      legacy_notifiers_(wiring, device),
      told_bars_(space_.bars()) {}

VirtioPci::~VirtioPci() {
  device_.SetInterrupter(nullptr, "none");
  Entry entry(*this);
  ended_watches_ = intx_.SetActive(false, nullptr);
}

void VirtioPci::ConfigChanged() {
  intx_.NoteConfigChange();
  config_event_.Signal();
}

void VirtioPci::ConfigRead(uint32_t offset, std::span<std::byte> to) {
  Entry entry(*this);
  ReadWindow(offset, to.size());
  space_.SetInterruptStatus(intx_.pending());
  space_.Read(offset, to);
}

void VirtioPci::ConfigWrite(uint32_t offset, std::span<const std::byte> from) {
  Entry entry(*this);
  space_.Write(offset, from);
  WriteWindow(offset, from.size());
  UpdateMsix();
  UpdateIntx();
  UpdateBars();
}

std::vector<PciBar> VirtioPci::bars() const {
  absl::MutexLock lock(&mutex_);
  return space_.bars();
}

void VirtioPci::SetBarListener(BarListener listener) {
  Entry entry(*this);
  bar_listener_ = std::move(listener);
  if (bar_listener_ == nullptr) return;
  for (const PciBar& bar : told_bars_) {
    if (bar.decoded) bar_listener_(bar);
  }
}

absl::Status VirtioPci::PlaceBar(int bar, uint64_t address) {
  Entry entry(*this);
  absl::Status placed = space_.PlaceBar(bar, address);
  UpdateBars();
  return placed;
}

void VirtioPci::BarRead(int bar, uint64_t offset, std::span<std::byte> to) {
  Entry entry(*this);
  ReadBar(bar, offset, to);
}

void VirtioPci::BarWrite(int bar, uint64_t offset, std::span<const std::byte> from) {
  // Without the lock: another vCPU may hold it for as long as a backend takes to stop.
  if (bar == Layout::kVirtioBar && offset >= Layout::kNotifyOffset) {
    const uint64_t at = offset - Layout::kNotifyOffset;
    if (at % Layout::kNotifyStride == 0) notifiers_.Notify(at / Layout::kNotifyStride);
    return;
  }
  if (bar == Layout::kLegacyBar && offset == kernel_abi::kPciLegacyQueueNotify &&
      from.size() == kLegacyNotifyBytes) {
    if (HasLegacy(layout_.form)) legacy_notifiers_.Notify(LoadLittleEndian(from));
    return;
  }
  Entry entry(*this);
  WriteBar(bar, offset, from);
}

void VirtioPci::ReadBar(int bar, uint64_t offset, std::span<std::byte> to) {
  std::ranges::fill(to, std::byte{0});
  if (bar == Layout::kMsixBar) {
    if (offset < layout_.pending_offset) {
      msix_.table().Read(offset, to);
    } else {
      msix_.ReadPending(offset - layout_.pending_offset, to);
    }
    return;
  }
  if (bar == Layout::kLegacyBar && HasLegacy(layout_.form)) {
    legacy_.Read(offset, to);
    return;
  }
  if (bar != Layout::kVirtioBar || to.empty() || !HasModern(layout_.form)) return;
  if (offset >= Layout::kNotifyOffset) return;  // Notify registers read as 0.
  if (offset >= Layout::kDeviceOffset) {
    device_.ReadConfig(static_cast<uint32_t>(offset - Layout::kDeviceOffset), to);
  } else if (offset == Layout::kIsrOffset) {
    to[0] = std::byte{intx_.ReadIsr()};
  } else if (offset < Layout::kIsrOffset) {
    common_.Read(offset - Layout::kCommonOffset, to);
  }
}

void VirtioPci::WriteBar(int bar, uint64_t offset, std::span<const std::byte> from) {
  if (bar == Layout::kMsixBar) {
    if (const std::optional<uint16_t> vector = msix_.table().Write(offset, from)) {
      msix_.Refresh(*vector);
    }
    return;
  }
  if (bar == Layout::kLegacyBar && HasLegacy(layout_.form)) {
    legacy_.Write(offset, from);
    return;
  }
  if (bar != Layout::kVirtioBar || !HasModern(layout_.form)) return;
  if (offset >= Layout::kNotifyOffset) {
    const uint64_t at = offset - Layout::kNotifyOffset;
    if (at % Layout::kNotifyStride == 0) notifiers_.Notify(at / Layout::kNotifyStride);
  } else if (offset >= Layout::kDeviceOffset) {
    device_.WriteConfig(static_cast<uint32_t>(offset - Layout::kDeviceOffset), from);
  } else if (offset < Layout::kIsrOffset) {
    common_.Write(offset - Layout::kCommonOffset, from);
  }
}

std::optional<uint32_t> VirtioPci::WindowBytes(uint32_t offset, size_t size) const {
  if (capabilities_.window == 0) return std::nullopt;
  const uint32_t data = capabilities_.window + kWindowData;
  if (offset >= data + 4 || uint64_t{offset} + size <= data) return std::nullopt;
  // The length must be 1, 2 or 4, and the offset a multiple of it (4.1.4.9.2); a driver that dumps
  // configuration space finds length 0, and reads nothing by accident.
  const uint64_t length = space_.Load(capabilities_.window + kWindowLength, 4);
  const uint64_t at = space_.Load(capabilities_.window + kWindowOffset, 4);
  if ((length != 1 && length != 2 && length != 4) || at % length != 0) return std::nullopt;
  return static_cast<uint32_t>(length);
}

void VirtioPci::ReadWindow(uint32_t offset, size_t size) {
  const std::optional<uint32_t> length = WindowBytes(offset, size);
  if (!length.has_value()) return;
  const uint32_t window = capabilities_.window;
  std::array<std::byte, 4> data{};
  const std::span<std::byte> bytes = std::span(data).first(*length);
  ReadBar(static_cast<int>(space_.Load(window + kWindowBar, 1)),
          space_.Load(window + kWindowOffset, 4), bytes);
  space_.Store(window + kWindowData, *length, LoadLittleEndian(bytes));
}

void VirtioPci::WriteWindow(uint32_t offset, size_t size) {
  const std::optional<uint32_t> length = WindowBytes(offset, size);
  if (!length.has_value()) return;
  const uint32_t window = capabilities_.window;
  std::array<std::byte, 4> data{};
  const std::span<std::byte> bytes = std::span(data).first(*length);
  StoreLittleEndian(bytes, space_.Load(window + kWindowData, *length));
  WriteBar(static_cast<int>(space_.Load(window + kWindowBar, 1)),
           space_.Load(window + kWindowOffset, 4), bytes);
}

void VirtioPci::WriteStatus(uint8_t status) {
  device_.WriteStatus(status);
  if (status == 0) ResetTransport();
  UpdateIntx();
}

void VirtioPci::WriteLegacyStatus(uint8_t status) {
  device_.WriteLegacyStatus(status);
  if (status == 0) ResetTransport();
  UpdateIntx();
}

void VirtioPci::ResetQueue(int queue) {
  device_.ResetQueue(queue);
  msix_.SetVector(queue, kNoVector);
}

uint16_t VirtioPci::vector(int source) const { return msix_.vector(source); }

void VirtioPci::SetVector(int source, uint16_t vector) { msix_.SetVector(source, vector); }

void VirtioPci::ResetTransport() {
  common_.Reset();
  legacy_.Reset();
  // Forgets signals that nobody has taken: the device must not interrupt for what was before the
  // reset.
  msix_.Reset();
  intx_.Reset();
}

void VirtioPci::Reset() {
  Entry entry(*this);
  device_.WriteStatus(0);
  ResetTransport();
  msix_.table().Reset();
  space_.Reset();
  UpdateMsix();
  UpdateIntx();
  UpdateBars();
}

void VirtioPci::UpdateMsix() {
  if (capabilities_.msix == 0) return;
  const bool was_enabled = msix_.table().enabled();
  const uint16_t control = static_cast<uint16_t>(space_.Load(capabilities_.msix + kMsixControl, 2));
  if (!msix_.table().set_control(control)) return;
  // The line must have fallen silent before messages are sent, or its watches take their signals.
  if (!was_enabled) UpdateIntx();
  msix_.RefreshAll();
}

void VirtioPci::UpdateIntx() {
  intx_.SetDisabled((space_.command() & pci_command::kInterruptDisable) != 0);
  const bool active =
      !msix_.table().enabled() && (device_.status() & device_status::kDriverOk) != 0;
  Intx::Watches ended = intx_.SetActive(active, [this](size_t event_fd) {
    Entry entry(*this);
    intx_.Signalled(event_fd);
  });
  std::ranges::move(ended, std::back_inserter(ended_watches_));
}

void VirtioPci::UpdateBars() {
  const std::vector<PciBar> bars = space_.bars();
  for (size_t i = 0; i < bars.size(); ++i) {
    const PciBar& bar = bars[i];
    PciBar& told = told_bars_[i];
    // While a guest sizes a BAR with decoding on, it stays where it was.
    const bool being_sized = !bar.address.has_value();
    if (being_sized && space_.enabled(bar)) continue;
    const bool changed =
        bar.decoded != told.decoded || (bar.decoded && bar.address != told.address);
    told = bar;
    if (changed && bar_listener_ != nullptr) bar_listener_(bar);
    if (!being_sized) UpdateNotifiers(bar);
  }
}

void VirtioPci::UpdateNotifiers(const PciBar& bar) {
  const bool legacy = bar.index == Layout::kLegacyBar;
  if (!legacy && bar.index != Layout::kVirtioBar) return;
  QueueNotifiers& notifiers = legacy ? legacy_notifiers_ : notifiers_;
  NotifyAddress address{.space = NotifyAddress::Space::kMmio,
                        .address = *bar.address + Layout::kNotifyOffset,
                        .length = 0};
  if (legacy) {
    // One port for all queues: the number that is written tells which.
    address = {.space = NotifyAddress::Space::kPio,
               .address = *bar.address + kernel_abi::kPciLegacyQueueNotify,
               .length = kLegacyNotifyBytes,
               .datamatch = 0};
  }
  // Decoding that comes and goes leaves the ioeventfds; another address takes them away at once,
  // before somebody else's BAR can be there.
  if (notifiers.address().has_value() && notifiers.address() != address.address) {
    notifiers.Unbind();
  }
  if (bar.decoded) notifiers.BindAt(address, legacy ? 0 : Layout::kNotifyStride);
}

DeviceReport VirtioPci::Report() const {
  DeviceReport report = device_.Report();
  report.wiring = DescribeWiring();
  return report;
}

std::vector<WiringReport> VirtioPci::DescribeWiring() const {
  absl::MutexLock lock(&mutex_);
  std::vector<WiringReport> rows;
  if (HasModern(layout_.form)) notifiers_.Describe("notify", rows);
  if (HasLegacy(layout_.form)) legacy_notifiers_.Describe("legacy notify", rows);
  msix_.Describe(rows);
  intx_.Describe(rows);
  return rows;
}

}  // namespace vhost
