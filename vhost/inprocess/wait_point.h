// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The one place where a data thread sleeps: kicks, TAPs and sockets of all that it serves, behind
// an interface so that the engine can be chosen by what the kernel offers.
//
// Events and interest are epoll's bits (EPOLLIN, EPOLLOUT, EPOLLET ...).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"

namespace vhost::inprocess {

class WaitPoint {
 public:
  struct Ready {
    uint64_t id;
    uint32_t events;
  };

  virtual ~WaitPoint() = default;

  // Any thread may call these three, also while another waits. An fd is watched once at most
  // (ALREADY_EXISTS). Changing the interest looks at the fd anew: what is ready then is told, also
  // with EPOLLET.
  virtual absl::Status Add(int fd, uint32_t interest, uint64_t id) = 0;
  virtual absl::Status Change(int fd, uint32_t interest, uint64_t id) = 0;
  virtual void Remove(int fd) = 0;

  // Waits for `timeout_ms` (-1: for ever) and fills in what is ready; how many, 0 also after a
  // signal. An event may still be told for a watch that is removed meanwhile: the id tells.
  virtual size_t Wait(std::span<Ready> ready, int timeout_ms) = 0;
};

class EpollWaitPoint final : public WaitPoint {
 public:
  // RESOURCE_EXHAUSTED: no fd to be had.
  static absl::StatusOr<std::unique_ptr<EpollWaitPoint>> Create();

  absl::Status Add(int fd, uint32_t interest, uint64_t id) override;
  absl::Status Change(int fd, uint32_t interest, uint64_t id) override;
  void Remove(int fd) override;
  size_t Wait(std::span<Ready> ready, int timeout_ms) override;

 private:
  explicit EpollWaitPoint(kernel_abi::UniqueFd epoll) : epoll_(std::move(epoll)) {}
  absl::Status Control(int operation, const char* name, int fd, uint32_t interest, uint64_t id);

  const kernel_abi::UniqueFd epoll_;
};

}  // namespace vhost::inprocess
