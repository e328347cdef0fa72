// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/watchdog.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "kernel-abi/system_error.h"

namespace vhost {

absl::StatusOr<std::unique_ptr<Watchdog>> Watchdog::Create(EventLoop& loop,
                                                           const WatchdogOptions& options) {
  kernel_abi::UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.valid()) {
    return kernel_abi::MakeSystemError(
        {.error = errno, .subject = "watchdog", .call = "timerfd_create"});
  }
  std::unique_ptr<Watchdog> watchdog(new Watchdog(std::move(timer), options));
  Watchdog* raw = watchdog.get();
  auto watch = loop.WatchReadable(raw->timer_.get(), [raw] { raw->OnTimer(); });
  if (!watch.ok()) return watch.status();
  watchdog->watch_ = *std::move(watch);
  return watchdog;
}

std::unique_ptr<Watchdog::Registration> Watchdog::Register(std::function<void()> look) {
  auto registration = std::make_unique<Registration>(*this);
  absl::MutexLock lock(&mutex_);
  if (looks_.empty()) SetTimer(true);
  looks_.emplace(registration.get(), std::move(look));
  return registration;
}

Watchdog::Registration::~Registration() {
  absl::MutexLock lock(&watchdog_.mutex_);
  watchdog_.looks_.erase(this);
  if (watchdog_.looks_.empty()) watchdog_.SetTimer(false);
}

void Watchdog::SetTimer(bool runs) {
  itimerspec spec{};
  if (runs) {
    spec.it_interval = {.tv_sec = options_.period_ms / 1000,
                        .tv_nsec = (options_.period_ms % 1000) * 1'000'000L};
    spec.it_value = spec.it_interval;
  }
  timerfd_settime(timer_.get(), 0, &spec, nullptr);
}

void Watchdog::OnTimer() {
  uint64_t ticks;
  [[maybe_unused]] const ssize_t count = read(timer_.get(), &ticks, sizeof(ticks));
  absl::MutexLock lock(&mutex_);
  for (const auto& [registration, look] : looks_) look();
}

}  // namespace vhost
