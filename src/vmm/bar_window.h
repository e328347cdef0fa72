// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "src/vmm/bus.h"
#include "vhost/transport/pci_function.h"

namespace vmm {

class BarWindow;

// Puts the BARs of all functions on their buses. A BAR that the guest puts where something else is
// answers nowhere, until the other moves.
//
// Thread-safe. Functions call with their lock held.
class BarWindows {
 public:
  // The window is to answer at `base`, or nowhere.
  void Move(BarWindow& window, std::optional<uint64_t> base) ABSL_LOCKS_EXCLUDED(mutex_);
  void Add(BarWindow& window) ABSL_LOCKS_EXCLUDED(mutex_);
  void Remove(BarWindow& window) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Take(BarWindow& window) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TryAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  std::vector<BarWindow*> windows_ ABSL_GUARDED_BY(mutex_);
};

// One BAR, as what answers on a bus.
class BarWindow final : public BusDevice {
 public:
  // All that is lent must outlive the window.
  BarWindow(BarWindows& windows, Bus& bus, std::string name, vhost::PciFunction& function,
            const vhost::PciBar& bar);
  ~BarWindow() override;
  BarWindow(const BarWindow&) = delete;
  BarWindow& operator=(const BarWindow&) = delete;

  int bar() const { return bar_; }

  void Read(uint64_t offset, std::span<std::byte> data) override {
    function_.BarRead(bar_, offset, data);
  }
  void Write(uint64_t offset, std::span<const std::byte> data) override {
    function_.BarWrite(bar_, offset, data);
  }

 private:
  friend class BarWindows;

  BarWindows& windows_;
  Bus& bus_;
  const std::string name_;
  vhost::PciFunction& function_;
  const int bar_;
  const uint64_t size_;
  // Guarded by the lock of windows_.
  std::optional<uint64_t> wanted_;  // where the guest has put it
  bool answers_ = false;            // it is on the bus there
};

}  // namespace vmm
