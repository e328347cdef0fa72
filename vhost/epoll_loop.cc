// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/epoll_loop.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

constexpr uint64_t kWakeId = 0;

absl::Status Failure(const char* call, std::string arguments, int error) {
  return kernel_abi::MakeSystemError(
      {.error = error, .subject = "event loop", .call = call, .arguments = std::move(arguments)});
}

int AddToEpoll(int epoll, int fd, uint64_t id) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = id;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
}

}  // namespace

class EpollLoop::EpollWatch final : public Watch {
 public:
  EpollWatch(EpollLoop* loop, uint64_t id) : loop_(loop), id_(id) {}
  ~EpollWatch() override { loop_->Forget(id_); }

 private:
  EpollLoop* loop_;
  uint64_t id_;
};

absl::StatusOr<std::unique_ptr<EpollLoop>> EpollLoop::Create(const std::string& thread_name) {
  kernel_abi::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return Failure("epoll_create1", "", errno);
  kernel_abi::UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return Failure("eventfd", "", errno);
  if (const int error = AddToEpoll(epoll.get(), wake.get(), kWakeId); error != 0) {
    return Failure("epoll_ctl", "add wake eventfd", error);
  }
  std::unique_ptr<EpollLoop> loop(new EpollLoop(std::move(epoll), std::move(wake)));

  // A thread inherits the mask of its creator. Blocking here and not in the thread leaves no moment
  // in which it could be chosen for a signal of the VMM's.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(&loop->thread_, nullptr, &EpollLoop::ThreadMain, loop.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) return Failure("pthread_create", "", error);
  loop->started_ = true;
  pthread_setname_np(loop->thread_, thread_name.substr(0, 15).c_str());
  return loop;
}

EpollLoop::~EpollLoop() {
  if (!started_) return;  // Create failed.
  const uint64_t one = 1;
  // Cannot fail: the counter is 0, and nobody else writes it.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
  pthread_join(thread_, nullptr);
}

absl::StatusOr<std::unique_ptr<Watch>> EpollLoop::WatchReadable(int fd,
                                                                std::function<void()> ready) {
  absl::MutexLock lock(&mutex_);
  const uint64_t id = next_id_++;
  // The entry is there before the fd can report, so that the first event finds it.
  Entry& entry = entries_[id];
  entry.fd = fd;
  entry.ready = std::move(ready);
  int error = AddToEpoll(epoll_.get(), fd, id);
  if (error == EEXIST) {
    // epoll knows a watch by file and number, and takes each pair once: a second number it is.
    entry.duplicate.Reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    error = entry.duplicate.valid() ? AddToEpoll(epoll_.get(), entry.duplicate.get(), id) : errno;
  }
  if (error != 0) {
    entries_.erase(id);
    return Failure("epoll_ctl", absl::StrCat("add fd=", fd), error);
  }
  return std::make_unique<EpollWatch>(this, id);
}

void EpollLoop::Forget(uint64_t id) {
  Entries::node_type entry;  // Destroyed after the lock is released: it may own anything.
  absl::MutexLock lock(&mutex_);
  entry = entries_.extract(id);
  const Entry& ended = entry.mapped();
  const int fd = ended.duplicate.valid() ? ended.duplicate.get() : ended.fd;
  // ENOENT or EBADF if the fd was closed too early: epoll has forgotten it by itself then.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  if (running_id_ != id) return;
  if (pthread_equal(pthread_self(), thread_) != 0) {
    // The callback ends its own watch; the function that is running must stay until it returns.
    ended_while_running_ = std::move(entry);
    return;
  }
  const auto returned = [this, id]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return running_id_ != id; };
  mutex_.Await(absl::Condition(&returned));
}

void* EpollLoop::ThreadMain(void* loop) {
  static_cast<EpollLoop*>(loop)->Run();
  return nullptr;
}

void EpollLoop::Run() {
  std::array<epoll_event, 32> events;
  while (true) {
    const int count = epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    // EINTR: no signal is delivered here, but a stop or a tracer interrupts all the same.
    for (int i = 0; i < count; ++i) {
      const uint64_t id = events[i].data.u64;
      if (id == kWakeId) return;
      Dispatch(id);
    }
  }
}

void EpollLoop::Dispatch(uint64_t id) {
  const std::function<void()>* ready = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;  // Ended by a callback before it in this round.
    running_id_ = id;
    ready = &found->second.ready;
  }
  (*ready)();
  Entries::node_type ended;  // Destroyed without the lock.
  absl::MutexLock lock(&mutex_);
  running_id_ = 0;
  ended = std::move(ended_while_running_);
}

}  // namespace vhost
