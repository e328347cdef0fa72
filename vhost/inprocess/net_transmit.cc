// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/net_transmit.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vhost/inprocess/iovec_pieces.h"
#include "vhost/inprocess/net_header.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::VirtioNetHdr;

}  // namespace

TransmitQueue::TransmitQueue(std::unique_ptr<Virtqueue> queue, const Options& options,
                             NetScratch& scratch, NetCounters& counters)
    : queue_(std::move(queue)), options_(options), scratch_(scratch), counters_(counters) {
  if (options.merge.any() || options.ring != nullptr) {
    planned_ = std::make_unique<Planned>(options.merge);
  }
}

TransmitQueue::Outcome TransmitQueue::Burst() {
  if (planned_ == nullptr) return Signal(SendPlain());
  if (has_plan()) return Signal(SendPlanned());
  if (kept_.held() || (planned_->pause > 0 && !has_ring())) return Signal(SendPlain());
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
    const std::span<const iovec> pieces =
        Gather(kept_header_, kept_.readable(), options_.header_bytes, scratch_.iovecs);
    switch (pieces.empty()
                ? WriteCopy(kept_header_, kept_.readable(), options_.header_bytes, frame_bytes)
                : WriteToTap(pieces)) {
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
  if (planned_ != nullptr && planned_->pause > 0) {
    planned_->pause -= std::min<uint32_t>(planned_->pause, static_cast<uint32_t>(frames));
  }
  if (!queue_->broken().ok()) return Outcome::kBroken;
  return frames > 0 ? Outcome::kWorked : Outcome::kIdle;
}

std::span<const iovec> TransmitQueue::Gather(const VirtioNetHdr& header,
                                             std::span<const iovec> frame, size_t skip,
                                             std::span<iovec> room) {
  // The header as it lies in the guest's memory, if the frame follows it there: the kernel copies
  // it once and checks it again, and write(2) of one piece is cheaper by a tenth.
  if (frame.size() == 1) return frame;
  if (room.empty()) return {};
  room[0] = Piece(&header, options_.header_bytes);
  const size_t pieces = SkipBytes(frame, skip, room.data() + 1, room.size() - 1);
  if (pieces >= room.size()) return {};
  return room.first(1 + pieces);
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
  return written >= 0 ? Sent::kYes : Failed(errno);
}

TransmitQueue::Sent TransmitQueue::Failed(int error) {
  switch (error) {
    case EAGAIN:
      return Sent::kBlocked;
    case EBADFD:  // detached, or its interface is gone
    case EBADF:
    case ENODEV:
    case EPIPE:
      tap_error_ = error;
      return Sent::kTapGone;
    case EIO:
      counters_.Drop(NetDrop::kLinkDown);
      return Sent::kDropped;
    default:
      counters_.Drop(NetDrop::kRefused);
      return Sent::kDropped;
  }
}

}  // namespace vhost::inprocess
