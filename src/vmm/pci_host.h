// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "src/vmm/bar_window.h"
#include "src/vmm/bus.h"
#include "src/vmm/layout.h"
#include "src/vmm/power.h"
#include "vhost/transport/pci_function.h"

namespace vmm {

// PCI bus 0: configuration mechanism 1 (an address and a data register at 0xCF8 and 0xCFC), the
// windows of memory and of ports in which BARs are, and, at a port in the middle of those, the
// machine's reset register. There is no firmware, so it is the host that gives BARs their first
// addresses.
//
// Functions are added and removed one at a time, the guest running or not; what the guest does
// comes from all vCPU threads meanwhile.
class PciHost final : public BusDevice {
 public:
  static constexpr uint32_t kSlots = 32;

  // Functions answer on `memory` and `ports` where their BARs are. All outlive the host.
  PciHost(Bus& memory, Bus& ports, PowerSwitch& power);
  ~PciHost() override;

  // A slot that is free: `wanted`, or the next. Slot 0 is the host bridge. The caller then makes
  // the function, which may need to know its interrupt (IntxGsi), and adds it.
  absl::StatusOr<uint32_t> FreeSlot(std::optional<uint32_t> wanted) const;
  // Function 0 of `slot`; must outlive the host or be taken off by Remove.
  absl::Status Add(uint32_t slot, std::string name, vhost::PciFunction& function);
  // The guest does not find the function any more, although calls of it may be under way. The slot
  // stays taken. Any thread. False: there is nothing to hide.
  bool Hide(uint32_t slot) ABSL_LOCKS_EXCLUDED(mutex_);
  // The slot is free. While the guest runs: Hide first, then Bus::WaitForCalls of both buses.
  void Remove(uint32_t slot) ABSL_LOCKS_EXCLUDED(mutex_);

  // The machine is reset: all functions are, and their BARs are where Add put them.
  void Reset();

  // The ports.
  void Read(uint64_t offset, std::span<std::byte> data) override;
  void Write(uint64_t offset, std::span<const std::byte> data) override;

 private:
  // Where BARs of one kind are.
  struct Space {
    Bus& bus;
    uint64_t start;
    uint64_t end;
  };
  // The function that the address register selects, with the offset in its space of `data_offset`
  // bytes into the data register. Null if there is none.
  vhost::PciFunction* Selected(uint64_t data_offset, uint32_t* config_offset)
      ABSL_LOCKS_EXCLUDED(mutex_);

  struct Slot {
    struct Placed {
      const Space* space;
      uint64_t address;
      uint64_t size;
    };
    // Whoever adds or removes the function alone uses them.
    std::vector<std::unique_ptr<BarWindow>> windows;
    // Guarded by mutex_.
    vhost::PciFunction* function = nullptr;
    bool hidden = false;
    std::vector<Placed> placed;  // where BARs are after a reset
  };

  // The first that is free for `size` bytes; may be beyond the end.
  uint64_t FreeAddress(const Space& space, uint64_t size) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status PlaceBars(Slot& slot, vhost::PciFunction& function, const std::string& name)
      ABSL_LOCKS_EXCLUDED(mutex_);
  Space& SpaceOf(const vhost::PciBar& bar) { return bar.is_io ? ports_ : memory_; }

  Space memory_;
  Space ports_;
  PowerSwitch& power_;
  BarWindows windows_;
  std::unique_ptr<vhost::PciFunction> bridge_;
  std::array<Slot, kSlots> slots_;
  mutable absl::Mutex mutex_;
  uint32_t address_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm
