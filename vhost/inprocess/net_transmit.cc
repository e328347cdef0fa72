// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/net_transmit.h"

#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vhost/inprocess/net_header.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::VirtioNetHdr;

// How long a stop waits for a TAP that has no room, when frames that were merged are still to go.
constexpr int kStopPatienceMs = 5;

// Merging is judged after so many frames, and left alone for so many if fewer than one in
// kWorthwhile of them was merged.
constexpr uint32_t kJudgeAfter = 1024;
constexpr uint32_t kWorthwhile = 32;
constexpr uint32_t kPauseFrames = 16384;

iovec Piece(const void* at, size_t bytes) { return {const_cast<void*>(at), bytes}; }

// Copies the pieces of `from` behind the first `skip` bytes; how many there are. At most `room`.
size_t Skip(std::span<const iovec> from, size_t skip, iovec* to, size_t room) {
  size_t count = 0;
  for (const iovec& piece : from) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    if (count == room) return room + 1;
    to[count++] = Piece(static_cast<const std::byte*>(piece.iov_base) + skip, piece.iov_len - skip);
    skip = 0;
  }
  return count;
}

}  // namespace

TransmitQueue::TransmitQueue(std::unique_ptr<Virtqueue> queue, const Options& options,
                             NetScratch& scratch, NetCounters& counters)
    : queue_(std::move(queue)), options_(options), scratch_(scratch), counters_(counters) {
  if (options.merge.any()) merging_ = std::make_unique<Merging>(options.merge);
}

TransmitQueue::Outcome TransmitQueue::Burst() {
  if (merging_ == nullptr) return Signal(SendPlain());
  if (has_plan()) return Signal(SendPlanned());
  if (merging_->pause > 0 || kept_.held()) return Signal(SendPlain());
  if (!Plan()) return Signal(queue_->broken().ok() ? Outcome::kIdle : Outcome::kBroken);
  return Signal(SendPlanned());
}

TransmitQueue::Outcome TransmitQueue::Signal(Outcome outcome) {
  if (outcome != Outcome::kIdle) {
    if (queue_->SignalUsed()) {
      ++counters_.calls;
    } else {
      ++counters_.suppressed_calls;
    }
  }
  return outcome;
}

std::optional<VirtioNetHdr> TransmitQueue::ReadHeader(const Chain& chain) {
  const size_t header_bytes = options_.header_bytes;
  if (chain.readable_bytes() < header_bytes + kEthernetBytes) {
    counters_.Drop(NetDrop::kShortFrame);
    return std::nullopt;
  }
  if (chain.readable_bytes() > header_bytes + kMaxFrameBytes) {
    counters_.Drop(NetDrop::kLongFrame);
    return std::nullopt;
  }
  VirtioNetHdr header{};
  const size_t copied = std::min(header_bytes, sizeof(header));
  if (const iovec& first = chain.readable()[0]; first.iov_len >= copied) {
    std::memcpy(&header, first.iov_base, copied);
  } else {
    chain.Read(0, std::as_writable_bytes(std::span(&header, 1)).first(copied)).IgnoreError();
  }
  if (!CheckNetHeader(header, chain.readable_bytes() - header_bytes)) {
    counters_.Drop(NetDrop::kBadHeader);
    return std::nullopt;
  }
  return header;
}

// ---- One frame, one write ----------------------------------------------------------------------

TransmitQueue::Outcome TransmitQueue::SendPlain() {
  size_t frames = 0;
  size_t bytes = 0;
  while (frames < kBurstFrames && bytes < kBurstBytes) {
    if (!kept_.held()) {
      if (!queue_->Take(kept_)) break;
      ++frames;
      const std::optional<VirtioNetHdr> header = ReadHeader(kept_);
      if (!header.has_value()) {
        kept_.Return(0);
        continue;
      }
      kept_header_ = *header;
    } else {
      ++frames;
    }
    const size_t frame_bytes = kept_.readable_bytes() - options_.header_bytes;
    switch (SendFrame(kept_header_, kept_.readable(), options_.header_bytes, frame_bytes)) {
      case Sent::kYes:
        ++counters_.packets;
        counters_.bytes += frame_bytes;
        break;
      case Sent::kBlocked:
        return Outcome::kBlocked;
      case Sent::kTapGone:
        return Outcome::kTapGone;
      case Sent::kDropped:
        break;
    }
    kept_.Return(0);
    bytes += frame_bytes;
  }
  if (merging_ != nullptr && merging_->pause > 0) {
    merging_->pause -= std::min<uint32_t>(merging_->pause, static_cast<uint32_t>(frames));
  }
  if (!queue_->broken().ok()) return Outcome::kBroken;
  return frames > 0 ? Outcome::kWorked : Outcome::kIdle;
}

