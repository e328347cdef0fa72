// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/data_thread.h"

#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "vhost/kernel/proc_thread.h"

namespace vhost::inprocess {
namespace {

constexpr uint64_t kMicrosecond = 1'000;
constexpr uint64_t kMillisecond = 1'000'000;

// How often fds are looked at while tasks are active. A look is a system call (0.2 us): between
// bursts it may take a twentieth of the time, and without work it is all there is to do.
constexpr uint64_t kLookBusyNs = 5 * kMicrosecond;
constexpr uint64_t kLookQuietNs = 1 * kMicrosecond;
// A round without work that took so long did not run all the time.
constexpr uint64_t kPreemptedNs = 200 * kMicrosecond;
// For how long the window is shut then: doubled when it happens again soon.
constexpr uint64_t kShutMinNs = 10 * kMillisecond;
constexpr uint64_t kShutMaxNs = 1'000 * kMillisecond;
// What a wake-up is taken to cost before one was seen, and what a window is at least once open.
constexpr uint64_t kWakeCostNs = 25 * kMicrosecond;
constexpr uint64_t kWakeCostMaxNs = 200 * kMicrosecond;
constexpr uint64_t kWindowMinNs = 10 * kMicrosecond;
// So many windows in a row without work are too many, if work comes right behind them.
constexpr uint32_t kMostWasted = 4;
// How many wake-ups a window may be worth.
constexpr uint64_t kWorthWakes = 4;
// How long a caller and the thread wait for each other without sleeping.
constexpr uint64_t kSpinForTurnNs = 50 * kMicrosecond;

constexpr uint64_t kWakeId = UINT64_MAX;

uint64_t NowNs() {
  return static_cast<uint64_t>(DataThread::Clock::now().time_since_epoch().count());
}
static_assert(std::is_same_v<DataThread::Clock::period, std::nano>);

void Relax() { __builtin_ia32_pause(); }

uint64_t WatchId(size_t slot, uint32_t generation) { return uint64_t{generation} << 32 | slot; }

}  // namespace

// ---- Turns -------------------------------------------------------------------------------------

class ABSL_SCOPED_LOCKABLE DataThread::Turn {
 public:
  explicit Turn(const DataThread& thread) ABSL_EXCLUSIVE_LOCK_FUNCTION(thread.run_mutex_)
      : thread_(const_cast<DataThread&>(thread)) {
    Take();
  }
  ~Turn() ABSL_UNLOCK_FUNCTION() { Give(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  void Take() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    nested_ = thread_.holder_.load(std::memory_order_relaxed) == pthread_self();
    if (nested_) return;
    thread_.callers_.fetch_add(1);
    bool have = thread_.run_mutex_.TryLock();
    if (!have && thread_.may_poll_) {
      // The thread is awake and makes way after its round, sooner than a sleep would take.
      for (const uint64_t until = NowNs() + kSpinForTurnNs; !have && NowNs() < until;) {
        Relax();
        have = thread_.run_mutex_.TryLock();
      }
    }
    if (!have) thread_.run_mutex_.Lock();
    thread_.callers_.fetch_sub(1);
    thread_.holder_.store(pthread_self(), std::memory_order_relaxed);
  }
  void Give() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (nested_) return;
    thread_.WakeIfNeeded();
    thread_.holder_.store(0, std::memory_order_relaxed);
    thread_.run_mutex_.Unlock();
  }

