// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// VsockMux: packets for the guest.
#include <algorithm>
#include <array>
#include <span>

#include "vhost/inprocess/vsock_mux.h"

namespace vhost::inprocess {
namespace {

using State = VsockConnection::State;

// Connections that are served before others than this device have their turn.
constexpr int kReceiveTurns = 16;
// Receive buffers that are too small to be of use, in a row, before the driver is left alone.
constexpr int kMaxUseless = 64;

// Appends the places of the bytes from `skip` to `skip + bytes` of `from`. Returns how many they
// are; fewer where `into` is full.
uint32_t AppendPieces(std::span<const iovec> from, uint64_t skip, uint64_t bytes,
                      std::span<iovec> into, size_t& used) {
  uint64_t appended = 0;
  for (const iovec& piece : from) {
    if (appended == bytes || used == into.size()) break;
    const uint64_t skipped = std::min<uint64_t>(skip, piece.iov_len);
    skip -= skipped;
    const uint64_t length = std::min(bytes - appended, piece.iov_len - skipped);
    if (length == 0) continue;
    into[used++] = {static_cast<std::byte*>(piece.iov_base) + skipped, length};
    appended += length;
  }
  return static_cast<uint32_t>(appended);
}

}  // namespace

bool VsockMux::ServeReceive() {
  if (receive_ == nullptr || !receive_->broken().ok()) return false;
  receive_starved_ = false;
  bool worked = false;
  const uint64_t before = stats_.to_guest.packets;
  for (int turns = 0; turns < kReceiveTurns && !receive_starved_; ++turns) {
    if (!resets_.empty()) {
      Chain chain;
      if (!TakeBuffer(chain, 0)) break;
      PutPacket(chain, resets_.front());
      resets_.pop_front();
      worked = true;
      continue;
    }
    if (waiting_.empty()) break;
    VsockLink& link = *waiting_.front();
    if (!SendFrom(link)) {
      worked |= !receive_starved_;  // Useless buffers were passed over; there may be better ones.
      break;
    }
    worked = true;
    Dequeue(link);
    Settle(link);  // It may have more, and is behind the others then; or be gone.
  }
  const bool called = receive_->SignalUsed();
  if (stats_.to_guest.packets == before) return worked;
  ++(called ? stats_.to_guest.calls : stats_.to_guest.suppressed_calls);
  return true;
}

bool VsockMux::TakeBuffer(Chain& chain, uint32_t payload_bytes) {
  for (int useless = 0; useless < kMaxUseless; ++useless) {
    if (!receive_->Take(chain)) {
      receive_starved_ = true;
      return false;
    }
    if (receive_kicks_) {
      receive_->DisableKicks();
      receive_kicks_ = false;
    }
    if (chain.writable_bytes() >= kVsockHeaderBytes + payload_bytes) return true;
    stats_.to_guest.Drop(VsockDrop::kShortChain);
    chain.Return(0);
  }
  return false;
}

void VsockMux::PutPacket(Chain& chain, const VsockHeader& header) {
  // TakeBuffer has seen that there is room for it.
  chain.Write(0, std::as_bytes(std::span(&header, 1))).IgnoreError();
  if (is_looked_at()) Show(0, chain, header, chain.writable(), chain.writable_bytes());
  chain.Return(kVsockHeaderBytes + header.len);
  ++stats_.to_guest.packets;
  stats_.to_guest.bytes += header.len;
}

bool VsockMux::SendFrom(VsockLink& link) {
  while (true) {
    while (link.connection.wants_to_send()) {
      Chain chain;
      if (!TakeBuffer(chain, 0)) return false;
      PutPacket(chain, *link.connection.TakeControl());
    }
    if (!link.CanRead()) return true;
    if (link.connection.sendable() > 0) break;
    if (link.connection.waits_for_credit()) return true;
    link.connection.Stalled();
  }
  return link.connection.type() == VsockType::kStream ? SendStream(link) : SendMessage(link);
}

VsockMux::Gathered VsockMux::Gather(uint32_t bytes, uint32_t most) {
  Gathered gathered;
  while (gathered.chains < most && gathered.bytes < bytes && gathered.pieces < kMaxPieces) {
    Chain& chain = chains_[gathered.chains];
    if (!TakeBuffer(chain, 1)) break;
    const uint64_t room = chain.writable_bytes() - kVsockHeaderBytes;
    const uint32_t placed =
        AppendPieces(chain.writable(), kVsockHeaderBytes,
                     std::min<uint64_t>(room, bytes - gathered.bytes), pieces_, gathered.pieces);
    chain_bytes_[gathered.chains++] = placed;
    gathered.bytes += placed;
  }
  return gathered;
}

void VsockMux::SendGathered(VsockLink& link, const Gathered& gathered, uint32_t bytes) {
  const uint32_t last_flags =
      link.connection.type() == VsockType::kSeqpacket ? kernel_abi::kVsockSeqEom : 0;
  uint32_t used = 0;
  for (; used < gathered.chains && bytes > 0; ++used) {
    const uint32_t length = std::min(bytes, chain_bytes_[used]);
    bytes -= length;
    PutPacket(chains_[used], link.connection.TakeData(length, bytes == 0 ? last_flags : 0));
  }
  if (used < gathered.chains) receive_starved_ = false;  // Those are there for the next one.
  for (uint32_t i = gathered.chains; i > used; --i) receive_->PutBack(std::move(chains_[i - 1]));
}

bool VsockMux::SendStream(VsockLink& link) {
  const Gathered gathered = Gather(link.connection.sendable(), std::min(link.burst, kMaxBurst));
  if (gathered.chains == 0) return false;
  const uint32_t bytes = link.Read(std::span(pieces_).first(gathered.pieces));
  SendGathered(link, gathered, bytes);
  // The next read is given twice as much if this one could have taken more, or less if not.
  link.burst = bytes == gathered.bytes ? std::min(2 * gathered.chains, kMaxBurst)
                                       : std::max(1u, gathered.chains / 2);
  return true;
}

bool VsockMux::SendMessage(VsockLink& link) {
  if (!link.message_left().empty()) return SendMessagePieces(link);
  uint64_t empty = 0;
  const std::optional<uint32_t> length = link.NextMessage(empty);
  stats_.to_guest.Drop(VsockDrop::kEmptyMessage, empty);
  if (!length.has_value()) return true;
  // A guest takes nothing out of its buffer before the message is whole: what is longer than the
  // buffer would wait for ever. The sender is beyond telling.
  if (*length > link.connection.send_credit().peer_buffer_bytes() ||
      *length > link.connection.receive_credit().buffer_bytes()) {
    stats_.to_guest.Drop(VsockDrop::kMessageTooLong);
    link.connection.Reset();
    return true;
  }
  if (*length > link.connection.sendable()) {
    link.connection.Stalled();
    return true;
  }
  const Gathered gathered = Gather(*length, kMaxBurst);
  if (gathered.chains == 0) return false;
  if (gathered.bytes == *length) {
    const bool read = link.ReadMessage(*length, std::span(pieces_).first(gathered.pieces));
    SendGathered(link, gathered, read ? *length : 0);
    return true;
  }
  // It needs more buffers than the guest has given, perhaps more than it ever gives at once.
  SendGathered(link, gathered, 0);
  return !link.ReadMessageAside(*length) || SendMessagePieces(link);
}

bool VsockMux::SendMessagePieces(VsockLink& link) {
  for (uint32_t i = 0; i < kMaxBurst && !link.message_left().empty(); ++i) {
    const std::span<const std::byte> left = link.message_left();
    if (link.connection.sendable() == 0) {  // The guest has made its buffer smaller meanwhile.
      link.connection.Stalled();
      return true;
    }
    Chain chain;
    if (!TakeBuffer(chain, 1)) return false;
    const size_t length = std::min<size_t>(
        {left.size(), chain.writable_bytes() - kVsockHeaderBytes, link.connection.sendable()});
    const bool is_last = length == left.size();
    chain.Write(kVsockHeaderBytes, left.first(length)).IgnoreError();
    PutPacket(chain, link.connection.TakeData(static_cast<uint32_t>(length),
                                              is_last ? kernel_abi::kVsockSeqEom : 0));
    link.MessageSent(length);
  }
  return true;
}

}  // namespace vhost::inprocess
