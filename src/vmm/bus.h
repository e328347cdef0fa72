// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// An address space as the vCPUs reach it: I/O ports are one Bus, memory that is not RAM is another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace vmm {

// What answers accesses to a range of addresses. An access has 1, 2, 4 or 8 bytes, little-endian,
// and stays inside the range. Calls come from all vCPU threads, at the same time.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  virtual void Read(uint64_t offset, std::span<std::byte> data) = 0;
  virtual void Write(uint64_t offset, std::span<const std::byte> data) = 0;
};

// Thread-safe. A device is called without the lock that the ranges have, so that it may insert and
// remove ranges (a PCI function whose BAR moves) and may take its time. It must live until
// WaitForCalls has returned after its last range was removed.
class Bus {
 public:
  // Lends `device` the addresses [base, base + size). ALREADY_EXISTS names who has them now.
  absl::Status Insert(absl::string_view name, uint64_t base, uint64_t size, BusDevice& device);
  // Takes back the range that starts at `base`; nothing happens where there is none.
  void Remove(uint64_t base);
  // Returns when all calls of devices that were under way are over. Not from such a call.
  void WaitForCalls() ABSL_LOCKS_EXCLUDED(calls_);

  // Where nobody answers, reads give all ones and writes are lost, as on a PC. Says whether
  // somebody answered.
  bool Read(uint64_t address, std::span<std::byte> data);
  bool Write(uint64_t address, std::span<const std::byte> data);

 private:
  struct Range {
    uint64_t size;
    BusDevice* device;
    std::string name;
  };
  // The device of an access, with its offset there; null where nobody has all of its bytes.
  BusDevice* Find(uint64_t address, uint64_t size, uint64_t* offset);

  absl::Mutex calls_;  // read-locked during calls; before mutex_
  absl::Mutex mutex_;
  std::map<uint64_t, Range> ranges_ ABSL_GUARDED_BY(mutex_);  // by base
};

}  // namespace vmm
