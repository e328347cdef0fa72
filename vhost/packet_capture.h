// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A look at the packets that a backend in this process carries, with the chains that they came in.
// Nobody looks at first, and then a packet costs one relaxed load. Somebody who reads turns it on;
// it turns itself off when nobody has read for a while, so that a reader who dies leaves nothing.
//
//   off --Read--> on --Read--> on --no Read for the lease--> off, and what was kept is freed
//
// What is kept is bounded, and the oldest goes first. A reader says what it has seen last, so that
// there may be several, and each is told how many it has missed. The data path waits for no reader
// but for the moment in which one takes note of what is there; bytes are copied without the lock.
//
// Thread safety: any thread.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace vhost {

struct CapturedPacket {
  uint64_t number = 0;  // from 1 on, of those that came while it was on
  int64_t time_ns = 0;  // since the Epoch
  int queue = 0;
  uint16_t head = 0;         // of its chain: the first descriptor's index; in a packed ring its ID
  uint32_t chain_bytes = 0;  // that the driver gave, readable or writable
  uint32_t buffers = 0;      // pieces of memory that those are in
  uint32_t length = 0;       // of the packet, bytes
  std::string bytes;         // the first of them
};

struct CaptureRequest {
  std::optional<uint64_t> after;  // `next` of the read before; without it, what comes from now
  uint32_t snaplen = 0;           // bytes of a packet that are wanted; 0: all
  size_t most_bytes = size_t{1} << 19;  // of all packets; one that is longer comes alone
};
struct CaptureBatch {
  std::vector<CapturedPacket> packets;
  uint64_t next = 0;     // for the next read
  uint64_t dropped = 0;  // missed before and among these
  bool more = false;     // there are some already
};

class PacketCapture {
 public:
  static constexpr size_t kMostPackets = 4096;
  static constexpr size_t kMostBytes = size_t{4} << 20;
  static constexpr std::chrono::nanoseconds kLease = std::chrono::seconds(10);

  explicit PacketCapture(std::chrono::nanoseconds lease = kLease) : lease_(lease) {}
  PacketCapture(const PacketCapture&) = delete;
  PacketCapture& operator=(const PacketCapture&) = delete;

  // ---- The data path ----
  bool is_on() const { return on_.load(std::memory_order_relaxed); }
  struct Place {
    int queue;
    uint16_t head;
    uint32_t chain_bytes;
  };
  // A packet of `header` and of the `payload_bytes` behind the first header.size() bytes of
  // `pieces`. Fewer are told where the pieces have fewer. Guest memory may change meanwhile: what
  // is kept is what it was at some moment.
  void Offer(const Place& place, std::span<const std::byte> header, std::span<const iovec> pieces,
             uint64_t payload_bytes);

  // ---- Those who look ----
  CaptureBatch Read(const CaptureRequest& request);

 private:
  using Clock = std::chrono::steady_clock;
  void TurnOff() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::chrono::nanoseconds lease_;
  std::atomic<bool> on_ = false;
  std::atomic<uint32_t> snaplen_ = 0;  // the most that a reader wants; written with the lock
  absl::Mutex mutex_;
  uint64_t number_ ABSL_GUARDED_BY(mutex_) = 0;  // of the last packet
  std::deque<std::shared_ptr<const CapturedPacket>> kept_ ABSL_GUARDED_BY(mutex_);
  size_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  Clock::time_point lease_end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost
