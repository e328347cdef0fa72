// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A receive queue: frames from a queue of a TAP into a vring, one system call each or a burst of
// them by io_uring (frame_ring.h), straight into the guest's pages.
//
// What a TAP will give next cannot be asked for, and what was read cannot be put back. So chains
// are held for the largest frame that may come before one is read, as far as the driver has made
// them available; they are put back at a stop. A read is offered the chains that frames of late
// would have filled, and behind them memory of ours, from where the tail of a larger frame is
// copied on. A frame that the chains are too few for waits, whole, until the driver adds some: the
// only way to lose it is a stop just then, and it is counted. While all frames are small and a
// buffer alone might be too small for the next, they are read into that memory of ours and copied,
// which costs less than the second piece.
//
// For a guest that cannot take what the TAP does (segmentation, unfinished checksums) frames are
// read into memory of ours, made ready (segment_cut.h) and copied.
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/frame_ring.h"
#include "vhost/inprocess/net_counters.h"
#include "vhost/inprocess/net_scratch.h"
#include "vhost/inprocess/virtqueue.h"

namespace vhost::inprocess {

class ReceiveQueue {
 public:
  enum class Outcome : uint8_t {
    kIdle,     // the TAP has nothing more: go on when it is readable
    kWorked,   // a burst was delivered or dropped
    kStarved,  // the driver has no buffers there: go on when it kicks
    kBroken,   // the driver broke the ring: queue().broken()
    kTapGone,  // tap_error() says how
  };

  struct Options {
    int tap_fd = -1;  // non-blocking; lent
    size_t header_bytes = sizeof(kernel_abi::VirtioNetHdr);
    bool mergeable = false;  // MRG_RXBUF was acked
    bool large = false;      // frames of up to 64 KiB are to be expected
    // Otherwise: no frame is larger, by the TAP's MTU. A buffer that is then needs nothing behind
    // it. 0: not known.
    size_t most_frame_bytes = 0;
    // Of what the TAP may deliver, what the guest takes: others are cut, or finished. With
    // `take_all` (the TAP was told) nothing is looked at.
    bool take_all = true;
    bool takes_partial_checksums = true;
    bool takes_tso4 = true;
    bool takes_tso6 = true;
    bool takes_uso4 = true;
    bool takes_uso6 = true;
    // Of the same fd, lent; used where each buffer alone has room for whatever comes. Null: a
    // system call a frame.
    FrameRing* ring = nullptr;
  };
  ReceiveQueue(std::unique_ptr<Virtqueue> queue, const Options& options, NetScratch& scratch,
               NetCounters& counters);

  // Delivers a burst, publishes it, and signals it.
  Outcome Burst();

  // Whether there may be buffers again, after kStarved: a look at the ring.
  bool HasBuffers();

  // Gives up the chains that are held, so that base() is where the next backend goes on. A frame
  // that waits is lost, and counted, unless there is room for it now.
  void PutBackUnused();

  Virtqueue& queue() { return *queue_; }
  int tap_error() const { return tap_error_; }

 private:
  static constexpr size_t kBurstFrames = 64;
  static constexpr size_t kBurstBytes = 256 * 1024;
  // A frame of the usual MTU with a tag.
  static constexpr size_t kUsualFrameBytes = 1518;

  // A frame, or what is left of one that is being cut, for which there were too few buffers.
  struct Waiting {
    kernel_abi::VirtioNetHdr header;
    std::vector<std::byte> frame;
    size_t next_segment = 0;
  };

  size_t held() const { return chains_.size() - first_; }
  // Takes chains until so many bytes are held. False: there are fewer.
  bool Hold(size_t bytes);
  bool TakeOne();
  // Returns the chains that the first `bytes` of a stream over them fill.
  void ReturnFilled(size_t bytes);
  // Writes at an offset of the stream over the chains that are held, which have room for it.
  void WriteAt(size_t offset, std::span<const std::byte> bytes);
  // How many of them a frame of so many bytes, header included, takes up.
  uint16_t ChainsFor(size_t bytes) const;
  // Whether no chains more can come for a frame that does not fit those held.
  bool NoneCanCome() const;

  enum class Read : uint8_t { kDelivered, kDropped, kWaits, kNothing, kTapGone };
  Read ReadDirect();
  Read ReadAside();
  Read ReadAndConvert();
  // -1 and an outcome, or how many bytes were read.
  ssize_t ReadFromTap(std::span<const iovec> pieces, Read& outcome);
  ssize_t Judge(ssize_t bytes, int error, Read& outcome);
  // Whether this buffer alone will do for whatever comes, and its size then tells if it did not.
  bool IsEnough(const Chain& chain) const;
  // By io_uring, as many as are worth it, counted in `frames`; or one by ReadDirect.
  Read ReadBatch(size_t most, size_t& frames);
  // How many buffers are held, from the first on, that are each enough for a frame.
  size_t HoldForBatch(size_t most);
  // Without mergeable buffers a frame that is not read by io_uring goes into the first of them
  // alone.
  void PutBackAllButOne();
  Read DeliverBatch(std::span<const int> results, size_t& frames);
  Read DeliverLarge(size_t direct_bytes, size_t bytes);
  void Complete(size_t bytes);
  bool Deliver(const kernel_abi::VirtioNetHdr& header, std::span<const std::byte> head,
               std::span<const std::byte> payload);
  // Delivers `frame`, cut if it has to be, from a segment on; the segment that there was no room
  // for, if any.
  Read DeliverConverted(kernel_abi::VirtioNetHdr& header, std::span<std::byte> frame,
                        size_t& next_segment);
  bool NeedsCut(const kernel_abi::VirtioNetHdr& header, std::span<const std::byte> frame) const;
  Read DeliverWaiting();
  void Keep(const kernel_abi::VirtioNetHdr& header, std::span<const std::byte> frame,
            size_t next_segment);
  void Count(size_t bytes);

  std::unique_ptr<Virtqueue> queue_;
  const Options options_;
  NetScratch& scratch_;
  NetCounters& counters_;
  // Chains that are held, in the order they were taken: those from first_ on.
  std::vector<Chain> chains_;
  size_t first_ = 0;
  size_t held_bytes_ = 0;
  // How much of a frame is read into the guest's buffers directly: as much as frames of late had.
  size_t direct_target_;
  // Of a frame with its header, where that is known; 0 also after a larger one came: the MTU has
  // grown.
  size_t most_bytes_;
  // How many reads are worth queueing: it grows while all of them find something.
  size_t batch_ = 1;
  std::unique_ptr<Waiting> waiting_;
  int tap_error_ = 0;
};

}  // namespace vhost::inprocess