TransmitQueue::Sent TransmitQueue::SendFrame(const VirtioNetHdr& header,
                                             std::span<const iovec> frame, size_t skip,
                                             size_t bytes) {
  // The header as it lies in the guest's memory, if the frame follows it there: the kernel copies
  // it once and checks it again, and write(2) of one piece is cheaper by a tenth.
  if (skip != 0 && frame.size() == 1) return WriteToTap(frame);
  scratch_.iovecs[0] = Piece(&header, options_.header_bytes);
  const size_t pieces = Skip(frame, skip, &scratch_.iovecs[1], NetScratch::kMaxIovecs - 1);
  if (pieces > NetScratch::kMaxIovecs - 1) return WriteCopy(header, frame, skip, bytes);
  return WriteToTap(std::span(scratch_.iovecs).first(1 + pieces));
}

TransmitQueue::Sent TransmitQueue::WriteCopy(const VirtioNetHdr& header,
                                             std::span<const iovec> frame, size_t skip,
                                             size_t bytes) {
  // A frame in more pieces than writev(2) takes. Its length was checked.
  std::vector<std::byte> copy(bytes);
  size_t at = 0;
  for (const iovec& piece : frame) {
    const size_t skipped = std::min(skip, piece.iov_len);
    skip -= skipped;
    const size_t part = std::min(piece.iov_len - skipped, bytes - at);
    std::memcpy(copy.data() + at, static_cast<const std::byte*>(piece.iov_base) + skipped, part);
    at += part;
  }
  const iovec pieces[] = {Piece(&header, options_.header_bytes), Piece(copy.data(), at)};
  return WriteToTap(pieces);
}

TransmitQueue::Sent TransmitQueue::WriteToTap(std::span<const iovec> pieces) {
  ssize_t written;
  do {
    written = pieces.size() == 1
                  ? ::write(options_.tap_fd, pieces[0].iov_base, pieces[0].iov_len)
                  : ::writev(options_.tap_fd, pieces.data(), static_cast<int>(pieces.size()));
  } while (written < 0 && errno == EINTR);
  if (written >= 0) return Sent::kYes;
  switch (errno) {
    case EAGAIN:
      return Sent::kBlocked;
    case EBADFD:  // detached, or its interface is gone
    case EBADF:
    case ENODEV:
    case EPIPE:
      tap_error_ = errno;
      return Sent::kTapGone;
    case EIO:
      counters_.Drop(NetDrop::kLinkDown);
      return Sent::kDropped;
    default:
      counters_.Drop(NetDrop::kRefused);
      return Sent::kDropped;
  }
}

// ---- Merging -----------------------------------------------------------------------------------

bool TransmitQueue::Plan() {
  Merging& merging = *merging_;
  merging.flows.Begin();
  merging.packet_count = merging.write_count = merging.next_write = merging.piece_count = 0;
  size_t taken = 0;
  size_t bytes = 0;
  while (taken < kBurstFrames && bytes < kBurstBytes &&
         merging.packet_count < merging.packets.size()) {
    Packet& packet = merging.packets[merging.packet_count];
    if (!queue_->Take(packet.chain)) break;
    ++taken;
    const std::optional<VirtioNetHdr> header = ReadHeader(packet.chain);
    if (!header.has_value()) {
      packet.chain.Return(0);
      continue;
    }
    const size_t room = merging.pieces.size() - merging.piece_count;
    iovec* pieces = &merging.pieces[merging.piece_count];
    const size_t count = Skip(packet.chain.readable(), options_.header_bytes, pieces, room);
    if (count > room) {
      // For the next burst; or, if this is its first, by itself.
      if (merging.packet_count > 0) {
        queue_->PutBack(std::move(packet.chain));
        break;
      }
      kept_header_ = *header;
      kept_ = std::move(packet.chain);
      merging.pause = 1;
      return true;
    }
    packet.header = *header;
    packet.pieces = static_cast<uint32_t>(merging.piece_count);
    packet.piece_count = static_cast<uint32_t>(count);
    packet.bytes = static_cast<uint32_t>(packet.chain.readable_bytes() - options_.header_bytes);
    packet.next = -1;
    merging.piece_count += count;
    bytes += packet.bytes;
    const auto index = static_cast<int16_t>(merging.packet_count++);
    const FlowMerge::Added added =
        merging.flows.Add({*header, std::span(pieces, count), packet.bytes});
    Write& write = merging.writes[added.write];
    if (added.merged) {
      merging.packets[static_cast<size_t>(write.last)].next = index;
      ++merging.merged;
    } else {
      write = {.first = index};
      merging.write_count = added.write + size_t{1};
    }
    write.last = index;
  }
  merging.looked_at += static_cast<uint32_t>(merging.packet_count);
  JudgeMerging();
  return taken > 0;
}

