// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/unique_fd.h"

#include <pthread.h>

namespace kernel_abi {
namespace {

// A thread a close: the time goes into waiting for a grace period, not into work, and closes that
// wait at the same time wait for the same one. Small stacks keep hundreds of them cheap.
constexpr size_t kCloserStackBytes = 64 * 1024;

void* CloseOne(void* fd) {
  static_cast<UniqueFd*>(fd)->Reset();
  return nullptr;
}

}  // namespace

void CloseInParallel(std::vector<UniqueFd> fds) {
  pthread_attr_t attributes;
  if (fds.size() < 2 || pthread_attr_init(&attributes) != 0) return;  // The vector closes them.
  pthread_attr_setstacksize(&attributes, kCloserStackBytes);
  std::vector<pthread_t> closers;
  closers.reserve(fds.size());
  for (size_t i = 1; i < fds.size(); ++i) {
    pthread_t closer;
    // EAGAIN (RLIMIT_NPROC, a pids cgroup): what has no thread is closed by this one below.
    if (pthread_create(&closer, &attributes, CloseOne, &fds[i]) != 0) break;
    closers.push_back(closer);
  }
  fds[0].Reset();
  for (size_t i = closers.size() + 1; i < fds.size(); ++i) fds[i].Reset();
  for (pthread_t closer : closers) pthread_join(closer, nullptr);
  pthread_attr_destroy(&attributes);
}

}  // namespace kernel_abi
