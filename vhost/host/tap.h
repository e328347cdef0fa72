// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A TAP: an Ethernet interface of the host whose frames are read and written through fds, one a
// queue. Made here, found by name, or taken over by fds that were opened elsewhere. One that was
// there before is left as it was found, but for its offloads, which are left off.
//
// Frames carry virtio's header (IFF_VNET_HDR), through which checksums and segmentation are left
// to the other side. The size of the header must be the one that the driver negotiated, or frames
// are dropped without a word: a net backend checks it at the start.
//
// Thread safety: none; one call at a time.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/host/link.h"
#include "vhost/report.h"

namespace vhost {

// How many bytes of a guest may be under way behind its TAP. With the kernel's own setting (no
// limit) vhost-net sends in batches, and a guest can make it spin for ever on one frame that the
// batch refuses: a frame shorter than its header, or a checksum beyond its end. With any limit it
// does not batch, and such frames are dropped. See docs/threat-model.md for what that costs.
inline constexpr int kDefaultSndbufBytes = 1 << 20;
inline constexpr int kUnlimitedSndbuf = 0x7fffffff;

struct TapOptions {
  // "tap0"; "tap%d" or nothing lets the kernel choose a number.
  std::string name;
  int queues = 1;  // 1 to 256; more than one makes a multi-queue TAP
  // Instead of a name: queues that are open and attached (TUNSETIFF), one each. Taken over.
  std::vector<kernel_abi::UniqueFd> fds;
  int sndbuf_bytes = kDefaultSndbufBytes;
  // For a TAP that is made here: who else may attach, and whether it stays when this ends.
  std::optional<uid_t> owner;
  std::optional<gid_t> group;
  bool persist = false;
};

class Tap {
 public:
  static absl::StatusOr<std::unique_ptr<Tap>> Create(kernel_abi::Kernel& kernel,
                                                     TapOptions options);
  ~Tap();
  Tap(const Tap&) = delete;
  Tap& operator=(const Tap&) = delete;

  const std::string& name() const { return name_; }
  int queues() const { return static_cast<int>(queues_.size()); }
  // The fd of a queue; all of them stay open for the life of the object.
  int fd(int queue) const { return queues_[static_cast<size_t>(queue)].fd.get(); }
  // In the order of the queues: what a net backend is lent.
  std::vector<int> fds() const;
  bool was_there_before() const { return found_.has_value(); }

  // What it can leave to a guest to finish, TUN_F_*: what SetOffloads takes. (UFO is not among
  // it: Linux 4.14 and newer takes the bit and does nothing.)
  unsigned supported_offloads() const { return supported_offloads_; }
  // Whether it takes UDP segmentation (USO) from a guest; CSUM, TSO, ECN and UFO it always takes.
  bool takes_uso() const { return (supported_offloads_ & kernel_abi::kTunFUso4) != 0; }

  // Of the whole interface. 10, 12 or 24 bytes. Not while a queue is served.
  absl::Status SetHeaderBytes(int bytes);
  // What it may deliver unfinished from now on: TUN_F_* bits, of those supported.
  absl::Status SetOffloads(unsigned offloads);
  // The same beside those, whatever they are: for a backend that finishes packets itself.
  absl::Status SetExtraOffloads(unsigned offloads);
  // A queue that is not attached gets no frames from the host, and keeps its fd. All are attached
  // at first. No-op if it is so already; a single-queue TAP is always attached.
  absl::Status SetQueueAttached(int queue, bool attached);
  // The interface drops what is not for these addresses before it reaches the guest; with no
  // address it drops nothing.
  absl::Status SetFilter(const kernel_abi::MacFilter& filter);

  // `links`: where to ask for the interface's state and MTU, which are left out without.
  TapReport Report(Links* links = nullptr) const;

 private:
  struct Queue {
    kernel_abi::UniqueFd fd;
    bool attached = true;
  };
  struct Found {  // as it was before this object
    int header_bytes;
    int sndbuf_bytes;
  };

  Tap(kernel_abi::Kernel& kernel, std::string name, std::vector<Queue> queues)
      : kernel_(&kernel), name_(std::move(name)), queues_(std::move(queues)) {}

  // A queue through which the interface is asked: an attached one, as others answer EBADFD.
  kernel_abi::Subject subject() const;
  absl::Status Adopt();
  absl::Status Configure(const TapOptions& options);
  void ProbeOffloads();

  kernel_abi::Kernel* kernel_;
  std::string name_;
  std::vector<Queue> queues_;
  bool is_multi_queue_ = false;
  std::optional<Found> found_;
  int header_bytes_ = 0;
  int sndbuf_bytes_ = 0;
  unsigned supported_offloads_ = 0;
  unsigned offloads_ = 0;
  unsigned extra_offloads_ = 0;
};

}  // namespace vhost
