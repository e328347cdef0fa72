// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Credit of one connection (virtio 1.3, 5.10.6.3). Each side says how large its buffer is
// (buf_alloc) and how many bytes it has taken out of it since the beginning (fwd_cnt); the other
// keeps count of what it has sent, and sends no more than there is room for. All counts are of 32
// bits and run over: only differences mean something.
#pragma once

#include <algorithm>
#include <cstdint>

namespace vhost::inprocess {

// What may be sent to the guest.
class VsockSendCredit {
 public:
  // `sent` is where the count begins: 0, but for tests of its running over.
  explicit VsockSendCredit(uint32_t sent = 0) : sent_(sent), forwarded_(sent) {}

  // A packet of the guest told this. False if `forwarded` cannot be so, and was not believed: it
  // would mean more than was ever sent, or is older than what is known (packets that several of the
  // guest's threads send may overtake each other).
  bool Update(uint32_t buffer_bytes, uint32_t forwarded) {
    buffer_bytes_ = buffer_bytes;
    if (forwarded - forwarded_ > sent_ - forwarded_) return false;
    forwarded_ = forwarded;
    return true;
  }

  // Bytes that the guest has room for. None also where it made its buffer smaller than what is on
  // the way to it.
  uint32_t available() const {
    const uint32_t under_way = sent_ - forwarded_;
    return under_way >= buffer_bytes_ ? 0 : buffer_bytes_ - under_way;
  }
  void Sent(uint32_t bytes) { sent_ += bytes; }

  uint32_t peer_buffer_bytes() const { return buffer_bytes_; }
  uint32_t sent() const { return sent_; }
  uint32_t forwarded() const { return forwarded_; }

 private:
  uint32_t buffer_bytes_ = 0;  // the guest's buf_alloc
  uint32_t sent_;
  uint32_t forwarded_;  // the guest's fwd_cnt
};

// What the guest may send.
class VsockReceiveCredit {
 public:
  explicit VsockReceiveCredit(uint32_t buffer_bytes, uint32_t received = 0)
      : buffer_bytes_(buffer_bytes),
        received_(received),
        forwarded_(received),
        told_forwarded_(received) {}

  // `bytes` arrived. False, and nothing counted, if they are more than there was room for.
  bool Receive(uint32_t bytes) {
    if (bytes > buffer_bytes_ - held()) return false;
    received_ += bytes;
    return true;
  }
  // `bytes` of those received left the buffer.
  void Forward(uint32_t bytes) { forwarded_ += std::min(bytes, held()); }

  // Bytes received and not yet forwarded.
  uint32_t held() const { return received_ - forwarded_; }
  // True once the guest knows of so little room that it may have to wait, and there is more: half
  // of the buffer is told at once, as every packet costs the guest an interrupt.
  bool worth_telling() const { return forwarded_ - told_forwarded_ >= (buffer_bytes_ + 1) / 2; }
  // A header with buffer_bytes() and forwarded() is on its way.
  void Told() { told_forwarded_ = forwarded_; }

  uint32_t buffer_bytes() const { return buffer_bytes_; }
  uint32_t received() const { return received_; }
  uint32_t forwarded() const { return forwarded_; }

 private:
  uint32_t buffer_bytes_;  // our buf_alloc
  uint32_t received_;
  uint32_t forwarded_;  // our fwd_cnt
  uint32_t told_forwarded_;
};

}  // namespace vhost::inprocess