  DataThread& thread_;
  bool nested_ = false;
};

void DataThread::Call(absl::FunctionRef<void()> function) {
  Turn turn(*this);
  function();
}

void DataThread::WakeIfNeeded() {
  if (!asleep_ || wake_sent_ns_ != 0) return;
  if (active_.empty() && !timers_changed_ && !stop_) return;
  wake_sent_ns_ = NowNs();
  const uint64_t one = 1;
  // Cannot fail: the counter is far from full.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
}

void DataThread::MakeWay() {
  holder_.store(0, std::memory_order_relaxed);
  run_mutex_.Unlock();
  for (const uint64_t until = NowNs() + kSpinForTurnNs; callers_.load() > 0 && NowNs() < until;) {
    Relax();
  }
  run_mutex_.Lock();
  // Looked at whenever a caller has had its turn.
  const auto nobody = [this] { return callers_.load() == 0; };
  run_mutex_.Await(absl::Condition(&nobody));
  holder_.store(pthread_self(), std::memory_order_relaxed);
  last_quiet_round_ns_ = 0;
}

// ---- Life --------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<DataThread>> DataThread::Create(kernel_abi::Kernel& kernel,
                                                               DataThreadOptions options) {
  absl::StatusOr<std::unique_ptr<EpollWaitPoint>> wait_point = EpollWaitPoint::Create();
  if (!wait_point.ok()) return wait_point.status();
  kernel_abi::UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) {
    return kernel_abi::MakeSystemError(
        {.error = errno, .subject = "data thread", .call = "eventfd"});
  }
  // Edge-triggered, so that it is never read.
  if (absl::Status status = (*wait_point)->Add(wake.get(), EPOLLIN | EPOLLET, kWakeId);
      !status.ok()) {
    return status;
  }
  std::unique_ptr<DataThread> thread(
      new DataThread(kernel, std::move(options), *std::move(wait_point), std::move(wake)));
  // Mapped, and not of the heap, which might have pages that were touched before.
  void* scratch = nullptr;
  if (const int error = kernel.Map(kScratchBytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &scratch);
      error < 0) {
    return kernel_abi::MakeSystemError({.error = -error, .subject = "data thread", .call = "mmap"});
  }
  thread->scratch_ = static_cast<std::byte*>(scratch);
  if (absl::Status status = thread->StartThread(); !status.ok()) return status;
  return thread;
}

absl::Status DataThread::StartThread() {
  may_poll_ = MayPoll();
  // A thread inherits the mask of its creator: blocked here, there is no moment in which it could
  // be chosen for a signal of the VMM's.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(&thread_, nullptr, &DataThread::ThreadMain, this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) {
    return kernel_abi::MakeSystemError(
        {.error = error, .subject = "data thread", .call = "pthread_create"},
        "check the limits of threads: ulimit -u, the cgroup's pids.max");
  }
  started_ = true;
  pthread_setname_np(thread_, options_.name.substr(0, 15).c_str());
  absl::MutexLock lock(&run_mutex_);
  run_mutex_.Await(absl::Condition(&ready_));
  return placed_;
}

// Where all of the process runs on one CPU, to poll keeps the driver from doing what is polled for.
// A thread that was placed on one CPU alone has it for that.
bool DataThread::MayPoll() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  return sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) > 1;
}

DataThread::~DataThread() {
  if (started_) {
    {
      Turn turn(*this);
      stop_ = true;
    }
    pthread_join(thread_, nullptr);
  }
  if (scratch_ != nullptr) kernel_.Unmap(scratch_, kScratchBytes);
}

void* DataThread::ThreadMain(void* thread) {
  static_cast<DataThread*>(thread)->Run();
  return nullptr;
}

void DataThread::Run() {
  tid_ = kernel_.ThreadId();
  placed_ = PlaceCallingThread(kernel_, options_.placement, "data thread");

  absl::MutexLock lock(&run_mutex_);
  stats_.wake_cost_ns = kWakeCostNs;
  ready_ = true;
  if (!placed_.ok()) return;
  holder_.store(pthread_self(), std::memory_order_relaxed);
  while (true) {
    if (callers_.load(std::memory_order_relaxed) > 0) MakeWay();
    if (stop_) break;
    if (next_timer_ns_.has_value()) RunTimers(NowNs());
    if (active_.empty()) {
      Sleep();
    } else {
      Round();
    }
  }
  holder_.store(0, std::memory_order_relaxed);
}

// ---- Rounds ------------------------------------------------------------------------------------

void DataThread::Round() {
  const uint64_t now = NowNs();
  if (last_quiet_round_ns_ != 0 && now - last_quiet_round_ns_ > kPreemptedNs) {
    LearnFromPreemption(now);
  }
  ++stats_.rounds;
  in_round_ = true;
  bool worked = false;
  for (size_t i = 0; i < active_.size();) {
    Entry& entry = *active_[i];
    if (!entry.removed && PollOrQuieten(entry, now)) worked = true;
    if (entry.removed || !entry.active) {
      active_[i] = active_.back();
      active_.pop_back();
    } else {
      ++i;
    }
  }
  in_round_ = false;
  SweepRemoved();
  last_quiet_round_ns_ = worked ? 0 : now;
  if (active_.empty()) return;
  if (now - last_look_ns_ >= (worked ? kLookBusyNs : kLookQuietNs)) LookAtEvents(now);
  if (!worked) Relax();
}

bool DataThread::PollOrQuieten(Entry& entry, uint64_t now_ns) {
  ++entry.stats.polls;
  if (entry.task->Poll()) {
    if (std::exchange(entry.quiet_since_ns, 0) != 0) wasted_windows_ = 0;
    return true;
  }
  if (entry.removed) return false;
  if (entry.quiet_since_ns == 0) entry.quiet_since_ns = now_ns;
  if (now_ns - entry.quiet_since_ns < stats_.window_ns) return false;
  entry.quiet_since_ns = 0;
  if (stats_.window_ns != 0) ++wasted_windows_;
  if (entry.task->Arm()) return true;
  entry.active = false;
  return false;
}

void DataThread::LookAtEvents(uint64_t now_ns) {
  last_look_ns_ = now_ns;
  std::array<WaitPoint::Ready, 64> ready;
  Dispatch(std::span(ready).first(wait_point_->Wait(ready, 0)));
}

bool DataThread::Dispatch(std::span<const WaitPoint::Ready> ready) {
  bool any = false;
  in_round_ = true;
  for (const WaitPoint::Ready& event : ready) {
    if (event.id == kWakeId) continue;
    const size_t index = event.id & UINT32_MAX;
    if (index >= watches_.size()) continue;
    const WatchSlot& slot = watches_[index];
    if (slot.entry == nullptr || slot.generation != event.id >> 32) continue;  // Of a watch before.
    any = true;
    Entry& entry = *slot.entry;
    Activate(entry, /*by_event=*/true);
    entry.task->OnReady(slot.token, event.events);
  }
  in_round_ = false;
  SweepRemoved();
  return any;
}

void DataThread::Sleep() {
  ++stats_.sleeps;
  last_quiet_round_ns_ = 0;
  asleep_ = true;
  timers_changed_ = false;
  const uint64_t slept_at = NowNs();
  int timeout_ms = -1;
  if (next_timer_ns_.has_value()) {
    const uint64_t left = *next_timer_ns_ > slept_at ? *next_timer_ns_ - slept_at : 0;
    // Rounded up: woken too early, it would have to sleep again.
    timeout_ms =
        static_cast<int>(std::min<uint64_t>((left + kMillisecond - 1) / kMillisecond, 3'600'000));
  }
  std::array<WaitPoint::Ready, 64> ready;
  holder_.store(0, std::memory_order_relaxed);
  run_mutex_.Unlock();
  const size_t count = wait_point_->Wait(ready, timeout_ms);
  run_mutex_.Lock();
  holder_.store(pthread_self(), std::memory_order_relaxed);
  asleep_ = false;
  const uint64_t now = NowNs();
  last_look_ns_ = now;
  if (wake_sent_ns_ != 0) {
    LearnWakeCost(now - std::exchange(wake_sent_ns_, 0));
    Dispatch(std::span(ready).first(count));
  } else if (Dispatch(std::span(ready).first(count))) {
    LearnFromSleep(now - slept_at);
  }
}

// ---- Learning ----------------------------------------------------------------------------------

