// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/packet_capture.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace vhost {
namespace {

uint64_t BytesOf(std::span<const iovec> pieces) {
  uint64_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  return bytes;
}

void Append(std::span<const iovec> pieces, uint64_t skip, uint64_t bytes, std::string* to) {
  for (const iovec& piece : pieces) {
    if (bytes == 0) return;
    const uint64_t skipped = std::min<uint64_t>(skip, piece.iov_len);
    skip -= skipped;
    const uint64_t length = std::min<uint64_t>(bytes, piece.iov_len - skipped);
    to->append(static_cast<const char*>(piece.iov_base) + skipped, length);
    bytes -= length;
  }
}

}  // namespace

void PacketCapture::Offer(const Place& place, std::span<const std::byte> header,
                          std::span<const iovec> pieces, uint64_t payload_bytes) {
  const uint64_t behind = BytesOf(pieces) - std::min<uint64_t>(BytesOf(pieces), header.size());
  auto packet = std::make_shared<CapturedPacket>(CapturedPacket{
      .time_ns =
          std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count(),
      .queue = place.queue,
      .head = place.head,
      .chain_bytes = place.chain_bytes,
      .buffers = static_cast<uint32_t>(pieces.size()),
      .length = static_cast<uint32_t>(header.size() + std::min(payload_bytes, behind))});
  const uint64_t keep =
      std::min<uint64_t>({packet->length, snaplen_.load(std::memory_order_relaxed), kMostBytes});
  const uint64_t of_header = std::min<uint64_t>(keep, header.size());
  packet->bytes.reserve(keep);
  packet->bytes.append(reinterpret_cast<const char*>(header.data()), of_header);
  Append(pieces, header.size(), keep - of_header, &packet->bytes);

  std::vector<std::shared_ptr<const CapturedPacket>> gone;  // freed without the lock
  absl::MutexLock lock(&mutex_);
  if (Clock::now() >= lease_end_) return TurnOff();
  packet->number = ++number_;
  while (!kept_.empty() && (kept_.size() >= kMostPackets || kept_bytes_ + keep > kMostBytes)) {
    kept_bytes_ -= kept_.front()->bytes.size();
    gone.push_back(std::move(kept_.front()));
    kept_.pop_front();
  }
  kept_bytes_ += keep;
  kept_.push_back(std::move(packet));
}

void PacketCapture::TurnOff() {
  on_.store(false, std::memory_order_relaxed);
  kept_ = {};
  kept_bytes_ = 0;
  snaplen_.store(0, std::memory_order_relaxed);
}

CaptureBatch PacketCapture::Read(const CaptureRequest& request) {
  const uint32_t snaplen =
      request.snaplen == 0 ? std::numeric_limits<uint32_t>::max() : request.snaplen;
  CaptureBatch batch;
  std::vector<std::shared_ptr<const CapturedPacket>> packets;
  {
    absl::MutexLock lock(&mutex_);
    const Clock::time_point now = Clock::now();
    if (now >= lease_end_) TurnOff();  // Readers before have gone; what they kept is too old.
    lease_end_ = now + lease_;
    snaplen_.store(std::max(snaplen_.load(std::memory_order_relaxed), snaplen),
                   std::memory_order_relaxed);
    on_.store(true, std::memory_order_relaxed);
    // A number from the future is another capture's.
    batch.next = std::min(request.after.value_or(number_), number_);
    auto packet =
        std::upper_bound(kept_.begin(), kept_.end(), batch.next,
                         [](uint64_t number, const auto& other) { return number < other->number; });
    size_t bytes = 0;
    for (; packet != kept_.end() && !batch.more; ++packet) {
      bytes += std::min<size_t>((*packet)->bytes.size(), snaplen);
      batch.more = !packets.empty() && bytes > request.most_bytes;
      if (!batch.more) packets.push_back(*packet);
    }
  }
  for (const auto& packet : packets) {
    batch.dropped += packet->number - batch.next - 1;
    batch.next = packet->number;
    batch.packets.push_back({.number = packet->number,
                             .time_ns = packet->time_ns,
                             .queue = packet->queue,
                             .head = packet->head,
                             .chain_bytes = packet->chain_bytes,
                             .buffers = packet->buffers,
                             .length = packet->length,
                             .bytes = packet->bytes.substr(0, snaplen)});
  }
  return batch;
}

}  // namespace vhost
