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
#include "src/vmm/bus.h"
#include "src/vmm/layout.h"
#include "src/vmm/power.h"
#include "vhost/transport/pci_function.h"

namespace vmm {

// PCI bus 0: configuration mechanism 1 (an address and a data register at 0xCF8 and 0xCFC), the
// window in which BARs are, and, at a port in the middle of those, the machine's reset register.
// There is no firmware, so it is the host that gives BARs their first addresses.
//
// Functions are added before the guest runs; what the guest does then comes from all vCPU threads.
class PciHost final : public BusDevice {
 public:
  static constexpr uint32_t kSlots = 32;

  // Functions answer on `memory` where their BARs are. Both outlive the host.
  PciHost(Bus& memory, PowerSwitch& power);
  ~PciHost() override;

  // A slot that is free: `wanted`, or the next. Slot 0 is the host bridge. The caller then makes
  // the function, which may need to know its interrupt (IntxGsi), and adds it.
  absl::StatusOr<uint32_t> FreeSlot(std::optional<uint32_t> wanted) const;
  // Function 0 of `slot`; must outlive the host or be taken off by Remove.
  absl::Status Add(uint32_t slot, std::string name, vhost::PciFunction& function);
  void Remove(uint32_t slot);

  // The machine is reset: all functions are, and their BARs are where Add put them.
  void Reset();

  // The ports.
  void Read(uint64_t offset, std::span<std::byte> data) override;
  void Write(uint64_t offset, std::span<const std::byte> data) override;

 private:
  // A BAR on the memory bus.
  class BarWindow;
  struct Slot {
    vhost::PciFunction* function = nullptr;
    std::vector<std::unique_ptr<BarWindow>> windows;
  };

  absl::Status PlaceBars(vhost::PciFunction& function, const std::string& name);
  // The function that the address register selects, with the offset in its space of `data_offset`
  // bytes into the data register. Null if there is none.
  vhost::PciFunction* Selected(uint64_t data_offset, uint32_t* config_offset)
      ABSL_LOCKS_EXCLUDED(mutex_);

  Bus& memory_;
  PowerSwitch& power_;
  std::unique_ptr<vhost::PciFunction> bridge_;
  std::array<Slot, kSlots> slots_;
  uint64_t next_bar_ = kBarWindowStart;
  absl::Mutex mutex_;
  uint32_t address_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm
