// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include "kernel-abi/kernel.h"
#include "kernel-abi/vhost.h"

namespace vhost {

// Linux, counting the requests that are made of vhost nodes.
class CountingKernel final : public kernel_abi::Kernel {
 public:
  void ResetCount() { vhost_requests_ = 0; }
  int vhost_requests() const { return vhost_requests_; }

  int Open(const char* path, int flags) override { return linux_.Open(path, flags); }
  int Ioctl(int fd, unsigned long request, uintptr_t argument) override {
    if (_IOC_TYPE(request) == VHOST_VIRTIO) ++vhost_requests_;
    return linux_.Ioctl(fd, request, argument);
  }
  int EventFd(unsigned initial, int flags) override { return linux_.EventFd(initial, flags); }
  ssize_t Read(int fd, void* buffer, size_t size) override { return linux_.Read(fd, buffer, size); }
  ssize_t Write(int fd, const void* buffer, size_t size) override {
    return linux_.Write(fd, buffer, size);
  }
  int Duplicate(int fd) override { return linux_.Duplicate(fd); }
  int MemFd(const char* name, unsigned flags) override { return linux_.MemFd(name, flags); }
  int Truncate(int fd, off_t size) override { return linux_.Truncate(fd, size); }
  int Map(size_t size, int protection, int flags, int fd, off_t offset, void** address) override {
    return linux_.Map(size, protection, flags, fd, offset, address);
  }
  int Unmap(void* address, size_t size) override { return linux_.Unmap(address, size); }
  pid_t ThreadId() override { return linux_.ThreadId(); }
  int SetAffinity(pid_t tid, const cpu_set_t& cpus) override {
    return linux_.SetAffinity(tid, cpus);
  }
  int SetNice(pid_t tid, int nice) override { return linux_.SetNice(tid, nice); }

 private:
  kernel_abi::Kernel& linux_ = kernel_abi::LinuxKernel();
  int vhost_requests_ = 0;
};

}  // namespace vhost
