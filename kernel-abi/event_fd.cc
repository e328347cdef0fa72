// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/event_fd.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "kernel-abi/system_error.h"

namespace kernel_abi {

absl::StatusOr<EventFd> EventFd::Create(Kernel& kernel) {
  const int fd = kernel.EventFd(0, EFD_NONBLOCK);
  if (fd < 0) {
    return MakeSystemError({.error = -fd, .subject = "eventfd", .call = "eventfd"},
                           fd == -EMFILE || fd == -ENFILE ? "raise the limit of open files" : "");
  }
  EventFd event_fd(kernel, UniqueFd(fd));
  event_fd.never_blocks_ = true;
  return event_fd;
}

bool EventFd::Drain() const {
  uint64_t count = 0;
  // A file of somebody else's may block.
  if (!never_blocks_) return DrainEventFd(*kernel_, fd_.get());
  return kernel_->Read(fd_.get(), &count, sizeof(count)) == sizeof(count);
}

bool EventFd::IsSignalled() const { return IsEventFdSignalled(fd_.get()); }

void EventFd::SignalEventFd(Kernel& kernel, int fd) {
  const uint64_t one = 1;
  (void)kernel.Write(fd, &one, sizeof(one));
}

bool EventFd::DrainEventFd(Kernel& kernel, int fd) {
  uint64_t count = 0;
  return IsEventFdSignalled(fd) && kernel.Read(fd, &count, sizeof(count)) == sizeof(count);
}

void EventFd::DrainEventFds(Kernel& kernel, std::span<const int> fds) {
  absl::InlinedVector<pollfd, 8> waiting;
  for (int fd : fds) waiting.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  if (::poll(waiting.data(), waiting.size(), 0) <= 0) return;
  for (const pollfd& one : waiting) {
    uint64_t count = 0;
    if ((one.revents & POLLIN) != 0) (void)kernel.Read(one.fd, &count, sizeof(count));
  }
}

bool EventFd::IsEventFdSignalled(int fd) {
  pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLIN) != 0;
}

}  // namespace kernel_abi