void TransmitQueue::JudgeMerging() {
  Merging& merging = *merging_;
  if (merging.looked_at < kJudgeAfter) return;
  if (merging.merged < merging.looked_at / kWorthwhile) merging.pause = kPauseFrames;
  merging.looked_at = merging.merged = 0;
}

TransmitQueue::Outcome TransmitQueue::SendPlanned() {
  Merging& merging = *merging_;
  if (kept_.held()) return SendPlain();
  for (; merging.next_write < merging.write_count; ++merging.next_write) {
    Write& write = merging.writes[merging.next_write];
    const Packet& first = merging.packets[static_cast<size_t>(write.first)];
    const Sent sent = write.first == write.last ? SendFrame(first.header, first.chain.readable(),
                                                            options_.header_bytes, first.bytes)
                                                : SendMerged(merging.next_write);
    if (sent == Sent::kBlocked) return Outcome::kBlocked;
    if (sent == Sent::kTapGone) return Outcome::kTapGone;
    Finish(write, sent == Sent::kYes);
  }
  return queue_->broken().ok() ? Outcome::kWorked : Outcome::kBroken;
}

TransmitQueue::Sent TransmitQueue::SendMerged(size_t index) {
  Merging& merging = *merging_;
  const FlowMerge::Headers headers = merging.flows.HeadersOf(index);
  scratch_.iovecs[0] = Piece(&headers.header, options_.header_bytes);
  scratch_.iovecs[1] = Piece(headers.bytes.data(), headers.bytes.size());
  size_t count = 2;
  for (int16_t i = merging.writes[index].first; i >= 0;) {
    const Packet& packet = merging.packets[static_cast<size_t>(i)];
    // Fits: FlowMerge counts the pieces of a write, and stays below half of what is taken.
    count += Skip(std::span(&merging.pieces[packet.pieces], packet.piece_count),
                  headers.bytes.size(), &scratch_.iovecs[count], NetScratch::kMaxIovecs - count);
    i = packet.next;
  }
  return WriteToTap(std::span(scratch_.iovecs).first(count));
}

void TransmitQueue::Finish(Write& write, bool sent) {
  bool is_first = true;
  for (int16_t i = write.first; i >= 0; is_first = false) {
    Packet& packet = merging_->packets[static_cast<size_t>(i)];
    packet.chain.Return(0);
    i = packet.next;
    // What the TAP did not take was counted once; it is as many frames as were in it.
    if (!sent) {
      if (!is_first) counters_.Drop(NetDrop::kRefused);
      continue;
    }
    ++counters_.packets;
    counters_.bytes += packet.bytes;
    if (!is_first) ++counters_.merged;
  }
}

// ---- Stopping ----------------------------------------------------------------------------------

void TransmitQueue::PutBackUnsent() {
  if (kept_.held()) queue_->PutBack(std::move(kept_));
  if (!has_plan()) return;
  Merging& merging = *merging_;
  // Frames of other flows may have overtaken those that are left, and a base cannot tell of holes:
  // so they get one more chance.
  if (tap_error_ == 0 && queue_->broken().ok() && SendPlanned() == Outcome::kBlocked) {
    pollfd writable{.fd = options_.tap_fd, .events = POLLOUT, .revents = 0};
    ::poll(&writable, 1, kStopPatienceMs);
    SendPlanned();
  }
  // What was not overtaken goes back; the rest is lost.
  size_t left = merging.packet_count;
  while (left > 0 && merging.packets[left - 1].chain.held()) {
    queue_->PutBack(std::move(merging.packets[--left].chain));
  }
  for (size_t i = 0; i < left; ++i) {
    if (!merging.packets[i].chain.held()) continue;
    merging.packets[i].chain.Return(0);
    counters_.Drop(NetDrop::kStopped);
  }
  merging.next_write = merging.write_count;
}

}  // namespace vhost::inprocess
