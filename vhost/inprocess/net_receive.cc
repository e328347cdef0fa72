// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/net_receive.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vhost/inprocess/segment_cut.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::VirtioNetHdr;

constexpr size_t kNumBuffersOffset = offsetof(VirtioNetHdr, num_buffers);

}  // namespace

ReceiveQueue::ReceiveQueue(std::unique_ptr<Virtqueue> queue, const Options& options,
                           NetScratch& scratch, NetCounters& counters)
    : queue_(std::move(queue)),
      options_(options),
      scratch_(scratch),
      counters_(counters),
      direct_target_(options.header_bytes + kUsualFrameBytes),
      most_bytes_(options.most_frame_bytes == 0 || options.large
                      ? 0
                      : options.header_bytes + options.most_frame_bytes) {}

ReceiveQueue::Outcome ReceiveQueue::Burst() {
  Outcome outcome = Outcome::kWorked;
  const uint64_t bytes_before = counters_.bytes;
  const size_t want = options_.header_bytes + (options_.large ? kMaxFrameBytes : kUsualFrameBytes);
  size_t frames = 0;
  while (frames < kBurstFrames && counters_.bytes - bytes_before < kBurstBytes) {
    Hold(std::max(want, direct_target_));
    if (held() == 0) {
      outcome = Outcome::kStarved;
      break;
    }
    ++frames;
    const Read read = waiting_ != nullptr        ? DeliverWaiting()
                      : !options_.take_all       ? ReadAndConvert()
                      : options_.ring != nullptr ? ReadBatch(kBurstFrames - frames, frames)
                                                 : ReadDirect();
    if (read == Read::kDelivered || read == Read::kDropped) continue;
    --frames;
    outcome = read == Read::kNothing ? Outcome::kIdle
              : read == Read::kWaits ? Outcome::kStarved
                                     : Outcome::kTapGone;
    break;
  }
  if (!queue_->broken().ok()) return Outcome::kBroken;
  if (frames > 0) {
    if (queue_->SignalUsed()) {
      ++counters_.calls;
    } else {
      ++counters_.suppressed_calls;
    }
  }
  return outcome;
}

bool ReceiveQueue::HasBuffers() { return Hold(held_bytes_ + 1); }

// ---- Chains that are held ----------------------------------------------------------------------

bool ReceiveQueue::Hold(size_t bytes) {
  // Without mergeable buffers a frame goes into one chain, whatever its size.
  const size_t most = options_.mergeable ? queue_->size() : 1;
  while (held_bytes_ < bytes && held() < most) {
    if (!TakeOne()) return false;
  }
  return held_bytes_ >= bytes;
}

bool ReceiveQueue::TakeOne() {
  Chain chain;
  while (queue_->Take(chain)) {
    if (chain.writable_bytes() == 0) {  // Nothing can ever be received into it.
      counters_.Drop(NetDrop::kSmallBuffers);
      continue;
    }
    held_bytes_ += chain.writable_bytes();
    chains_.push_back(std::move(chain));
    return true;
  }
  return false;
}

void ReceiveQueue::ReturnFilled(size_t bytes) {
  while (bytes > 0) {
    Chain& chain = chains_[first_++];
    const size_t part = std::min(bytes, chain.writable_bytes());
    held_bytes_ -= chain.writable_bytes();
    chain.Return(static_cast<uint32_t>(part));
    bytes -= part;
  }
  if (first_ == chains_.size()) {
    chains_.clear();
    first_ = 0;
  } else if (first_ >= 64) {
    chains_.erase(chains_.begin(), chains_.begin() + static_cast<ptrdiff_t>(first_));
    first_ = 0;
  }
}

void ReceiveQueue::WriteAt(size_t offset, std::span<const std::byte> bytes) {
  for (size_t i = first_; i < chains_.size() && !bytes.empty(); ++i) {
    const size_t room = chains_[i].writable_bytes();
    if (offset >= room) {
      offset -= room;
      continue;
    }
    const size_t part = std::min(bytes.size(), room - offset);
    chains_[i].Write(offset, bytes.first(part)).IgnoreError();  // It was checked to fit.
    bytes = bytes.subspan(part);
    offset = 0;
  }
}

