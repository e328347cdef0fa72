// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Carries events from devices, which post them with their locks held, to an observer, which is
// called on the event loop's thread with no lock held: it may call the devices and the control
// plane, and must not block for long. One relay serves many devices.
//
// Events arrive in the order in which they were posted. A driver can cause as many as it likes:
// when kMostPending wait, the oldest is dropped, and the next that arrives says how many were.
//
// Thread safety: any thread posts. The relay must outlive the devices that post to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "vhost/device_event.h"
#include "vhost/event_loop.h"

namespace vhost {

class EventRelay {
 public:
  static constexpr size_t kMostPending = 1024;
  // `dropped`: events that were posted before this one and never delivered.
  using Observer = std::function<void(const DeviceEvent& event, uint64_t dropped)>;

  // `kernel` and `loop` must outlive it. RESOURCE_EXHAUSTED: no eventfd.
  static absl::StatusOr<std::unique_ptr<EventRelay>> Create(kernel_abi::Kernel& kernel,
                                                            EventLoop& loop, Observer observer);
  EventRelay(const EventRelay&) = delete;
  EventRelay& operator=(const EventRelay&) = delete;

  void Post(DeviceEvent event);

 private:
  EventRelay(kernel_abi::EventFd wake, Observer observer)
      : wake_(std::move(wake)), observer_(std::move(observer)) {}
  void Deliver();

  const kernel_abi::EventFd wake_;
  const Observer observer_;
  absl::Mutex mutex_;
  std::deque<DeviceEvent> pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<Watch> watch_;  // the last member: it ends first
};

}  // namespace vhost