uint64_t DataThread::WindowLimitNs(uint64_t now_ns) const {
  if (!may_poll_ || now_ns < shut_until_ns_) return 0;
  return std::min<uint64_t>(options_.busy_poll_us * kMicrosecond,
                            std::max(kWindowMinNs, kWorthWakes * stats_.wake_cost_ns));
}

void DataThread::LearnFromSleep(uint64_t slept_ns) {
  // How long it took until the event came is not known; where events come at once, it is nothing.
  if (slept_ns <= kWakeCostMaxNs) LearnWakeCost(slept_ns);
  const uint64_t limit = WindowLimitNs(last_look_ns_);
  uint64_t& window = stats_.window_ns;
  if (slept_ns <= limit && wasted_windows_ >= kMostWasted) {
    // Events come as soon as we sleep, and never before: who makes them waits for this CPU.
    ShutWindow(last_look_ns_);
  } else if (slept_ns <= limit) {
    window = std::min(limit, std::max({kWindowMinNs, 2 * window, slept_ns}));
  } else {
    window = window / 2 >= kMicrosecond ? window / 2 : 0;
  }
}

void DataThread::LearnWakeCost(uint64_t seen_ns) {
  stats_.wake_cost_ns = (7 * stats_.wake_cost_ns + std::min(seen_ns, kWakeCostMaxNs)) / 8;
}

void DataThread::LearnFromPreemption(uint64_t now_ns) {
  ++stats_.preemptions;
  ShutWindow(now_ns);
}

void DataThread::ShutWindow(uint64_t now_ns) {
  wasted_windows_ = 0;
  const bool soon = now_ns < shut_until_ns_ + 8 * shut_for_ns_;
  shut_for_ns_ = soon ? std::min(2 * shut_for_ns_, kShutMaxNs) : kShutMinNs;
  shut_until_ns_ = now_ns + shut_for_ns_;
  stats_.window_ns = 0;
}

// ---- Tasks, watches and timers -----------------------------------------------------------------

void DataThread::Activate(Entry& entry, bool by_event) {
  entry.quiet_since_ns = 0;
  if (entry.active || entry.removed) return;
  entry.active = true;
  if (by_event) ++entry.stats.wake_ups;
  active_.push_back(&entry);
}

DataThread::Entry* DataThread::Find(const DataTask& task) const {
  for (const std::unique_ptr<Entry>& entry : entries_) {
    if (entry->task == &task && !entry->removed) return entry.get();
  }
  return nullptr;
}

void DataThread::Add(DataTask& task) {
  Turn turn(*this);
  if (Find(task) != nullptr) return;
  entries_.push_back(std::make_unique<Entry>(Entry{.task = &task}));
  Activate(*entries_.back(), /*by_event=*/false);
}

void DataThread::Remove(DataTask& task) {
  Turn turn(*this);
  Entry* entry = Find(task);
  if (entry == nullptr) return;
  for (WatchSlot& slot : watches_) {
    if (slot.entry == entry) EndWatch(slot);
  }
  entry->removed = true;
  if (std::exchange(entry->timer_ns, std::nullopt).has_value()) FindNextTimer();
  if (!in_round_) SweepRemoved();
}

void DataThread::SweepRemoved() {
  const auto gone = [](const auto& entry) { return entry->removed; };
  if (std::none_of(entries_.begin(), entries_.end(), gone)) return;
  std::erase_if(active_, gone);
  std::erase_if(entries_, gone);
}

DataThread::WatchSlot* DataThread::FindWatch(const DataTask& task, int fd) {
  for (WatchSlot& slot : watches_) {
    if (slot.entry != nullptr && slot.fd == fd && slot.entry->task == &task) return &slot;
  }
  return nullptr;
}

