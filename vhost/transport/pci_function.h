// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A PCI function as a VMM's PCI host drives it. The host needs five things:
//
//   1. ConfigRead and ConfigWrite for accesses to the function's configuration space,
//   2. SetBarListener, to learn at which guest addresses (or ports) the function answers,
//   3. BarRead and BarWrite for accesses there,
//   4. PlaceBar, if it is the VMM that gives addresses to BARs (where there is no firmware),
//   5. Reset, when the machine is reset.
//
// Thread safety: any thread; vCPU threads call at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace vhost {

// A base address register, or the pair that a 64-bit one takes.
struct PciBar {
  int index = 0;       // of its (first) register
  uint64_t size = 0;   // bytes, a power of two
  bool is_io = false;  // in I/O space (ports), not in memory space
  bool is_64bit = false;
  bool prefetchable = false;
  // What the register holds; 0 if it was given no address. None while it holds all ones, which asks
  // for its size: some guests do that with decoding on, and nothing may move for it.
  std::optional<uint64_t> address = 0;
  // It has an address, and the enable bit of its space is set in the command.
  bool decoded = false;

  friend bool operator==(const PciBar&, const PciBar&) = default;
};

class PciFunction {
 public:
  virtual ~PciFunction() = default;

  // Configuration space, 256 bytes; any size. Beyond it reads give all ones.
  virtual void ConfigRead(uint32_t offset, std::span<std::byte> to) = 0;
  virtual void ConfigWrite(uint32_t offset, std::span<const std::byte> from) = 0;

  virtual std::vector<PciBar> bars() const = 0;
  // Whom to tell when `decoded`, or the address of a decoded BAR, changed. Called by the thread
  // that changed it with the function's lock held, so that changes come in order: it must not call
  // the function. BARs that are decoded already are told at once. Set before the guest runs.
  using BarListener = std::function<void(const PciBar& bar)>;
  virtual void SetBarListener(BarListener listener) = 0;

  // Accesses of the guest, `offset` bytes into a BAR. What is outside of it reads as 0.
  virtual void BarRead(int bar, uint64_t offset, std::span<std::byte> to) = 0;
  virtual void BarWrite(int bar, uint64_t offset, std::span<const std::byte> from) = 0;

  // Gives a BAR its address, as firmware would; it keeps it over a Reset. INVALID_ARGUMENT: no such
  // BAR, not a multiple of its size, or beyond 4 GiB for a 32-bit one.
  virtual absl::Status PlaceBar(int bar, uint64_t address) = 0;

  // As after power-on, BARs back where PlaceBar put them. When it returns the device is silent.
  virtual void Reset() = 0;
};

}  // namespace vhost