uint16_t ReceiveQueue::ChainsFor(size_t bytes) const {
  size_t chains = 0;
  for (size_t left = bytes; left > 0; ++chains) {
    left -= std::min(left, chains_[first_ + chains].writable_bytes());
  }
  return static_cast<uint16_t>(chains);
}

bool ReceiveQueue::NoneCanCome() const {
  return !options_.mergeable || queue_->in_flight() >= queue_->size();
}

// ---- Straight into the guest -------------------------------------------------------------------

ssize_t ReceiveQueue::ReadFromTap(std::span<const iovec> pieces, Read& outcome) {
  ssize_t bytes;
  do {
    // Of one piece, read(2) is cheaper by an eighth of the whole.
    bytes = pieces.size() == 1
                ? ::read(options_.tap_fd, pieces[0].iov_base, pieces[0].iov_len)
                : ::readv(options_.tap_fd, pieces.data(), static_cast<int>(pieces.size()));
  } while (bytes < 0 && errno == EINTR);
  return Judge(bytes, errno, outcome);
}

ssize_t ReceiveQueue::Judge(ssize_t bytes, int error, Read& outcome) {
  if (bytes >= 0) {
    const auto least = static_cast<ssize_t>(options_.header_bytes + kEthernetBytes);
    if (bytes >= least) return bytes;
    counters_.Drop(NetDrop::kShortFrame);
    outcome = Read::kDropped;
    return -1;
  }
  if (error == EAGAIN) {
    outcome = Read::kNothing;
  } else if (error == EFAULT || error == ENOMEM || error == ENOBUFS || error == EINVAL) {
    // The frame is gone: the guest's page is not there, or the kernel's memory.
    counters_.Drop(NetDrop::kRefused);
    outcome = Read::kDropped;
  } else {
    tap_error_ = error;
    outcome = Read::kTapGone;
  }
  return -1;
}

bool ReceiveQueue::IsEnough(const Chain& chain) const {
  if (chain.writable().size() != 1) return false;
  const size_t most = most_bytes_ != 0 ? most_bytes_ : options_.header_bytes + kMaxFrameBytes;
  return chain.writable_bytes() > most;
}

ReceiveQueue::Read ReceiveQueue::ReadDirect() {
  Read outcome = Read::kNothing;
  if (const Chain& first = chains_[first_]; IsEnough(first)) {
    const ssize_t result = ReadFromTap(first.writable(), outcome);
    if (result < 0) return outcome;
    if (static_cast<size_t>(result) == first.writable_bytes()) {
      most_bytes_ = 0;
      counters_.Drop(NetDrop::kLongFrame);
      return Read::kDropped;
    }
    Complete(static_cast<size_t>(result));
    return Read::kDelivered;
  }
  if (direct_target_ == options_.header_bytes + kUsualFrameBytes) return ReadAside();
  size_t count = 0;
  size_t direct = 0;
  for (size_t i = first_; i < chains_.size() && direct < direct_target_; ++i) {
    const std::span<const iovec> writable = chains_[i].writable();
    if (count + writable.size() > NetScratch::kMaxIovecs - 1) break;
    std::copy(writable.begin(), writable.end(), &scratch_.iovecs[count]);
    count += writable.size();
    direct += chains_[i].writable_bytes();
  }
  scratch_.iovecs[count++] = {scratch_.bytes.data(), scratch_.bytes.size()};
  const ssize_t result = ReadFromTap(std::span(scratch_.iovecs).first(count), outcome);
  if (result < 0) return outcome;
  const auto bytes = static_cast<size_t>(result);
  direct_target_ = std::max(
      {bytes, direct_target_ - direct_target_ / 8, options_.header_bytes + kUsualFrameBytes});
  if (bytes > direct) return DeliverLarge(direct, bytes);

  Complete(bytes);
  return Read::kDelivered;
}

