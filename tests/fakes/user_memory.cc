// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/fakes/user_memory.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

namespace fakes {
namespace {

constexpr uint64_t kUserEnd = 0x00007fffffffffff;

}  // namespace

// The process copies from and to itself through the kernel, which answers EFAULT instead of
// sending SIGSEGV.
int CopyFromUser(void* to, uint64_t address, size_t size) {
  if (size == 0) return 0;
  iovec here{to, size};
  iovec there{reinterpret_cast<void*>(address), size};
  const ssize_t copied = ::process_vm_readv(::getpid(), &here, 1, &there, 1, 0);
  return copied == static_cast<ssize_t>(size) ? 0 : -EFAULT;
}

int CopyToUser(uint64_t address, const void* from, size_t size) {
  if (size == 0) return 0;
  iovec here{const_cast<void*>(from), size};
  iovec there{reinterpret_cast<void*>(address), size};
  const ssize_t copied = ::process_vm_writev(::getpid(), &here, 1, &there, 1, 0);
  return copied == static_cast<ssize_t>(size) ? 0 : -EFAULT;
}

bool AccessOk(uint64_t address, uint64_t size) {
  const uint64_t end = address + size;
  return end >= address && end <= kUserEnd;
}

}  // namespace fakes
