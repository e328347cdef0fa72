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

PciHost::PciHost(Bus& memory, Bus& ports, PowerSwitch& power)
    : memory_{.bus = memory, .start = kBarWindowStart, .end = kBarWindowStart + kBarWindowSize},
      ports_{.bus = ports, .start = kBarPortsStart, .end = kBarPortsStart + kBarPorts},
      power_(power),
      bridge_(std::make_unique<HostBridge>()) {
  slots_[0].function = bridge_.get();
}

PciHost::~PciHost() {
  for (uint32_t slot = 0; slot < kSlots; ++slot) Remove(slot);
}

absl::StatusOr<uint32_t> PciHost::FreeSlot(std::optional<uint32_t> wanted) const {
  absl::MutexLock lock(&mutex_);
  for (uint32_t slot = wanted.value_or(0); slot < kSlots; ++slot) {
    if (slots_[slot].function == nullptr) return slot;
    if (wanted.has_value()) break;
  }
  return absl::ResourceExhaustedError(
      wanted.has_value() ? absl::StrFormat("PCI slot %d is taken", *wanted)
                         : std::string("no PCI slot is left on bus 0 (31 devices)"));
}

absl::Status PciHost::Add(uint32_t slot, std::string name, vhost::PciFunction& function) {
  Slot& taken = slots_.at(slot);
  if (absl::Status status = PlaceBars(taken, function, name); !status.ok()) return status;
  for (const vhost::PciBar& bar : function.bars()) {
    taken.windows.push_back(std::make_unique<BarWindow>(
        windows_, SpaceOf(bar).bus, absl::StrFormat("%s BAR %d", name, bar.index), function, bar));
  }
  function.SetBarListener([this, &taken](const vhost::PciBar& bar) {
    for (const std::unique_ptr<BarWindow>& window : taken.windows) {
      if (window->bar() != bar.index) continue;
      windows_.Move(*window, bar.decoded ? bar.address : std::nullopt);
    }
  });
  absl::MutexLock lock(&mutex_);
  taken.function = &function;
  taken.hidden = false;
  return absl::OkStatus();
}

bool PciHost::Hide(uint32_t slot) {
  Slot& left = slots_.at(slot);
  vhost::PciFunction* function = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (left.function == nullptr || left.function == bridge_.get() || left.hidden) return false;
    left.hidden = true;
    function = left.function;
  }
  function->SetBarListener(nullptr);
  for (const std::unique_ptr<BarWindow>& window : left.windows) {
    windows_.Move(*window, std::nullopt);
  }
  return true;
}

void PciHost::Remove(uint32_t slot) {
  Hide(slot);
  Slot& left = slots_.at(slot);
  left.windows.clear();
  absl::MutexLock lock(&mutex_);
  left.placed.clear();
  left.function = nullptr;
}

uint64_t PciHost::FreeAddress(const Space& space, uint64_t size) const {
  uint64_t address = (space.start + size - 1) / size * size;
  // Each round gets past one BAR at least, so it ends.
  for (bool again = true; again;) {
    again = false;
    for (const Slot& slot : slots_) {
      for (const Slot::Placed& other : slot.placed) {
        if (other.space != &space || other.address + other.size <= address ||
            address + size <= other.address) {
          continue;
        }
        address = (other.address + other.size + size - 1) / size * size;
        again = true;
      }
    }
  }
  return address;
}

absl::Status PciHost::PlaceBars(Slot& slot, vhost::PciFunction& function, const std::string& name) {
  // The biggest first: each is at a multiple of its size, and so there are no gaps within one
  // function.
  std::vector<vhost::PciBar> bars = function.bars();
  std::ranges::sort(bars, [](const auto& a, const auto& b) { return a.size > b.size; });
  absl::MutexLock lock(&mutex_);
  for (const vhost::PciBar& bar : bars) {
    Space& space = SpaceOf(bar);
    const uint64_t address = FreeAddress(space, bar.size);
    absl::Status status = function.PlaceBar(bar.index, address);
    if (address + bar.size > space.end) {
      status = absl::ResourceExhaustedError(
          absl::StrFormat("no room for BAR %d of %#x %s", bar.index, bar.size,
                          bar.is_io ? "I/O ports" : "bytes below 4 GiB"));
    }
    if (!status.ok()) {
      slot.placed.clear();
      return kernel_abi::AddContext(status, name);
    }
    slot.placed.push_back({.space = &space, .address = address, .size = bar.size});
  }
  return absl::OkStatus();
}

void PciHost::Reset() {
  std::vector<vhost::PciFunction*> functions;
  {
    absl::MutexLock lock(&mutex_);
    address_ = 0;
    for (const Slot& slot : slots_) {
      if (slot.function != nullptr && !slot.hidden) functions.push_back(slot.function);
    }
  }
  for (vhost::PciFunction* function : functions) function->Reset();
}

vhost::PciFunction* PciHost::Selected(uint64_t data_offset, uint32_t* config_offset) {
  absl::MutexLock lock(&mutex_);
  const uint32_t bus = address_ >> 16 & 0xFF;
  const uint32_t slot = address_ >> 11 & 0x1F;
  const uint32_t function = address_ >> 8 & 7;
  if ((address_ & kEnable) == 0 || bus != 0 || function != 0) return nullptr;
  *config_offset = (address_ & 0xFC) + static_cast<uint32_t>(data_offset);
  return slots_[slot].hidden ? nullptr : slots_[slot].function;
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
