// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/bar_window.h"

#include <utility>

namespace vmm {

void BarWindows::Move(BarWindow& window, std::optional<uint64_t> base) {
  absl::MutexLock lock(&mutex_);
  if (window.wanted_ == base) return;
  Take(window);
  window.wanted_ = base;
  // In the order in which they were made, so that it does not matter who moved first.
  TryAll();
}

void BarWindows::Add(BarWindow& window) {
  absl::MutexLock lock(&mutex_);
  windows_.push_back(&window);
}

void BarWindows::Remove(BarWindow& window) {
  absl::MutexLock lock(&mutex_);
  Take(window);
  std::erase(windows_, &window);
  TryAll();
}

void BarWindows::Take(BarWindow& window) {
  if (std::exchange(window.answers_, false)) window.bus_.Remove(*window.wanted_);
}

void BarWindows::TryAll() {
  for (BarWindow* window : windows_) {
    if (!window->wanted_.has_value() || window->answers_) continue;
    window->answers_ =
        window->bus_.Insert(window->name_, *window->wanted_, window->size_, *window).ok();
  }
}

BarWindow::BarWindow(BarWindows& windows, Bus& bus, std::string name, vhost::PciFunction& function,
                     const vhost::PciBar& bar)
    : windows_(windows),
      bus_(bus),
      name_(std::move(name)),
      function_(function),
      bar_(bar.index),
      size_(bar.size) {
  windows_.Add(*this);
}

BarWindow::~BarWindow() { windows_.Remove(*this); }

}  // namespace vmm
