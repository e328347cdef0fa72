// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A thread that serves many tasks (queue pairs, socket devices) and waits for all of them in one
// place.
//
//            Add, an fd of its is ready, its timer, Wake
//     quiet --------------------------------------------> active: Poll() each round
//       ^                                                   |
//       +-------- Arm() says that nothing came -------------+  after a window without work
//
// While any task is active the thread does not sleep. How long a task without work stays active is
// learned: waking a sleeping thread costs 4 to 50 us, so polling for a few times that long pays
// where work keeps coming at such distances, and is waste where it does not. The window doubles
// whenever a sleep ended so soon that polling would have seen it, halves whenever one did not, and
// shuts for a while when the thread finds that it was preempted, or that work comes only once it
// sleeps: then somebody else, the driver perhaps, needs this CPU. On one CPU it stays shut.
//
// Exclusion instead of messages: Call(f) runs f on the caller's thread while the data thread is
// kept out. If it sleeps, which is the usual case for a stop of a quiet device, nobody is woken for
// it; if it works, it makes way after the round. So when a Call that removed a task returns, that
// task is not running and will not run again.
//
// Thread safety: any thread may call anything here. A task's functions run one at a time, on the
// data thread, and may call anything but the destructor.
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/inprocess/wait_point.h"
#include "vhost/report.h"
#include "vhost/worker_placement.h"

namespace vhost::inprocess {

class DataTask {
 public:
  virtual ~DataTask() = default;
  // Does a bounded burst of work; false if there was none. Called again and again while active.
  virtual bool Poll() = 0;
  // About to go quiet: switch notifications on (EnableKicks). True if work came meanwhile: Poll is
  // called again, which switches them off where that pays. False: it is not called before an event.
  virtual bool Arm() = 0;
  // An fd of the task is ready (`events` as in WaitPoint); `token` is what Watch was given. The
  // task is active afterwards: notes are enough here, work is for Poll.
  virtual void OnReady(uint32_t token, uint32_t events) = 0;
  // The time that SetTimer was given has come. The task is active afterwards.
  virtual void OnTimer() {}
};

struct DataThreadOptions {
  std::string name = "vhost-data";  // what ps and /proc show; at most 15 bytes of it are kept
  WorkerPlacement placement;
  // The longest time without work for which the thread goes on polling, in microseconds; 0: it
  // never polls. What it does within that is learned.
  uint32_t busy_poll_us = 100;
};

class DataThread {
 public:
  using Clock = std::chrono::steady_clock;

  // INVALID_ARGUMENT or the system's answer where it cannot be placed so; RESOURCE_EXHAUSTED: no
  // thread or no fd to be had. `kernel` must outlive it.
  static absl::StatusOr<std::unique_ptr<DataThread>> Create(kernel_abi::Kernel& kernel,
                                                            DataThreadOptions options);
  // Ends the thread. All tasks must have been removed.
  ~DataThread();
  DataThread(const DataThread&) = delete;
  DataThread& operator=(const DataThread&) = delete;

  // Runs `function` while no task runs, and returns when it is done.
  void Call(absl::FunctionRef<void()> function);

  // From here to Wake(): each is a Call of its own. Several that must be seen at once go into one.

  // Serves `task` from now on, which is active at first. It must outlive its removal.
  void Add(DataTask& task);
  // Ends its watches and its timer too.
  void Remove(DataTask& task);
  // Calls OnReady(token) of `task` when `fd` is ready for `interest` (epoll's bits; EPOLLERR and
  // EPOLLHUP always). The fd is lent until the watch or the task ends. A kick eventfd is best
  // watched with EPOLLIN | EPOLLET and never read: each kick wakes. ALREADY_EXISTS: the fd is
  // watched already.
  absl::Status Watch(DataTask& task, int fd, uint32_t interest, uint32_t token);
  // Looks at the fd anew, so that with EPOLLET what is ready is told again. NOT_FOUND: no such
  // watch.
  absl::Status SetInterest(DataTask& task, int fd, uint32_t interest);
  void Unwatch(DataTask& task, int fd);
  // OnTimer once, at `when` or up to a millisecond later; nullopt: not any more. One for each task.
  void SetTimer(DataTask& task, std::optional<Clock::time_point> when);
  // Makes a task active.
  void Wake(DataTask& task);

  // Memory for whichever task runs: what is in it is lost when its function returns. Aligned for
  // anything. Much of it costs nothing until it is touched.
  static constexpr size_t kScratchBytes = 192 * 1024;
  std::span<std::byte> scratch() const { return {scratch_, kScratchBytes}; }

  // Plain counts since the start.
  struct Stats {
    uint64_t rounds = 0;        // over the active tasks
    uint64_t sleeps = 0;        // times that the thread waited with nothing active
    uint64_t preemptions = 0;   // times that it found itself preempted while polling
    uint64_t window_ns = 0;     // how long it polls now without work
    uint64_t wake_cost_ns = 0;  // what waking it takes, as far as seen
  };
  Stats stats() const;
  struct TaskStats {
    uint64_t polls = 0;     // calls of Poll()
    uint64_t wake_ups = 0;  // times that an event made it active
  };
  TaskStats task_stats(const DataTask& task) const;

