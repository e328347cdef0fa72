// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/fakes/fake_node.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace fakes {
namespace {

// The kernel's number for an eventfd; -1 if `fd` is none. Inodes do not tell: all share one.
int EventFdId(int fd) {
  std::ifstream info(absl::StrCat("/proc/self/fdinfo/", fd));
  for (std::string line; std::getline(info, line);) {
    absl::string_view rest = line;
    int id = -1;
    if (absl::ConsumePrefix(&rest, "eventfd-id:") && absl::SimpleAtoi(rest, &id)) return id;
  }
  return -1;
}

}  // namespace

std::string OpenState::Text() const {
  return absl::StrCat("vhost nodes ", vhost_nodes, ", TUN queues ", tun_queues, ", KVM nodes ",
                      kvm_nodes, ", attached backends ", attached_backends, ", guest CIDs ",
                      guest_cids, ", ioeventfds ", ioeventfds, ", irqfds ", irqfds,
                      ", memory slots ", memory_slots, ", interfaces ", interfaces, ", held fds ",
                      held_fds);
}

ssize_t FakeNode::Read(void* /*buffer*/, size_t /*size*/, bool /*nonblocking*/) { return -EINVAL; }
ssize_t FakeNode::Write(const void* /*buffer*/, size_t /*size*/) { return -EINVAL; }

kernel_abi::UniqueFd Hold(int fd) { return kernel_abi::UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

int CheckEventFd(int fd) {
  char target[64] = {};
  const std::string link = absl::StrCat("/proc/self/fd/", fd);
  if (fd < 0 || ::readlink(link.c_str(), target, sizeof(target) - 1) < 0) return -EBADF;
  return absl::string_view(target) == "anon_inode:[eventfd]" ? 0 : -EINVAL;
}

bool IsSameEventFd(int a, int b) {
  const int id = EventFdId(a);
  return id >= 0 && id == EventFdId(b);
}

void Signal(int event_fd) {
  const uint64_t one = 1;
  if (event_fd >= 0) (void)!::write(event_fd, &one, sizeof(one));
}

bool TakeSignal(int event_fd) {
  pollfd waiting{.fd = event_fd, .events = POLLIN, .revents = 0};
  if (event_fd < 0 || ::poll(&waiting, 1, 0) != 1 || (waiting.revents & POLLIN) == 0) return false;
  uint64_t count = 0;
  return ::read(event_fd, &count, sizeof(count)) == sizeof(count);
}

}  // namespace fakes
