// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/pci_host.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "vhost/transport/pci_config_space.h"
#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

constexpr uint32_t kAddressOffset = 0;
constexpr uint64_t kDataOffset = 4;
constexpr uint64_t kResetOffset = kResetPort - kPciConfigPort;
constexpr uint32_t kEnable = 1U << 31;

// What a bus must have at its beginning for a kernel to believe in it: a host bridge (QEMU's
// identity for one without any function of its own).
class HostBridge final : public vhost::PciFunction {
 public:
  HostBridge() : space_({.vendor = 0x1B36, .device = 0x0008, .class_code = 0x06'0000}) {}

  void ConfigRead(uint32_t offset, std::span<std::byte> to) override {
    absl::MutexLock lock(&mutex_);
    space_.Read(offset, to);
  }
  void ConfigWrite(uint32_t offset, std::span<const std::byte> from) override {
    absl::MutexLock lock(&mutex_);
    space_.Write(offset, from);
  }
  std::vector<vhost::PciBar> bars() const override { return {}; }
  void SetBarListener(BarListener) override {}
  void BarRead(int, uint64_t, std::span<std::byte>) override {}
  void BarWrite(int, uint64_t, std::span<const std::byte>) override {}
  absl::Status PlaceBar(int, uint64_t) override {
    return absl::InvalidArgumentError("the host bridge has no BARs");
  }
  void Reset() override {
    absl::MutexLock lock(&mutex_);
    space_.Reset();
  }

 private:
  absl::Mutex mutex_;
  vhost::PciConfigSpace space_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

class PciHost::BarWindow final : public BusDevice {
 public:
  BarWindow(Bus& memory, std::string name, vhost::PciFunction& function, int bar)
      : memory_(memory), name_(std::move(name)), function_(function), bar_(bar) {}
  ~BarWindow() override { Move(std::nullopt, 0); }

  int bar() const { return bar_; }
  // Called with the function's lock held, one at a time. A BAR that the guest puts where something
  // else is answers nowhere.
  void Move(std::optional<uint64_t> base, uint64_t size) {
    if (base_.has_value()) memory_.Remove(*base_);
    base_.reset();
    if (base.has_value() && memory_.Insert(name_, *base, size, *this).ok()) base_ = base;
  }

  void Read(uint64_t offset, std::span<std::byte> data) override {
    function_.BarRead(bar_, offset, data);
  }
  void Write(uint64_t offset, std::span<const std::byte> data) override {
    function_.BarWrite(bar_, offset, data);
  }

 private:
  Bus& memory_;
  const std::string name_;
  vhost::PciFunction& function_;
  const int bar_;
  std::optional<uint64_t> base_;  // where it is on the bus
};

PciHost::PciHost(Bus& memory, PowerSwitch& power)
    : memory_(memory), power_(power), bridge_(std::make_unique<HostBridge>()) {
  slots_[0].function = bridge_.get();
}

PciHost::~PciHost() {
  for (uint32_t slot = 0; slot < kSlots; ++slot) Remove(slot);
}

absl::StatusOr<uint32_t> PciHost::FreeSlot(std::optional<uint32_t> wanted) const {
  for (uint32_t slot = wanted.value_or(0); slot < kSlots; ++slot) {
    if (slots_[slot].function == nullptr) return slot;
    if (wanted.has_value()) break;
  }
  return absl::ResourceExhaustedError(
      wanted.has_value() ? absl::StrFormat("PCI slot %d is taken", *wanted)
                         : std::string("no PCI slot is left on bus 0 (31 devices)"));
}

absl::Status PciHost::Add(uint32_t slot, std::string name, vhost::PciFunction& function) {
  if (absl::Status status = PlaceBars(function, name); !status.ok()) return status;
  Slot& taken = slots_.at(slot);
  taken.function = &function;
  for (const vhost::PciBar& bar : function.bars()) {
    taken.windows.push_back(std::make_unique<BarWindow>(
        memory_, absl::StrFormat("%s BAR %d", name, bar.index), function, bar.index));
  }
  function.SetBarListener([&taken](const vhost::PciBar& bar) {
    for (const std::unique_ptr<BarWindow>& window : taken.windows) {
      if (window->bar() == bar.index) {
        window->Move(bar.decoded ? bar.address : std::nullopt, bar.size);
      }
    }
  });
  return absl::OkStatus();
}

void PciHost::Remove(uint32_t slot) {
  Slot& left = slots_.at(slot);
  if (left.function != nullptr) left.function->SetBarListener(nullptr);
  left.windows.clear();
  left.function = nullptr;
}

absl::Status PciHost::PlaceBars(vhost::PciFunction& function, const std::string& name) {
  // The biggest first: each is at a multiple of its size, and so there are no gaps within one
  // function.
  std::vector<vhost::PciBar> bars = function.bars();
  std::ranges::sort(bars, [](const auto& a, const auto& b) { return a.size > b.size; });
  for (const vhost::PciBar& bar : bars) {
    const uint64_t address = (next_bar_ + bar.size - 1) / bar.size * bar.size;
    if (address + bar.size > kBarWindowStart + kBarWindowSize) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s: no room for BAR %d of %#x bytes below 4 GiB", name, bar.index, bar.size));
    }
    absl::Status status = function.PlaceBar(bar.index, address);
    if (!status.ok()) return kernel_abi::AddContext(status, name);
    next_bar_ = address + bar.size;
  }
  return absl::OkStatus();
}

void PciHost::Reset() {
  {
    absl::MutexLock lock(&mutex_);
    address_ = 0;
  }
  for (Slot& slot : slots_) {
    if (slot.function != nullptr) slot.function->Reset();
  }
}

vhost::PciFunction* PciHost::Selected(uint64_t data_offset, uint32_t* config_offset) {
  absl::MutexLock lock(&mutex_);
  const uint32_t bus = address_ >> 16 & 0xFF;
  const uint32_t slot = address_ >> 11 & 0x1F;
  const uint32_t function = address_ >> 8 & 7;
  if ((address_ & kEnable) == 0 || bus != 0 || function != 0) return nullptr;
  *config_offset = (address_ & 0xFC) + static_cast<uint32_t>(data_offset);
  return slots_[slot].function;
}

void PciHost::Read(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xFF});
  if (offset == kAddressOffset && data.size() == 4) {
    absl::MutexLock lock(&mutex_);
    vhost::StoreLittleEndian(data, address_);
  } else if (offset == kResetOffset) {
    std::ranges::fill(data, std::byte{0});
  } else if (offset >= kDataOffset) {
    uint32_t config_offset = 0;
    vhost::PciFunction* function = Selected(offset - kDataOffset, &config_offset);
    if (function != nullptr) function->ConfigRead(config_offset, data);
  }
}

void PciHost::Write(uint64_t offset, std::span<const std::byte> data) {
  if (offset == kAddressOffset && data.size() == 4) {
    absl::MutexLock lock(&mutex_);
    address_ = static_cast<uint32_t>(vhost::LoadLittleEndian(data));
  } else if (offset == kResetOffset && data.size() == 1) {
    constexpr uint64_t kResetCpu = 1 << 2;
    if ((vhost::LoadLittleEndian(data) & kResetCpu) != 0) power_.Request(PowerEvent::kReset);
  } else if (offset >= kDataOffset) {
    uint32_t config_offset = 0;
    vhost::PciFunction* function = Selected(offset - kDataOffset, &config_offset);
    if (function != nullptr) function->ConfigWrite(config_offset, data);
  }
}

}  // namespace vmm
