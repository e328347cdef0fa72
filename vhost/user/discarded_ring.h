// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "vhost/backend.h"
#include "vhost/event_loop.h"
#include "vhost/inprocess/virtqueue.h"

namespace vhost::user {

// A ring that is started and disabled, and whose buffers are to be sent: each is given back as it
// came, so that the driver does not wait for it.
//
// Thread safety: none; its watch calls on the event loop's thread.
class DiscardedRing {
 public:
  // From vring.base on, with each kick. The kick fd must not block, and is read.
  static absl::StatusOr<std::unique_ptr<DiscardedRing>> Create(
      kernel_abi::Kernel& kernel, EventLoop& loop, const BackendVring& vring, VirtioFeatures acked,
      std::shared_ptr<const MemoryTable> memory);

  // Where somebody else goes on.
  VringBase base() const { return ring_->base(); }
  void SetCall(int call_fd) { ring_->SetCall(call_fd); }

 private:
  DiscardedRing(kernel_abi::Kernel& kernel, int kick_fd, std::unique_ptr<inprocess::Virtqueue> ring)
      : kernel_(kernel), kick_fd_(kick_fd), ring_(std::move(ring)) {}
  void OnKick();
  void Discard();

  kernel_abi::Kernel& kernel_;
  const int kick_fd_;
  const std::unique_ptr<inprocess::Virtqueue> ring_;
  std::unique_ptr<Watch> watch_;
};

}  // namespace vhost::user
