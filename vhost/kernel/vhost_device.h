// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The order in which a vhost device wants to be asked, and the exact undo of every step: the heart
// of the kernel backend. A VhostDevice is one vhost device (one open node, or one connection) that
// serves a few vrings: a queue pair of vhost-net, or a whole vhost-vsock. What differs between
// kinds of devices, the request that puts a ring into service, is a VringAttachment.
//
//            Prepare                     Attach                      Stop
//    idle -------------> rings set up ------------> rings served -------------> idle
//             |                            |
//   SET_FEATURES  if they changed       each ring (net), or all      detach each
//   SET_MEM_TABLE if it changed         at once (vsock); then        GET_VRING_BASE each
//   a ring, if it lies elsewhere:       a kick and a call each       KICK -1, CALL -1 each
//     NUM ADDR
//     [ERR, BUSYLOOP: the first time]
//   a ring: BASE CALL KICK
//
// Prepare and Attach are two steps so that a device of several nodes has all of them set up before
// the first one touches a ring. An error in Prepare leaves the rings idle, one in Attach leaves
// them set up, for Stop. The kernel then holds nothing that was given (eventfds, a TAP). What stays
// between starts is only what belongs to this object or has no effect on a stopped device:
// features, the memory table, where a ring lies, the error eventfds. Announce says that much ahead.
//
// Should a device ever refuse to be stopped (it does not, while the process that owns it asks), its
// fd is closed, which stops it, and the device is of no use any more: every call then says why.
//
// Thread safety: none; calls are made one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "vhost/backend.h"
#include "vhost/features.h"
#include "vhost/guest_memory.h"
#include "vhost/kernel/vhost_ops.h"
#include "vhost/vring.h"

namespace vhost {

// Puts rings that are set up into service and takes them out of it.
class VringAttachment {
 public:
  virtual ~VringAttachment() = default;
  // True if one request serves all rings of the node or none (`index` is 0 then).
  virtual bool all_at_once() const = 0;
  virtual absl::Status Attach(uint32_t index) = 0;
  // When it returns OK the worker touches the ring no more.
  virtual absl::Status Detach(uint32_t index) = 0;
};

// A vring by its number in the vhost device.
struct VhostVring {
  uint32_t index;
  Vring vring;
  VringBase base = 0;
  int kick_fd = -1;
  int call_fd = -1;
};

struct StoppedVhostVring {
  uint32_t index;
  VringBase base;
};

// Devices have two vrings a node as a rule. These lists are made at each start and stop.
using VringIndexList = absl::InlinedVector<uint32_t, 4>;
using StoppedVringList = absl::InlinedVector<StoppedVhostVring, 4>;

class VhostDevice {
 public:
  // `ops` and `attachment` must outlive it. Makes an error eventfd for each of `vring_count` rings.
  // A busy-loop timeout of 0 leaves the kernel's own setting (no busy loop).
  static absl::StatusOr<std::unique_ptr<VhostDevice>> Create(kernel_abi::Kernel& kernel,
                                                             VhostOps& ops,
                                                             VringAttachment& attachment,
                                                             uint32_t vring_count,
                                                             uint32_t busyloop_us);
  ~VhostDevice();
  VhostDevice(const VhostDevice&) = delete;
  VhostDevice& operator=(const VhostDevice&) = delete;

  // What Prepare says to the kernel that has no effect on a device that stands still: all but the
  // rings' bases and eventfds. The rings stay idle.
  absl::Status Announce(VhostFeatures features, const std::shared_ptr<const MemoryTable>& memory,
                        std::span<const VhostVring> vrings);
  // Sets `vrings` up, beside those that are already. The rings must have been validated against
  // `memory`. On an error those of this call are idle again, and others are as they were.
  absl::Status Prepare(VhostFeatures features, const std::shared_ptr<const MemoryTable>& memory,
                       std::span<const VhostVring> vrings);
  // Serves all rings that are set up (a device that serves all rings at once waits until all of
  // them are), and gives each one kick and one call. On an error those that were not served before
  // are not served now, and stay set up: Stop or StopVring makes them idle. One that was served for
  // a moment may have got on; the base that it is stopped with says so.
  absl::Status Attach();
  // Makes all rings idle. Returns where each of those that were set up goes on.
  StoppedVringList Stop();
  // The first part of that: no ring is served any more, and all stay set up. TakeDownAll makes them
  // idle.
  StoppedVringList Suspend();
  void TakeDownAll();
  // Makes one ring idle, while the others are served on. NOT_FOUND if it is not set up.
  absl::StatusOr<VringBase> StopVring(uint32_t index);

