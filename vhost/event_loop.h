// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where the library waits. A VMM that has an event loop of its own implements EventLoop with it;
// one that has none makes an EpollLoop (epoll_loop.h), which owns a thread. No data path runs here:
// only the control socket, vring errors, control queues, and interrupts that no irqfd can deliver.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"

namespace vhost {

// A registration that ends with its object.
class Watch {
 public:
  // Once it returns, the callback is not running and will not run again, unless it is the callback
  // itself that destroys its watch. So never destroy one with a lock held that the callback takes.
  // No other callback is waited for: one of them may want a lock that is held here.
  virtual ~Watch() = default;
};

class EventLoop {
 public:
  virtual ~EventLoop() = default;
  // Calls `ready` on the loop's thread whenever `fd` is readable, hung up or in error (level
  // triggered: `ready` drains it). The fd is lent until the watch is gone. Any thread may call,
  // with locks held that callbacks take: it must not wait for one of them.
  virtual absl::StatusOr<std::unique_ptr<Watch>> WatchReadable(int fd,
                                                               std::function<void()> ready) = 0;
};

}  // namespace vhost
