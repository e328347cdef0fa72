// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/intx.h"

#include <utility>

#include "kernel-abi/event_fd.h"

namespace vhost {

Intx::Intx(kernel_abi::Kernel& kernel, Wiring& wiring, EventLoop& loop, std::optional<uint32_t> gsi,
           std::vector<int> event_fds)
    : kernel_(kernel), wiring_(wiring), loop_(loop), gsi_(gsi), event_fds_(std::move(event_fds)) {}

Intx::~Intx() {
  pending_ = false;
  UpdateLine();
}

Intx::Watches Intx::SetActive(bool active, const std::function<void(size_t)>& signalled) {
  if (!gsi_.has_value() || active == this->active()) return {};
  problem_.clear();
  if (!active) {
    pending_ = false;
    UpdateLine();
    return std::exchange(watches_, {});
  }
  for (size_t i = 0; i < event_fds_.size(); ++i) {
    absl::StatusOr<std::unique_ptr<Watch>> watch =
        loop_.WatchReadable(event_fds_[i], [signalled, i] { signalled(i); });
    if (!watch.ok()) {
      problem_ = std::string(watch.status().message());
      continue;
    }
    watches_.push_back(*std::move(watch));
  }
  return {};
}

void Intx::Signalled(size_t event_fd) {
  // Called late, after the watch was given up: the signal belongs to whoever listens now.
  if (!active()) return;
  const bool is_config = event_fd + 1 == event_fds_.size();
  if (!kernel_abi::EventFd::DrainEventFd(kernel_, event_fds_[event_fd])) return;
  if (!is_config) isr_.fetch_or(kIsrQueue, std::memory_order_relaxed);
  // A driver that read the configuration bit before this came here has its interrupt already.
  if (isr_.load(std::memory_order_acquire) == 0) return;
  pending_ = true;
  UpdateLine();
}

void Intx::SetDisabled(bool disabled) {
  disabled_ = disabled;
  UpdateLine();
}

uint8_t Intx::ReadIsr() {
  const uint8_t isr = isr_.exchange(0, std::memory_order_acq_rel);
  pending_ = false;
  UpdateLine();
  return isr;
}

void Intx::Reset() {
  isr_.store(0, std::memory_order_relaxed);
  pending_ = false;
  UpdateLine();
}

void Intx::UpdateLine() {
  const bool raise = pending_ && !disabled_;
  if (!gsi_.has_value() || raise == raised_) return;
  if (absl::Status set = wiring_.SetLine(*gsi_, this, raise); set.ok()) {
    raised_ = raise;
  } else {
    problem_ = std::string(set.message());
  }
}

void Intx::Describe(std::vector<WiringReport>& rows) const {
  if (!gsi_.has_value()) return;
  WiringReport row;
  row.what = "intx";
  row.how = active() ? "thread" : "none";
  row.gsi = gsi_;
  row.masked = disabled_;
  row.pending = pending_;
  row.problem = problem_;
  rows.push_back(std::move(row));
}

}  // namespace vhost
