// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

struct io_uring_params;

namespace kernel_abi {

// The seam between this project and Linux: every system call that configures a device goes through
// it, so that a test can put a kernel of its own behind the library and fail the k-th call.
//
// Each function is one system call and answers as the kernel does: a result that is not negative,
// or minus errno. None of them keeps anything, none of them logs, none of them retries. File
// descriptors are real ones on both sides of the seam (the fake kernel hands out real descriptors
// too), so closing one is UniqueFd's matter and needs no seam.
//
// Thread safety: as the system calls. An implementation must outlive everything it was given to.
class Kernel {
 public:
  virtual ~Kernel() = default;

  // open(2). O_CLOEXEC is added by the implementation.
  virtual int Open(const char* path, int flags) = 0;
  // ioctl(2). `argument` is a pointer, or a number for requests that take one by value.
  virtual int Ioctl(int fd, unsigned long request, uintptr_t argument) = 0;
  // eventfd(2). EFD_CLOEXEC is added by the implementation.
  virtual int EventFd(unsigned initial, int flags) = 0;
  virtual ssize_t Read(int fd, void* buffer, size_t size) = 0;
  virtual ssize_t Write(int fd, const void* buffer, size_t size) = 0;
  // fcntl(F_DUPFD_CLOEXEC).
  virtual int Duplicate(int fd) = 0;
  // memfd_create(2). MFD_CLOEXEC is added by the implementation.
  virtual int MemFd(const char* name, unsigned flags) = 0;
  virtual int Truncate(int fd, off_t size) = 0;
  // mmap(2) at an address of the kernel's choice. Returns 0 and the address, or minus errno.
  virtual int Map(size_t size, int protection, int flags, int fd, off_t offset, void** address) = 0;
  virtual int Unmap(void* address, size_t size) = 0;
  // gettid(2): of the calling thread.
  virtual pid_t ThreadId() = 0;
  // sched_setaffinity(2) and setpriority(2) of one thread (0: the calling one).
  virtual int SetAffinity(pid_t tid, const cpu_set_t& cpus) = 0;
  virtual int SetNice(pid_t tid, int nice) = 0;
  // io_uring_setup(2). A kernel that has none, as any that does not say otherwise: -ENOSYS.
  virtual int IoUringSetup(uint32_t entries, io_uring_params& params);
};

// Linux itself: one stateless object for the whole process.
Kernel& LinuxKernel();

}  // namespace kernel_abi
