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
  const uint64_t number = number_.fetch_add(1, std::memory_order_relaxed) + 1;
  if (!mutex_.TryLock()) return;  // A reader copies. The gap in the numbers tells of this one.
  if (Clock::now() >= lease_end_) {
    TurnOff();
  } else if (kept_.empty() || kept_.back().number < number) {  // else: overtaken by another thread
    const uint64_t behind = BytesOf(pieces) - std::min<uint64_t>(BytesOf(pieces), header.size());
    const uint64_t payload = std::min(payload_bytes, behind);
    CapturedPacket packet = {
        .number = number,
        .time_ns =
            std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count(),
        .queue = place.queue,
        .head = place.head,
        .chain_bytes = place.chain_bytes,
        .buffers = static_cast<uint32_t>(pieces.size()),
        .length = static_cast<uint32_t>(header.size() + payload)};
    const uint64_t keep = std::min<uint64_t>({packet.length, snaplen_, kMostBytes});
    const uint64_t of_header = std::min<uint64_t>(keep, header.size());
    packet.bytes.reserve(keep);
    packet.bytes.append(reinterpret_cast<const char*>(header.data()), of_header);
    Append(pieces, header.size(), keep - of_header, &packet.bytes);
    while (!kept_.empty() && (kept_.size() >= kMostPackets || kept_bytes_ + keep > kMostBytes)) {
      kept_bytes_ -= kept_.front().bytes.size();
      kept_.pop_front();
    }
    kept_bytes_ += keep;
    kept_.push_back(std::move(packet));
  }
  mutex_.Unlock();
}

void PacketCapture::TurnOff() {
  on_.store(false, std::memory_order_relaxed);
  kept_ = {};
  kept_bytes_ = 0;
  snaplen_ = 0;
}

CaptureBatch PacketCapture::Read(const CaptureRequest& request) {
  const uint32_t snaplen =
      request.snaplen == 0 ? std::numeric_limits<uint32_t>::max() : request.snaplen;
  absl::MutexLock lock(&mutex_);
  const Clock::time_point now = Clock::now();
  if (now >= lease_end_) TurnOff();  // Readers before have gone; what they kept is too old.
  lease_end_ = now + lease_;
  snaplen_ = std::max(snaplen_, snaplen);
  on_.store(true, std::memory_order_relaxed);

  CaptureBatch batch;
  const uint64_t last = number_.load(std::memory_order_relaxed);
  // A number from the future is another capture's.
  batch.next = std::min(request.after.value_or(last), last);
  size_t bytes = 0;
  auto packet = std::upper_bound(
      kept_.begin(), kept_.end(), batch.next,
      [](uint64_t number, const CapturedPacket& other) { return number < other.number; });
  for (; packet != kept_.end(); ++packet) {
    const size_t length = std::min<size_t>(packet->bytes.size(), snaplen);
    if (!batch.packets.empty() && bytes + length > request.most_bytes) {
      batch.more = true;
      break;
    }
    bytes += length;
    batch.dropped += packet->number - batch.next - 1;
    batch.next = packet->number;
    batch.packets.push_back(*packet);
    batch.packets.back().bytes.resize(length);
  }
  return batch;
}

}  // namespace vhost
