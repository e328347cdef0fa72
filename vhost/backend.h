// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A backend serves vrings. The host kernel, this process and another process are three kinds of it
// behind this one interface, and moving a device between two of them is
//
//     bases = old.Stop();  new.Start(the same vrings with those bases);
//
// A stop leaves no trace in the backend and a start needs no history, so fallback, handover, pause,
// resume and capture are all made of these two.
//
//            Create            Start                 Stop
//     (none) ------> stopped ---------> running -------------> stopped
//                       |                  | StartVring, StopVring, SetCall, SetMemory
//                       +-- SetMemory -----+
//
// Thread safety: calls are made one at a time (a device makes them under its lock); which thread
// makes them does not matter. Report and Supported may run beside nothing else either.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/features.h"
#include "vhost/guest_memory.h"
#include "vhost/report.h"
#include "vhost/vring.h"

namespace vhost {

// Where a backend goes on, or got to, in a ring: for a split ring the index of the next available
// entry to take; for a packed one what virtio's GET_VRING_BASE encodes (VHOST_GET_VRING_BASE:
// last_avail and its wrap counter in the low 16 bits, last_used and its in the high).
using VringBase = uint32_t;

// Where a ring begins that nobody has served yet. A packed ring begins with both wrap counters at 1
// (virtio 1.3, 2.8.1).
constexpr VringBase InitialBase(VringLayout layout) {
  return layout == VringLayout::kPacked ? 0x8000'8000 : 0;
}

// One vring with everything that a backend needs to serve it. The fds are lent for the time from
// start to stop; a backend in the kernel or in another process holds copies of its own.
struct BackendVring {
  int queue;  // the device's virtqueue index
  Vring vring;
  VringBase base = 0;
  int kick_fd = -1;  // eventfd; the driver's notifications arrive here
  int call_fd = -1;  // eventfd; signalled for used-buffer interrupts. -1: none wanted
};

struct BackendStart {
  VirtioFeatures acked;
  std::shared_ptr<const MemoryTable> memory;
  std::vector<BackendVring> vrings;
};

struct StoppedVring {
  int queue;
  VringBase base;
};

// Where a backend stands in a ring that it serves.
struct VringPosition {
  VringBase base;
  uint64_t returned;  // ring entries that it has returned since it was started
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual BackendKind kind() const = 0;

  // Those of the features `wanted` that a driver may ack while this backend serves.
  virtual VirtioFeatures Supported(VirtioFeatures wanted) const = 0;

  // Whether `memory` could be served, with the limit and its mend in the message if not.
  virtual absl::Status CheckMemory(const MemoryTable& memory) const = 0;

  // What a Start like `start` (bases apart) can have done ahead, while another backend still serves
  // those vrings: threads, features, the memory table, where the rings lie. No ring is touched. It
  // need not be called, and no Start need follow. FAILED_PRECONDITION if running.
  virtual absl::Status Prepare(const BackendStart& start) {
    static_cast<void>(start);
    return absl::OkStatus();
  }

  // Serves `start.vrings` from their bases on. All or nothing: after an error the backend is
  // stopped, and nothing that was given is held. After success one kick and one call were given on
  // every vring, so that nothing that happened meanwhile is missed. FAILED_PRECONDITION if running.
  virtual absl::Status Start(const BackendStart& start) = 0;

  // Stops all vrings. When it returns, this backend writes to no guest memory and signals no call
  // eventfd any more. It cannot fail in that: where a base could not be asked for, the used index
  // in the ring stands in, which is where the driver must go on. Empty if not running.
  virtual std::vector<StoppedVring> Stop() = 0;

  // Stop in two parts, for a move: what must be over before another backend may start, and the
  // rest, which need not be waited for. Stop is both; a Start does the rest first.
  virtual std::vector<StoppedVring> BeginStop() { return Stop(); }
  virtual void FinishStop() {}

  // One vring more, or one fewer, while the others go on (virtio 1.3, 2.6.1 queue reset; queue
  // pairs coming and going).
  virtual absl::Status StartVring(const BackendVring& vring) = 0;
  virtual absl::StatusOr<VringBase> StopVring(int queue) = 0;

  // Takes another table, running or not, and uses the old one no longer when it returns.
  // FAILED_PRECONDITION where a running ring would lie elsewhere or nowhere.
  virtual absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory) = 0;

  // Another eventfd for a vring's interrupts, running or not. Signals sent to the old one before
  // it returns are the caller's to look for.
  virtual absl::Status SetCall(int queue, int call_fd) = 0;

  // Where it is now in a running packed ring, which keeps no indices in memory for others to read.
  // nullopt: it is not running, or it cannot tell.
  virtual std::optional<VringPosition> Position(int queue) const {
    static_cast<void>(queue);
    return std::nullopt;
  }

  // An eventfd that is signalled when the backend finds a ring broken, -1 if there is none. It is
  // the backend's, for as long as it lives; whoever watches it drains it and calls CountError.
  virtual int error_fd(int queue) const = 0;
  virtual void CountError(int queue) = 0;

  // True if connections live in it from stop to start (vsock), which no other backend can take
  // over: when another one serves, it is destroyed, so that their other ends see them end.
  virtual bool holds_connections() const { return false; }

  virtual BackendReport Report() const = 0;

  // Gives up whatever is slow to close (vhost fds), so that the caller can close those of many
  // backends at once with kernel_abi::CloseInParallel. The backend must be stopped, and is of no
  // use afterwards. A destructor closes them by itself.
  virtual std::vector<kernel_abi::UniqueFd> ReleaseFds() { return {}; }
};

}  // namespace vhost
