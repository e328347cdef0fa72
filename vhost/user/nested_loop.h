// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/event_loop.h"

namespace vhost::user {

// An EventLoop inside one watch of another: all of its callbacks run there, one after another. So
// what is built on it has one place where it runs, and is at rest once that one watch has ended:
// its parts can then be destroyed by any thread, in any order.
//
// Thread safety: none. After Start, only callbacks use it, until Stop has returned.
class NestedLoop final : public EventLoop {
 public:
  static absl::StatusOr<std::unique_ptr<NestedLoop>> Create();
  // All of its watches must have ended.
  ~NestedLoop() override = default;

  // From now on, callbacks run in `outer`, which must outlive this or its Stop.
  absl::Status Start(EventLoop& outer);
  // When it returns, no callback runs or will. Not from within one.
  void Stop() { outer_watch_.reset(); }

  absl::StatusOr<std::unique_ptr<Watch>> WatchReadable(int fd,
                                                       std::function<void()> ready) override;

 private:
  class NestedWatch;
  struct Entry {
    int fd;                          // lent
    kernel_abi::UniqueFd duplicate;  // watched in its place when `fd` is watched already
    std::shared_ptr<const std::function<void()>> ready;
  };

  explicit NestedLoop(kernel_abi::UniqueFd epoll) : epoll_(std::move(epoll)) {}
  void Dispatch();
  void Forget(uint64_t id);

  const kernel_abi::UniqueFd epoll_;
  std::map<uint64_t, Entry> entries_;
  uint64_t next_id_ = 1;
  std::unique_ptr<Watch> outer_watch_;
};

}  // namespace vhost::user
