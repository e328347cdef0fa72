// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Knows which requests a back end has in flight that does not note them itself (INFLIGHT_SHMFD), so
// that the next back end can do exactly those again when this one dies: none lost, none twice.
//
// The back end is given an available ring of ours instead of the driver's. A thread copies what the
// driver makes available into it, one index a request, and keeps a list of what it has copied and
// what the used ring has returned. Descriptors, buffers and the used ring stay the driver's:
//
//   driver --avail--> [relay] --avail--> back end --used--> driver
//             kick              kick                call
//
// A request costs one wake-up more on its way there and none on its way back. Both rings count
// alike, so that a position in one is that position in the other. When a back end is lost, the
// requests in flight are laid anew, in the driver's order, from the used index on: Rewind.
//
// The driver's notifications are asked for by its own event index, which the back end must not
// write: it is not given VIRTIO_F_EVENT_IDX, and the driver has to have acked it.
//
// Thread safety: any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/backend.h"
#include "vhost/guest_memory.h"
#include "vhost/vring.h"

namespace vhost::user {

class AvailRelay {
 public:
  // With room for `queues` rings of any size. `error_fds`, lent: signalled when a ring turns out
  // to be broken, by queue.
  static absl::StatusOr<std::unique_ptr<AvailRelay>> Create(kernel_abi::Kernel& kernel, int queues,
                                                            std::vector<int> error_fds);
  ~AvailRelay();
  AvailRelay(const AvailRelay&) = delete;
  AvailRelay& operator=(const AvailRelay&) = delete;

  // `guest` and, beyond it, the memory that the rings are in: what the back end is given.
  absl::StatusOr<std::shared_ptr<const MemoryTable>> WithRings(const MemoryTable& guest) const;

  // Relays a queue, from `vring.base` on. Its eventfds are lent until Remove.
  void Add(const BackendVring& vring);
  void Remove(int queue);
  // The ring as the back end is to have it: in `memory` (WithRings), and with a kick eventfd of
  // ours. The queue must have been added.
  absl::StatusOr<BackendVring> ForBackEnd(const BackendVring& vring,
                                          const MemoryTable& memory) const;
  // Nobody serves the queue: lays what is in flight anew, and returns where the next one begins.
  // DATA_LOSS: the back end has returned what it was not given, so that nobody can tell.
  absl::StatusOr<VringBase> Rewind(int queue);

 private:
  struct Ring {
    Vring guest;
    int kick_fd;
    uint16_t next;       // of the driver's available entries, that is not copied yet
    uint16_t seen_used;  // of the used entries
    bool is_broken = false;
    uint64_t order = 0;
    std::vector<uint64_t> in_flight;  // by head: when it came; 0: it is not
  };

  AvailRelay(kernel_abi::Kernel& kernel, kernel_abi::UniqueFd memfd, std::byte* mapping,
             std::vector<kernel_abi::EventFd> kicks, kernel_abi::EventFd wake,
             std::vector<int> error_fds)
      : kernel_(kernel),
        memfd_(std::move(memfd)),
        mapping_(mapping),
        kicks_(std::move(kicks)),
        wake_(std::move(wake)),
        error_fds_(std::move(error_fds)) {}

  size_t bytes() const;
  void Loop();
  // Copies what there is. False: there is more than fits into one turn.
  bool Relay(int queue, Ring& ring) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteUsed(Ring& ring) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Break(int queue, Ring& ring) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The ring of ours, for the back end.
  std::byte* Shadow(int queue) const;

  kernel_abi::Kernel& kernel_;
  const kernel_abi::UniqueFd memfd_;
  std::byte* const mapping_;
  const std::vector<kernel_abi::EventFd> kicks_;  // by queue
  const kernel_abi::EventFd wake_;
  const std::vector<int> error_fds_;

  mutable absl::Mutex mutex_;
  std::map<int, Ring> rings_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace vhost::user