  // `queues` is the caller's.
  WorkerReport Report() const;
  // Of the thread; for placing others beside it.
  pid_t tid() const { return tid_; }

 private:
  struct Entry {
    DataTask* task;
    bool active = false;
    bool removed = false;  // kept until the round is over
    uint64_t quiet_since_ns = 0;
    std::optional<uint64_t> timer_ns;
    TaskStats stats;
  };
  struct WatchSlot {
    Entry* entry = nullptr;  // null: free
    int fd = -1;
    uint32_t token = 0;
    uint32_t generation = 0;  // tells an event of a watch before in this slot
  };

  DataThread(kernel_abi::Kernel& kernel, DataThreadOptions options,
             std::unique_ptr<WaitPoint> wait_point, kernel_abi::UniqueFd wake)
      : kernel_(kernel),
        options_(std::move(options)),
        wait_point_(std::move(wait_point)),
        wake_(std::move(wake)) {}

  // The right to touch what run_mutex_ guards; nested ones cost nothing.
  class ABSL_SCOPED_LOCKABLE Turn;

  absl::Status StartThread();
  static bool MayPoll();  // of the calling thread's CPUs
  static void* ThreadMain(void* thread);
  void Run() ABSL_LOCKS_EXCLUDED(run_mutex_);
  void MakeWay() ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void Round() ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  bool PollOrQuieten(Entry& entry, uint64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  // Both unlock while they wait in the kernel, if they do.
  void Sleep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void LookAtEvents(uint64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  // Whether any was of a watch.
  bool Dispatch(std::span<const WaitPoint::Ready> ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void RunTimers(uint64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void FindNextTimer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void LearnFromSleep(uint64_t slept_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void LearnWakeCost(uint64_t seen_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void LearnFromPreemption(uint64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void ShutWindow(uint64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  uint64_t WindowLimitNs(uint64_t now_ns) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void Activate(Entry& entry, bool by_event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void SweepRemoved() ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  Entry* Find(const DataTask& task) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  WatchSlot* FindWatch(const DataTask& task, int fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void EndWatch(WatchSlot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  void WakeIfNeeded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);

  kernel_abi::Kernel& kernel_;
  const DataThreadOptions options_;
  const std::unique_ptr<WaitPoint> wait_point_;
  const kernel_abi::UniqueFd wake_;  // eventfd
  std::byte* scratch_ = nullptr;     // mapped
  pthread_t thread_{};
  bool started_ = false;
  // Written by the thread before Create returns.
  pid_t tid_ = 0;
  bool may_poll_ = true;
  absl::Status placed_;

  // Those that want run_mutex_ while the thread works: it makes way.
  mutable std::atomic<int> callers_ = 0;
  // Who holds run_mutex_, so that a task's function may call in.
  mutable std::atomic<pthread_t> holder_ = 0;

  // Held by the thread whenever it does not sleep.
  mutable absl::Mutex run_mutex_;
  bool ready_ ABSL_GUARDED_BY(run_mutex_) = false;  // the thread has placed itself
  bool stop_ ABSL_GUARDED_BY(run_mutex_) = false;
  bool asleep_ ABSL_GUARDED_BY(run_mutex_) = false;
  bool timers_changed_ ABSL_GUARDED_BY(run_mutex_) = false;  // while it sleeps
  bool in_round_ ABSL_GUARDED_BY(run_mutex_) = false;
  uint64_t wake_sent_ns_ ABSL_GUARDED_BY(run_mutex_) = 0;  // 0: none under way
  std::vector<std::unique_ptr<Entry>> entries_ ABSL_GUARDED_BY(run_mutex_);
  std::vector<Entry*> active_ ABSL_GUARDED_BY(run_mutex_);
  std::vector<WatchSlot> watches_ ABSL_GUARDED_BY(run_mutex_);
  std::optional<uint64_t> next_timer_ns_ ABSL_GUARDED_BY(run_mutex_);
  uint64_t last_look_ns_ ABSL_GUARDED_BY(run_mutex_) = 0;
  // When the last round began, if it did nothing; else 0.
  uint64_t last_quiet_round_ns_ ABSL_GUARDED_BY(run_mutex_) = 0;
  uint32_t wasted_windows_ ABSL_GUARDED_BY(run_mutex_) = 0;  // in a row
  uint64_t shut_until_ns_ ABSL_GUARDED_BY(run_mutex_) = 0;
  uint64_t shut_for_ns_ ABSL_GUARDED_BY(run_mutex_) = 0;
  Stats stats_ ABSL_GUARDED_BY(run_mutex_);
};

}  // namespace vhost::inprocess
