// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/nested_loop.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost::user {
namespace {

int AddToEpoll(int epoll, int fd, uint64_t id) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = id;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
}

}  // namespace

class NestedLoop::NestedWatch final : public Watch {
 public:
  NestedWatch(NestedLoop& loop, uint64_t id) : loop_(loop), id_(id) {}
  ~NestedWatch() override { loop_.Forget(id_); }

 private:
  NestedLoop& loop_;
  const uint64_t id_;
};

absl::StatusOr<std::unique_ptr<NestedLoop>> NestedLoop::Create() {
  kernel_abi::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return kernel_abi::MakeSystemError(
        {.error = errno, .subject = "event loop", .call = "epoll_create1"});
  }
  return absl::WrapUnique(new NestedLoop(std::move(epoll)));
}

absl::Status NestedLoop::Start(EventLoop& outer) {
  absl::StatusOr<std::unique_ptr<Watch>> watch =
      outer.WatchReadable(epoll_.get(), [this] { Dispatch(); });
  if (!watch.ok()) return watch.status();
  outer_watch_ = *std::move(watch);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Watch>> NestedLoop::WatchReadable(int fd,
                                                                 std::function<void()> ready) {
  const uint64_t id = next_id_++;
  Entry entry{.fd = fd,
              .duplicate = {},
              .ready = std::make_shared<const std::function<void()>>(std::move(ready))};
  int error = AddToEpoll(epoll_.get(), fd, id);
  if (error == EEXIST) {
    // epoll knows a watch by file and number, and takes each pair once: a second number it is.
    entry.duplicate.Reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    error = entry.duplicate.valid() ? AddToEpoll(epoll_.get(), entry.duplicate.get(), id) : errno;
  }
  if (error != 0) {
    return kernel_abi::MakeSystemError({.error = error,
                                        .subject = "event loop",
                                        .call = "epoll_ctl",
                                        .arguments = absl::StrCat("add fd=", fd)});
  }
  entries_.emplace(id, std::move(entry));
  return std::make_unique<NestedWatch>(*this, id);
}

void NestedLoop::Forget(uint64_t id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  const Entry& entry = found->second;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, entry.duplicate.valid() ? entry.duplicate.get() : entry.fd,
            nullptr);
  entries_.erase(found);
}

void NestedLoop::Dispatch() {
  std::array<epoll_event, 16> events;
  const int count = epoll_wait(epoll_.get(), events.data(), events.size(), 0);
  for (int i = 0; i < count; ++i) {
    const uint64_t id = events[static_cast<size_t>(i)].data.u64;  // a copy: the struct is packed
    const auto found = entries_.find(id);
    if (found == entries_.end()) continue;  // Ended by a callback before it in this round.
    // Held, since a callback may end its own watch.
    const std::shared_ptr<const std::function<void()>> ready = found->second.ready;
    (*ready)();
  }
}

}  // namespace vhost::user
