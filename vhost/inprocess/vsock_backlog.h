// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the guest sent on one connection and the host's socket did not take yet: a ring of bytes,
// and for seqpacket the lengths of the messages in it. It takes what the connection's credit lets
// come, and so needs no limit of its own; it holds memory only while it holds bytes.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>

namespace vhost::inprocess {

class VsockBacklog {
 public:
  bool empty() const { return bytes_ == 0; }
  uint32_t bytes() const { return bytes_; }

  // Copies the bytes of `pieces` behind what is there.
  void Append(std::span<const iovec> pieces);
  // Of seqpacket: what was appended since the last time is one message. Not for one of 0 bytes.
  void EndMessage();
  // Bytes appended behind the last whole message.
  uint32_t open_bytes() const { return open_bytes_; }
  bool has_message() const { return !messages_.empty(); }
  uint32_t first_message_bytes() const { return messages_.front(); }

  // The first `bytes` of it, in at most two pieces (those of 0 bytes are of no meaning).
  std::array<iovec, 2> Front(uint32_t bytes) const;
  // They were passed on. Of seqpacket: exactly the first message.
  void Consume(uint32_t bytes);
  // Forgets everything.
  void Clear();

 private:
  void Reserve(uint32_t bytes);

  std::unique_ptr<std::byte[]> ring_;
  uint32_t capacity_ = 0;  // of the ring; a power of two
  uint32_t begin_ = 0;     // offset of the first byte
  uint32_t bytes_ = 0;
  uint32_t open_bytes_ = 0;
  std::deque<uint32_t> messages_;
};

}  // namespace vhost::inprocess