absl::Status DataThread::Watch(DataTask& task, int fd, uint32_t interest, uint32_t token) {
  Turn turn(*this);
  Entry* entry = Find(task);
  if (entry == nullptr) return absl::FailedPreconditionError("a watch for a task never added");
  auto slot = std::find_if(watches_.begin(), watches_.end(),
                           [](const WatchSlot& each) { return each.entry == nullptr; });
  if (slot == watches_.end()) slot = watches_.insert(slot, WatchSlot());
  const auto index = static_cast<size_t>(slot - watches_.begin());
  absl::Status status = wait_point_->Add(fd, interest, WatchId(index, slot->generation));
  if (!status.ok()) return status;
  slot->entry = entry;
  slot->fd = fd;
  slot->token = token;
  return absl::OkStatus();
}

absl::Status DataThread::SetInterest(DataTask& task, int fd, uint32_t interest) {
  Turn turn(*this);
  WatchSlot* slot = FindWatch(task, fd);
  if (slot == nullptr) return absl::NotFoundError(absl::StrCat("fd ", fd, " is not watched"));
  return wait_point_->Change(
      fd, interest, WatchId(static_cast<size_t>(slot - watches_.data()), slot->generation));
}

void DataThread::EndWatch(WatchSlot& slot) {
  wait_point_->Remove(slot.fd);
  slot.entry = nullptr;
  slot.fd = -1;
  ++slot.generation;
}

void DataThread::Unwatch(DataTask& task, int fd) {
  Turn turn(*this);
  if (WatchSlot* slot = FindWatch(task, fd); slot != nullptr) EndWatch(*slot);
}

void DataThread::SetTimer(DataTask& task, std::optional<Clock::time_point> when) {
  Turn turn(*this);
  Entry* entry = Find(task);
  if (entry == nullptr) return;
  entry->timer_ns.reset();
  if (when.has_value()) entry->timer_ns = static_cast<uint64_t>(when->time_since_epoch().count());
  FindNextTimer();
}

void DataThread::FindNextTimer() {
  std::optional<uint64_t> next;
  for (const std::unique_ptr<Entry>& entry : entries_) {
    if (!entry->timer_ns.has_value()) continue;
    next = std::min(next.value_or(UINT64_MAX), *entry->timer_ns);
  }
  // Later is no reason to wake: it finds nothing to do then, and sleeps on.
  if (next.value_or(UINT64_MAX) < next_timer_ns_.value_or(UINT64_MAX)) timers_changed_ = true;
  next_timer_ns_ = next;
}

void DataThread::RunTimers(uint64_t now_ns) {
  if (now_ns < *next_timer_ns_) return;
  in_round_ = true;
  for (size_t i = 0; i < entries_.size(); ++i) {  // A timer's function may add tasks.
    Entry& entry = *entries_[i];
    if (entry.removed || entry.timer_ns.value_or(UINT64_MAX) > now_ns) continue;
    entry.timer_ns.reset();
    Activate(entry, /*by_event=*/true);
    entry.task->OnTimer();
  }
  in_round_ = false;
  SweepRemoved();
  FindNextTimer();
}

void DataThread::Wake(DataTask& task) {
  Turn turn(*this);
  if (Entry* entry = Find(task); entry != nullptr) Activate(*entry, /*by_event=*/false);
}

// ---- Reports -----------------------------------------------------------------------------------

DataThread::Stats DataThread::stats() const {
  Turn turn(*this);
  return stats_;
}

DataThread::TaskStats DataThread::task_stats(const DataTask& task) const {
  Turn turn(*this);
  const Entry* entry = Find(task);
  return entry != nullptr ? entry->stats : TaskStats();
}

WorkerReport DataThread::Report() const {
  WorkerReport report{.tid = tid_, .name = options_.name.substr(0, 15)};
  const std::optional<ThreadFacts> facts = ReadThreadFacts(tid_);
  if (!facts.has_value()) {
    report.unknown_because = "/proc does not show the thread";
    return report;
  }
  report.cpu_time_ns = facts->cpu_time_ns;
  report.affinity = facts->affinity;
  report.nice = facts->nice;
  report.cgroup = facts->cgroup;
  return report;
}

}  // namespace vhost::inprocess
