// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/wait_point.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost::inprocess {
namespace {

absl::Status Failure(const char* call, std::string arguments, int error) {
  return kernel_abi::MakeSystemError(
      {.error = error, .subject = "data thread", .call = call, .arguments = std::move(arguments)});
}

}  // namespace

absl::StatusOr<std::unique_ptr<EpollWaitPoint>> EpollWaitPoint::Create() {
  kernel_abi::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return Failure("epoll_create1", "", errno);
  return std::unique_ptr<EpollWaitPoint>(new EpollWaitPoint(std::move(epoll)));
}

absl::Status EpollWaitPoint::Control(int operation, const char* name, int fd, uint32_t interest,
                                     uint64_t id) {
  epoll_event event{};
  event.events = interest;
  event.data.u64 = id;
  if (epoll_ctl(epoll_.get(), operation, fd, &event) == 0) return absl::OkStatus();
  return Failure("epoll_ctl", absl::StrCat(name, " fd=", fd), errno);
}

absl::Status EpollWaitPoint::Add(int fd, uint32_t interest, uint64_t id) {
  return Control(EPOLL_CTL_ADD, "add", fd, interest, id);
}
absl::Status EpollWaitPoint::Change(int fd, uint32_t interest, uint64_t id) {
  return Control(EPOLL_CTL_MOD, "mod", fd, interest, id);
}
void EpollWaitPoint::Remove(int fd) {
  // ENOENT or EBADF if the fd was closed too early: epoll has forgotten it by itself then.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

size_t EpollWaitPoint::Wait(std::span<Ready> ready, int timeout_ms) {
  std::array<epoll_event, 64> events;
  const auto most = static_cast<int>(std::min(events.size(), ready.size()));
  const int count = epoll_wait(epoll_.get(), events.data(), most, timeout_ms);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    ready[static_cast<size_t>(i)] = {.id = event.data.u64, .events = event.events};
  }
  return count > 0 ? static_cast<size_t>(count) : 0;
}

}  // namespace vhost::inprocess
