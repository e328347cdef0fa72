// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <string>

#include "kernel-abi/kernel.h"
#include "tests/fakes/call_log.h"

namespace vhost {

// Linux, but for the k-th call, which fails before it is made. Counts what Linux can refuse: not
// closing, not the thread's id.
class FailingKernel final : public kernel_abi::Kernel {
 public:
  explicit FailingKernel(kernel_abi::Kernel& linux_kernel) : linux_(linux_kernel) {}

  void FailCall(int k, int error) {
    countdown_ = k;
    error_ = error;
    met_.clear();
  }
  // The call that failed; empty if there were fewer than k.
  const std::string& met() const { return met_; }

  int Open(const char* path, int flags) override {
    return Fails(std::string("open ") + path) ? -error_ : linux_.Open(path, flags);
  }
  int Ioctl(int fd, unsigned long request, uintptr_t argument) override {
    return Fails(fakes::DecodeIoctl(fd, request, argument).name)
               ? -error_
               : linux_.Ioctl(fd, request, argument);
  }
  int EventFd(unsigned initial, int flags) override {
    return Fails("eventfd") ? -error_ : linux_.EventFd(initial, flags);
  }
  ssize_t Read(int fd, void* buffer, size_t size) override {
    return Fails("read") ? -error_ : linux_.Read(fd, buffer, size);
  }
  ssize_t Write(int fd, const void* buffer, size_t size) override {
    return Fails("write") ? -error_ : linux_.Write(fd, buffer, size);
  }
  int Duplicate(int fd) override { return Fails("dup") ? -error_ : linux_.Duplicate(fd); }
  int MemFd(const char* name, unsigned flags) override {
    return Fails("memfd_create") ? -error_ : linux_.MemFd(name, flags);
  }
  int Truncate(int fd, off_t size) override {
    return Fails("ftruncate") ? -error_ : linux_.Truncate(fd, size);
  }
  int Map(size_t size, int protection, int flags, int fd, off_t offset, void** address) override {
    return Fails("mmap") ? -error_ : linux_.Map(size, protection, flags, fd, offset, address);
  }
  int Unmap(void* address, size_t size) override { return linux_.Unmap(address, size); }
  pid_t ThreadId() override { return linux_.ThreadId(); }
  int SetAffinity(pid_t tid, const cpu_set_t& cpus) override {
    return Fails("sched_setaffinity") ? -error_ : linux_.SetAffinity(tid, cpus);
  }
  int SetNice(pid_t tid, int nice) override {
    return Fails("setpriority") ? -error_ : linux_.SetNice(tid, nice);
  }

 private:
  bool Fails(const std::string& call) {
    if (countdown_ == 0 || --countdown_ > 0) return false;
    met_ = call;
    return true;
  }

  kernel_abi::Kernel& linux_;
  int countdown_ = 0;
  int error_ = 0;
  std::string met_;
};

}  // namespace vhost