// One buffer is not enough for whatever may come, and it comes in small frames: to read them into
// our memory and copy them costs less (by an eighth at 64 and at 1500 bytes) than what readv(2)
// takes more than read(2).
ReceiveQueue::Read ReceiveQueue::ReadAside() {
  Read outcome = Read::kNothing;
  const iovec aside = {scratch_.bytes.data(), scratch_.bytes.size()};
  const ssize_t result = ReadFromTap(std::span(&aside, 1), outcome);
  if (result < 0) return outcome;
  const auto bytes = static_cast<size_t>(result);
  direct_target_ = std::max(bytes, direct_target_);
  const iovec& first = chains_[first_].writable()[0];
  if (bytes > first.iov_len) return DeliverLarge(0, bytes);
  std::memcpy(first.iov_base, scratch_.bytes.data(), bytes);
  Complete(bytes);
  return Read::kDelivered;
}

// ---- A burst by io_uring -----------------------------------------------------------------------

ReceiveQueue::Read ReceiveQueue::ReadBatch(size_t most, size_t& frames) {
  // While there is only a frame now and then, reads in vain would cost more than is won.
  size_t batch = std::min(batch_, most + 1);
  batch_ = std::min(2 * batch_, FrameRing::kMaxBatch);
  if (batch > 1 && options_.ring->broken().ok()) batch = HoldForBatch(batch);
  if (batch < 2 || !options_.ring->broken().ok()) {
    PutBackAllButOne();
    const Read read = ReadDirect();
    if (read == Read::kNothing) batch_ = 1;
    return read;
  }
  for (size_t i = 0; i < batch; ++i) options_.ring->AddRead(chains_[first_ + i].writable());
  --frames;  // It was counted, and is counted again.
  const Read read = DeliverBatch(options_.ring->Run(), frames);
  if (read == Read::kNothing) batch_ = 1;
  if (read != Read::kDelivered && read != Read::kDropped) ++frames;
  PutBackAllButOne();
  return read;
}

void ReceiveQueue::PutBackAllButOne() {
  if (options_.mergeable) return;
  while (held() > 1) {
    held_bytes_ -= chains_.back().writable_bytes();
    queue_->PutBack(std::move(chains_.back()));
    chains_.pop_back();
  }
}

size_t ReceiveQueue::HoldForBatch(size_t most) {
  while (held() < most && TakeOne()) continue;
  size_t count = 0;
  while (count < std::min(most, held()) && IsEnough(chains_[first_ + count])) ++count;
  return count;
}

ReceiveQueue::Read ReceiveQueue::DeliverBatch(std::span<const int> results, size_t& frames) {
  Read last = Read::kDelivered;
  // Buffers, of those that were offered, that are still empty though one behind them is not.
  size_t empty = 0;
  for (const int result : results) {
    last = Read::kDelivered;
    if (result == FrameRing::kNotTried) {  // There is no ring any more.
      ++empty;
      continue;
    }
    const ssize_t bytes = Judge(result, -result, last);
    if (bytes < 0) {
      ++empty;
      if (last == Read::kTapGone) return last;
      if (last == Read::kDropped) ++frames;
      continue;
    }
    ++frames;
    const Chain& from = chains_[first_ + empty];
    const Chain& to = chains_[first_];
    const auto size = static_cast<size_t>(bytes);
    if (size == from.writable_bytes() || size > to.writable_bytes()) {
      most_bytes_ = 0;
      counters_.Drop(NetDrop::kLongFrame);
      ++empty;
      continue;
    }
    // A frame came just behind a read that found none: buffers are used in order all the same.
    if (empty > 0) std::memmove(to.writable()[0].iov_base, from.writable()[0].iov_base, size);
    Complete(size);
  }
  return last;
}

// The header is there, but for how many chains the frame takes up, which no TAP knows.
void ReceiveQueue::Complete(size_t bytes) {
  Chain& first = chains_[first_];
  if (first.writable()[0].iov_len >= std::max(bytes, sizeof(VirtioNetHdr))) {  // as it mostly is
    const uint16_t one = 1;
    if (options_.header_bytes > kNumBuffersOffset) {
      std::memcpy(static_cast<std::byte*>(first.writable()[0].iov_base) + kNumBuffersOffset, &one,
                  sizeof(one));
    }
    ReturnFilled(bytes);
    Count(bytes - options_.header_bytes);
    return;
  }
  if (options_.header_bytes > kNumBuffersOffset) {
    const uint16_t chains = ChainsFor(bytes);
    WriteAt(kNumBuffersOffset, std::as_bytes(std::span(&chains, 1)));
  }
  ReturnFilled(bytes);
  Count(bytes - options_.header_bytes);
}

// The first `direct_bytes` are in the chains, the rest in our memory.
ReceiveQueue::Read ReceiveQueue::DeliverLarge(size_t direct_bytes, size_t bytes) {
  const std::span<const std::byte> tail =
      std::span(scratch_.bytes).first(std::min(bytes - direct_bytes, scratch_.bytes.size()));
  if (direct_bytes + tail.size() < bytes) {  // The rest is nowhere.
    counters_.Drop(NetDrop::kLongFrame);
    return Read::kDropped;
  }
  if (Hold(bytes)) {
    WriteAt(direct_bytes, tail);
    Complete(bytes);
    return Read::kDelivered;
  }
  if (NoneCanCome()) {
    counters_.Drop(NetDrop::kSmallBuffers);
    return Read::kDropped;
  }
  // Gathered again from where it was read to.
  std::vector<std::byte> all;
  all.reserve(bytes);
  for (size_t i = first_; all.size() < direct_bytes; ++i) {
    for (const iovec& piece : chains_[i].writable()) {
      const size_t part = std::min(piece.iov_len, direct_bytes - all.size());
      const auto* from = static_cast<const std::byte*>(piece.iov_base);
      all.insert(all.end(), from, from + part);
    }
  }
  all.insert(all.end(), tail.begin(), tail.end());
  VirtioNetHdr header{};
  std::memcpy(&header, all.data(), std::min(sizeof(header), options_.header_bytes));
  Keep(header, std::span(all).subspan(options_.header_bytes), 0);
  return Read::kWaits;
}

void ReceiveQueue::Count(size_t bytes) {
  ++counters_.packets;
  counters_.bytes += bytes;
}

// ---- Through our memory ------------------------------------------------------------------------

bool ReceiveQueue::Deliver(const VirtioNetHdr& header, std::span<const std::byte> head,
                           std::span<const std::byte> payload) {
  const size_t header_bytes = options_.header_bytes;
  const size_t bytes = header_bytes + head.size() + payload.size();
  if (!Hold(bytes)) return false;
  VirtioNetHdr final = header;
  final.num_buffers = ChainsFor(bytes);
  WriteAt(0, std::as_bytes(std::span(&final, 1)).first(std::min(header_bytes, sizeof(final))));
  WriteAt(header_bytes, head);
  WriteAt(header_bytes + head.size(), payload);
  ReturnFilled(bytes);
  Count(head.size() + payload.size());
  return true;
}

ReceiveQueue::Read ReceiveQueue::ReadAndConvert() {
  VirtioNetHdr header{};
  const iovec pieces[] = {{&header, std::min(sizeof(header), options_.header_bytes)},
                          {scratch_.bytes.data(), scratch_.bytes.size()}};
  Read outcome = Read::kNothing;
  const ssize_t result = ReadFromTap(pieces, outcome);
  if (result < 0) return outcome;
  const size_t bytes = static_cast<size_t>(result) - options_.header_bytes;
  if (bytes > scratch_.bytes.size()) {
    counters_.Drop(NetDrop::kLongFrame);
    return Read::kDropped;
  }
  const std::span<std::byte> frame = std::span(scratch_.bytes).first(bytes);
  size_t next_segment = 0;
  outcome = DeliverConverted(header, frame, next_segment);
  if (outcome == Read::kWaits) Keep(header, frame, next_segment);
  return outcome;
}

bool ReceiveQueue::NeedsCut(const VirtioNetHdr& header, std::span<const std::byte> frame) const {
  switch (header.gso_type & ~kernel_abi::kNetHdrGsoEcn) {
    case kernel_abi::kNetHdrGsoNone:
      return false;
    case kernel_abi::kNetHdrGsoTcpV4:
      return !options_.takes_tso4;
    case kernel_abi::kNetHdrGsoTcpV6:
      return !options_.takes_tso6;
    case kernel_abi::kNetHdrGsoUdpL4: {
      uint16_t type = frame.size() < kEthernetBytes ? 0 : Load16(frame.data() + 12);
      if (type == kEtherTypeVlan && frame.size() >= kEthernetBytes + kVlanTagBytes) {
        type = Load16(frame.data() + 16);
      }
      return type == kEtherTypeIpv6 ? !options_.takes_uso6 : !options_.takes_uso4;
    }
    default:
      return true;
  }
}

ReceiveQueue::Read ReceiveQueue::DeliverConverted(VirtioNetHdr& header, std::span<std::byte> frame,
                                                  size_t& next_segment) {
  const bool finish = !options_.takes_partial_checksums;
  if (!NeedsCut(header, frame)) {
    if (finish) {
      if ((header.flags & kernel_abi::kNetHdrFNeedsCsum) != 0 && !FinishChecksum(header, frame)) {
        counters_.Drop(NetDrop::kBadHeader);
        return Read::kDropped;
      }
      // Also for when it has to wait: it is finished once.
      header.flags = 0;
      header.csum_start = header.csum_offset = 0;
    }
    if (Deliver(header, frame, {})) return Read::kDelivered;
    if (!NoneCanCome()) return Read::kWaits;
    counters_.Drop(NetDrop::kSmallBuffers);
    return Read::kDropped;
  }
  const std::optional<SegmentCut> cut = SegmentCut::Parse(header, frame, finish);
  if (!cut.has_value()) {
    counters_.Drop(NetDrop::kBadGso);
    return Read::kDropped;
  }
  for (; next_segment < cut->count(); ++next_segment) {
    SegmentCut::Segment segment;
    cut->Make(next_segment, segment);
    const auto head = std::span<const std::byte>(segment.head).first(segment.head_bytes);
    if (!Deliver(segment.header, head, segment.payload)) {
      // Without mergeable buffers one at a time is held, and none was there: more may come.
      const bool too_small = held() > 0 && NoneCanCome();
      if (!too_small) return Read::kWaits;
      counters_.Drop(NetDrop::kSmallBuffers);
      continue;
    }
    if (next_segment > 0) ++counters_.cut;
  }
  return Read::kDelivered;
}

// ---- Waiting -----------------------------------------------------------------------------------

void ReceiveQueue::Keep(const VirtioNetHdr& header, std::span<const std::byte> frame,
                        size_t next_segment) {
  waiting_ =
      std::make_unique<Waiting>(Waiting{.header = header,
                                        .frame = std::vector<std::byte>(frame.begin(), frame.end()),
                                        .next_segment = next_segment});
}

ReceiveQueue::Read ReceiveQueue::DeliverWaiting() {
  Waiting& waiting = *waiting_;
  Read outcome;
  if (options_.take_all) {
    outcome = Deliver(waiting.header, waiting.frame, {}) ? Read::kDelivered
              : NoneCanCome()                            ? Read::kDropped
                                                         : Read::kWaits;
    if (outcome == Read::kDropped) counters_.Drop(NetDrop::kSmallBuffers);
  } else {
    outcome = DeliverConverted(waiting.header, waiting.frame, waiting.next_segment);
  }
  if (outcome != Read::kWaits) waiting_.reset();
  return outcome;
}

void ReceiveQueue::PutBackUnused() {
  if (waiting_ != nullptr && queue_->broken().ok() && DeliverWaiting() == Read::kWaits) {
    counters_.Drop(NetDrop::kStopped);
  }
  waiting_.reset();
  while (held() > 0) {
    queue_->PutBack(std::move(chains_.back()));
    chains_.pop_back();
  }
  chains_.clear();
  first_ = 0;
  held_bytes_ = 0;
}

}  // namespace vhost::inprocess
