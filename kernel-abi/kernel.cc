// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/kernel.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace kernel_abi {
namespace {

template <typename Result>
Result OrMinusErrno(Result result) {
  return result < 0 ? static_cast<Result>(-errno) : result;
}

class Linux final : public Kernel {
 public:
  int Open(const char* path, int flags) override {
    return OrMinusErrno(::open(path, flags | O_CLOEXEC, 0600));
  }
  int Ioctl(int fd, unsigned long request, uintptr_t argument) override {
    return OrMinusErrno(::ioctl(fd, request, argument));
  }
  int EventFd(unsigned initial, int flags) override {
    return OrMinusErrno(::eventfd(initial, flags | EFD_CLOEXEC));
  }
  ssize_t Read(int fd, void* buffer, size_t size) override {
    return OrMinusErrno(::read(fd, buffer, size));
  }
  ssize_t Write(int fd, const void* buffer, size_t size) override {
    return OrMinusErrno(::write(fd, buffer, size));
  }
  int Duplicate(int fd) override { return OrMinusErrno(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }
  int MemFd(const char* name, unsigned flags) override {
    return OrMinusErrno(::memfd_create(name, flags | MFD_CLOEXEC));
  }
  int Truncate(int fd, off_t size) override { return OrMinusErrno(::ftruncate(fd, size)); }
  int Map(size_t size, int protection, int flags, int fd, off_t offset, void** address) override {
    void* mapped = ::mmap(nullptr, size, protection, flags, fd, offset);
    if (mapped == MAP_FAILED) return -errno;
    *address = mapped;
    return 0;
  }
  int Unmap(void* address, size_t size) override { return OrMinusErrno(::munmap(address, size)); }
  pid_t ThreadId() override { return ::gettid(); }
  int SetAffinity(pid_t tid, const cpu_set_t& cpus) override {
    return OrMinusErrno(::sched_setaffinity(tid, sizeof(cpus), &cpus));
  }
  int SetNice(pid_t tid, int nice) override {
    return OrMinusErrno(::setpriority(PRIO_PROCESS, static_cast<id_t>(tid), nice));
  }
  int IoUringSetup(uint32_t entries, io_uring_params& params) override {
    return static_cast<int>(OrMinusErrno(::syscall(__NR_io_uring_setup, entries, &params)));
  }
};

}  // namespace

int Kernel::IoUringSetup(uint32_t, io_uring_params&) { return -ENOSYS; }

Kernel& LinuxKernel() {
  static Linux linux_kernel;
  return linux_kernel;
}

}  // namespace kernel_abi
