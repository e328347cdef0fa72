// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/discarded_ring.h"

#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/memory/memory.h"

namespace vhost::user {

absl::StatusOr<std::unique_ptr<DiscardedRing>> DiscardedRing::Create(
    kernel_abi::Kernel& kernel, EventLoop& loop, const BackendVring& vring, VirtioFeatures acked,
    std::shared_ptr<const MemoryTable> memory) {
  std::unique_ptr<inprocess::Virtqueue> ring = inprocess::Virtqueue::Create(
      kernel, vring.vring, vring.base, acked, std::move(memory), vring.call_fd);
  if (!ring->broken().ok()) return ring->broken();
  auto discarded = absl::WrapUnique(new DiscardedRing(kernel, vring.kick_fd, std::move(ring)));
  absl::StatusOr<std::unique_ptr<Watch>> watch =
      loop.WatchReadable(vring.kick_fd, [it = discarded.get()] { it->OnKick(); });
  if (!watch.ok()) return watch.status();
  discarded->watch_ = *std::move(watch);
  discarded->Discard();
  return discarded;
}

void DiscardedRing::OnKick() {
  uint64_t count = 0;
  const ssize_t result = kernel_.Read(kick_fd_, &count, sizeof(count));
  // Something that is ready for ever and can never be read would keep the loop busy for ever.
  if (result <= 0 && result != -EAGAIN && result != -EINTR) watch_.reset();
  Discard();
}

void DiscardedRing::Discard() {
  // Once round the ring: a driver that goes on adding kicks again.
  for (int left = ring_->size(); left > 0; --left) {
    inprocess::Chain chain;
    if (!ring_->Take(chain)) break;
    chain.Return(0);
  }
  // Kicks are never switched off here, but whoever served the ring before may have done so.
  static_cast<void>(ring_->EnableKicks());
  ring_->SignalUsed();
}

}  // namespace vhost::user