  // Hands another table to the device, if a ring is set up; Prepare does it if none is.
  // FAILED_PRECONDITION if a ring would move.
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory);
  absl::Status SetCall(uint32_t index, int call_fd);

  uint32_t vring_count() const { return static_cast<uint32_t>(slots_.size()); }
  bool is_set_up(uint32_t index) const { return slots_[index].ring.has_value(); }
  bool is_served(uint32_t index) const { return is_set_up(index) && slots_[index].ring->served; }
  const Vring& vring(uint32_t index) const { return slots_[index].ring->vring; }
  VhostFeatures features() const { return features_.value_or(VhostFeatures()); }
  uint64_t memory_updates() const { return memory_updates_; }
  int error_fd(uint32_t index) const { return slots_[index].error.get(); }

  // What is known of a ring, its live position included. `queue` and `vhost_fd` are the caller's.
  BackendVringReport Report(uint32_t index) const;
  void CountError(uint32_t index) { ++slots_[index].errors; }

 private:
  struct Ring {  // what the kernel was given, from Prepare to Stop
    Vring vring;
    int kick_fd;
    int call_fd;
    bool served;
  };
  struct Slot {
    kernel_abi::EventFd error;
    bool error_is_set = false;  // the kernel has `error`, and the busy-loop timeout
    uint64_t errors = 0;
    // Where the kernel was told that the ring lies. It keeps that while the ring is idle.
    std::optional<Vring> place;
    bool place_is_checked = false;  // against table_
    std::optional<Ring> ring;
  };

  VhostDevice(kernel_abi::Kernel& kernel, VhostOps& ops, VringAttachment& attachment,
              std::vector<Slot> slots, uint32_t busyloop_us)
      : kernel_(&kernel),
        ops_(&ops),
        attachment_(&attachment),
        slots_(std::move(slots)),
        busyloop_us_(busyloop_us) {}

  absl::Status CheckVrings(const std::shared_ptr<const MemoryTable>& memory,
                           std::span<const VhostVring> vrings) const;
  absl::Status Place(const VhostVring& vring);
  void DrainErrors(std::span<const VhostVring> vrings);
  absl::Status SetUp(const VhostVring& vring);
  // Attaches what can be attached; those that were are appended to `attached` also on an error.
  absl::Status AttachAll(VringIndexList& attached);
  // Makes the rings not served; if the device refuses, closes it.
  void Detach(std::span<const uint32_t> indices);
  VringBase BaseOf(uint32_t index);
  // Takes the eventfds of a ring that is not served away from the kernel.
  void TakeDown(uint32_t index);
  absl::Status SendTable(const std::shared_ptr<const MemoryTable>& memory);
  VringIndexList SetUpVrings() const;
  VringIndexList ServedVrings() const;
  // An undo that failed: nothing but closing can stop the device now.
  void GiveUp(const absl::Status& why);

  kernel_abi::Kernel* kernel_;
  VhostOps* ops_;
  VringAttachment* attachment_;
  std::vector<Slot> slots_;  // by vhost index
  uint32_t busyloop_us_;
  // What the kernel has been told; empty before the first time.
  std::optional<VhostFeatures> features_;
  std::shared_ptr<const MemoryTable> table_;
  uint64_t memory_updates_ = 0;
  bool was_served_ = false;  // so that error eventfds may have been signalled
  absl::Status given_up_;    // not OK: why the device was closed
};

}  // namespace vhost
