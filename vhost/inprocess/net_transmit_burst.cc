// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// TransmitQueue: bursts that are planned before anything of them is sent, so that frames can be
// merged, or go out together by io_uring.
#include <poll.h>

#include <algorithm>
#include <utility>

#include "vhost/inprocess/iovec_pieces.h"
#include "vhost/inprocess/net_transmit.h"

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

}  // namespace

bool TransmitQueue::Plan() {
  Planned& plan = *planned_;
  plan.flows.Begin();
  plan.packet_count = plan.write_count = plan.next_write = plan.piece_count = 0;
  // For all of the plan: who merges also says which write a frame is in.
  const bool merge = options_.merge.any() && plan.pause == 0;
  size_t taken = 0;
  size_t bytes = 0;
  while (taken < kBurstFrames && bytes < kBurstBytes && plan.packet_count < plan.packets.size()) {
    Packet& packet = plan.packets[plan.packet_count];
    if (!queue_->Take(packet.chain)) break;
    ++taken;
    const std::optional<VirtioNetHdr> header = ReadHeader(packet.chain);
    if (!header.has_value()) {
      packet.chain.Return(0);
      continue;
    }
    const size_t room = plan.pieces.size() - plan.piece_count;
    iovec* pieces = plan.pieces.data() + plan.piece_count;
    const size_t count = SkipBytes(packet.chain.readable(), options_.header_bytes, pieces, room);
    if (count > room) {
      // For the next burst; or, if this is its first, by itself.
      if (plan.packet_count > 0) {
        queue_->PutBack(std::move(packet.chain));
        break;
      }
      kept_header_ = *header;
      kept_ = std::move(packet.chain);
      return true;
    }
    packet.header = *header;
    packet.pieces = static_cast<uint32_t>(plan.piece_count);
    packet.piece_count = static_cast<uint32_t>(count);
    packet.bytes = static_cast<uint32_t>(packet.chain.readable_bytes() - options_.header_bytes);
    packet.next = -1;
    plan.piece_count += count;
    bytes += packet.bytes;
    AddToPlan(packet, merge);
  }
  plan.pause -= std::min(plan.pause, static_cast<uint32_t>(plan.packet_count));
  JudgeMerging();
  return taken > 0;
}

void TransmitQueue::AddToPlan(Packet& packet, bool merge) {
  Planned& plan = *planned_;
  const auto index = static_cast<int16_t>(plan.packet_count++);
  if (!merge) {
    plan.writes[plan.write_count++] = {.first = index, .last = index, .header = {}};
    return;
  }
  ++plan.looked_at;
  const FlowMerge::Added added = plan.flows.Add(
      {packet.header, std::span(&plan.pieces[packet.pieces], packet.piece_count), packet.bytes});
  Write& write = plan.writes[added.write];
  if (added.merged) {
    plan.packets[static_cast<size_t>(write.last)].next = index;
    ++plan.merged;
  } else {
    write = {.first = index, .last = index, .header = {}};
    plan.write_count = added.write + size_t{1};
  }
  write.last = index;
}

void TransmitQueue::JudgeMerging() {
  Planned& plan = *planned_;
  if (plan.looked_at < kJudgeAfter) return;
  if (plan.merged < plan.looked_at / kWorthwhile) plan.pause = kPauseFrames;
  plan.looked_at = plan.merged = 0;
}

std::span<const iovec> TransmitQueue::GatherPlanned(size_t index, std::span<iovec> room) {
  Planned& plan = *planned_;
  Write& write = plan.writes[index];
  const Packet& first = plan.packets[static_cast<size_t>(write.first)];
  if (write.first == write.last) {
    return Gather(first.header, first.chain.readable(), options_.header_bytes, room);
  }
  // FlowMerge counts the pieces of a write, and stays below half of what is taken at once.
  if (room.size() < FlowMerge::kMaxPieces + 2) return {};
  const FlowMerge::Headers headers = plan.flows.HeadersOf(index);
  write.header = headers.header;
  room[0] = Piece(&write.header, options_.header_bytes);
  room[1] = Piece(headers.bytes.data(), headers.bytes.size());
  size_t count = 2;
  for (int16_t i = write.first; i >= 0;) {
    const Packet& packet = plan.packets[static_cast<size_t>(i)];
    count += SkipBytes(std::span(&plan.pieces[packet.pieces], packet.piece_count),
                       headers.bytes.size(), &room[count], room.size() - count);
    i = packet.next;
  }
  return room.first(count);
}

