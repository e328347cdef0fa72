// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <pthread.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/event_loop.h"

namespace vhost {

// An EventLoop on a thread of its own, for a VMM that has none. The thread blocks all signals, so
// that none of the VMM's is ever delivered to it, and sleeps in epoll_wait(2) while nothing
// happens.
//
// One fd may be watched several times. Callbacks run one after another; a slow one delays the rest.
//
// Thread safety: any thread may watch and end watches. The loop must outlive its watches, and must
// not be destroyed by one of its own callbacks.
class EpollLoop final : public EventLoop {
 public:
  // `thread_name` is what ps and /proc show; at most 15 bytes of it are kept.
  // RESOURCE_EXHAUSTED: no thread or no fd to be had.
  static absl::StatusOr<std::unique_ptr<EpollLoop>> Create(
      const std::string& thread_name = "vhost-control");
  // Ends the thread; a callback that runs is waited for.
  ~EpollLoop() override;
  EpollLoop(const EpollLoop&) = delete;
  EpollLoop& operator=(const EpollLoop&) = delete;

  absl::StatusOr<std::unique_ptr<Watch>> WatchReadable(int fd,
                                                       std::function<void()> ready) override;

 private:
  class EpollWatch;
  struct Entry {
    int fd;                          // lent
    kernel_abi::UniqueFd duplicate;  // watched in its place when `fd` is watched already
    std::function<void()> ready;
  };
  using Entries = std::map<uint64_t, Entry>;

  EpollLoop(kernel_abi::UniqueFd epoll, kernel_abi::UniqueFd wake)
      : epoll_(std::move(epoll)), wake_(std::move(wake)) {}

  static void* ThreadMain(void* loop);
  void Run();
  void Dispatch(uint64_t id) ABSL_LOCKS_EXCLUDED(mutex_);
  void Forget(uint64_t id) ABSL_LOCKS_EXCLUDED(mutex_);

  const kernel_abi::UniqueFd epoll_;
  const kernel_abi::UniqueFd wake_;  // eventfd: end the thread
  // Both written before the first watch.
  pthread_t thread_{};
  bool started_ = false;

  absl::Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t running_id_ ABSL_GUARDED_BY(mutex_) = 0;  // whose callback runs; 0: none
  // The entry of a callback that ended its own watch: kept until it has returned.
  Entries::node_type ended_while_running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost
