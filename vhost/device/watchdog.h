// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The timer behind the watching over queues (stall_detector.h): one for all devices of a control
// plane, on the event loop, so that a host of quiet devices wakes up once in a period.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/event_loop.h"
#include "vhost/offload.h"

namespace vhost {

class Watchdog {
 public:
  // `loop` must outlive it. RESOURCE_EXHAUSTED: no timer to be had.
  static absl::StatusOr<std::unique_ptr<Watchdog>> Create(EventLoop& loop,
                                                          const WatchdogOptions& options);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  const WatchdogOptions& options() const { return options_; }

  // Calls `look` every period on the loop's thread, until the registration ends; when that returns
  // it is not running. Any thread, but not from `look`, nor with a lock held that one takes. The
  // timer runs while there is a registration.
  class Registration;
  std::unique_ptr<Registration> Register(std::function<void()> look);

 private:
  Watchdog(kernel_abi::UniqueFd timer, const WatchdogOptions& options)
      : options_(options), timer_(std::move(timer)) {}
  void OnTimer();
  void SetTimer(bool runs);

  const WatchdogOptions options_;
  const kernel_abi::UniqueFd timer_;
  absl::Mutex mutex_;  // held while they are called
  std::map<const Registration*, std::function<void()>> looks_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Watch> watch_;  // the last member: it ends first
};

class Watchdog::Registration {
 public:
  explicit Registration(Watchdog& watchdog) : watchdog_(watchdog) {}
  ~Registration();
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

 private:
  Watchdog& watchdog_;
};

}  // namespace vhost