TransmitQueue::Sent TransmitQueue::SendOnePlanned() {
  Planned& plan = *planned_;
  const std::span<const iovec> pieces = GatherPlanned(plan.next_write, scratch_.iovecs);
  if (!pieces.empty()) return WriteToTap(pieces);
  const Packet& packet = plan.packets[static_cast<size_t>(plan.writes[plan.next_write].first)];
  return WriteCopy(packet.header, packet.chain.readable(), options_.header_bytes, packet.bytes);
}

std::optional<TransmitQueue::Outcome> TransmitQueue::Conclude(Sent sent) {
  if (sent == Sent::kBlocked) return Outcome::kBlocked;
  if (sent == Sent::kTapGone) return Outcome::kTapGone;
  Finish(planned_->writes[planned_->next_write++], sent == Sent::kYes);
  return std::nullopt;
}

TransmitQueue::Outcome TransmitQueue::SendPlanned() {
  Planned& plan = *planned_;
  if (kept_.held()) return SendPlain();
  if (has_ring()) return SendPlannedByRing();
  while (plan.next_write < plan.write_count) {
    if (const std::optional<Outcome> end = Conclude(SendOnePlanned())) return *end;
  }
  return queue_->broken().ok() ? Outcome::kWorked : Outcome::kBroken;
}

TransmitQueue::Outcome TransmitQueue::SendPlannedByRing() {
  Planned& plan = *planned_;
  FrameRing& ring = *options_.ring;
  const std::span<iovec> all = scratch_.iovecs;
  while (plan.next_write < plan.write_count) {
    size_t gathered = 0;
    for (size_t i = plan.next_write; i < plan.write_count && ring.queued() < FrameRing::kMaxBatch;
         ++i) {
      const std::span<const iovec> pieces = GatherPlanned(i, all.subspan(gathered));
      if (pieces.empty()) break;
      if (pieces.data() == all.data() + gathered) gathered += pieces.size();
      ring.AddWrite(pieces);
    }
    if (ring.queued() == 0) {  // More pieces than fit anywhere.
      if (const std::optional<Outcome> end = Conclude(SendOnePlanned())) return *end;
      continue;
    }
    const std::span<const int> results = ring.Run();
    if (ring.broken().ok() && results[0] == FrameRing::kNotTried) {
      if (const std::optional<Outcome> end = Conclude(SendOnePlanned())) return *end;
      continue;
    }
    for (const int result : results) {
      if (result == FrameRing::kNotTried) break;
      if (const auto end = Conclude(result >= 0 ? Sent::kYes : Failed(-result))) return *end;
    }
    if (!ring.broken().ok()) return SendPlanned();
  }
  return queue_->broken().ok() ? Outcome::kWorked : Outcome::kBroken;
}

void TransmitQueue::Finish(Write& write, bool sent) {
  bool is_first = true;
  for (int16_t i = write.first; i >= 0; is_first = false) {
    Packet& packet = planned_->packets[static_cast<size_t>(i)];
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
  Planned& plan = *planned_;
  // Frames of other flows may have overtaken those that are left, and a base cannot tell of holes:
  // so they get one more chance.
  if (tap_error_ == 0 && queue_->broken().ok() && SendPlanned() == Outcome::kBlocked) {
    pollfd writable{.fd = options_.tap_fd, .events = POLLOUT, .revents = 0};
    ::poll(&writable, 1, kStopPatienceMs);
    SendPlanned();
  }
  // What was not overtaken goes back; the rest is lost.
  size_t left = plan.packet_count;
  while (left > 0 && plan.packets[left - 1].chain.held()) {
    queue_->PutBack(std::move(plan.packets[--left].chain));
  }
  for (size_t i = 0; i < left; ++i) {
    if (!plan.packets[i].chain.held()) continue;
    plan.packets[i].chain.Return(0);
    counters_.Drop(NetDrop::kStopped);
  }
  plan.next_write = plan.write_count;
}

}  // namespace vhost::inprocess
