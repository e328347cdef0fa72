// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Frames and their virtio headers, of a hostile driver on the way out and of anybody on the way in,
// through the queues of the in-process net backend; a socket plays the TAP. An input is a byte that
// says which way, and a list of actions, read to its end; every byte string is one. What comes out
// is held against what went in (net_oracle.h).
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fuzz/net_frames.h"
#include "tests/fuzz/net_oracle.h"
#include "vhost/inprocess/net_receive.h"
#include "vhost/inprocess/net_transmit.h"

namespace fuzz {
namespace {

using vhost::inprocess::CheckNetHeader;
using vhost::inprocess::NetCounters;
using vhost::inprocess::NetDrop;
using vhost::inprocess::NetScratch;
using vhost::inprocess::ReceiveQueue;
using vhost::inprocess::TransmitQueue;
using vhost::inprocess::Virtqueue;

constexpr uint64_t kRamBytes = 16 << 20;
constexpr uint16_t kRing = 64;

// A ring, the queue's half of a TAP that is none, and the other half.
class World {
 public:
  World() {
    int ends[2];
    Require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    tap_.Reset(ends[0]);
    wire_.Reset(ends[1]);
  }

 protected:
  std::unique_ptr<Virtqueue> MakeQueue(vhost::VringBase base) const {
    auto queue = Virtqueue::Create(
        kernel_abi::LinuxKernel(), *vhost::Vring::Create(ring_.setup(), ring_.layout(), *memory_),
        base, {vhost::VirtioFeature::kVersion1, vhost::VirtioFeature::kIndirectDesc}, memory_, -1);
    Require(queue->broken().ok());
    return queue;
  }
  // Allocated memory is never freed: false when it is used up.
  bool HasRoom(size_t bytes) {
    allocated_ += bytes + 8192;
    return allocated_ < kRamBytes && outstanding_ < kRing;
  }
  uint64_t Drops() const {
    uint64_t all = 0;
    for (const uint64_t each : counters_.drops) all += each;
    return all;
  }

  fakes::GuestRam ram_{kRamBytes};
  std::shared_ptr<const vhost::MemoryTable> memory_ = ram_.table();
  fakes::DriverRing ring_{ram_, {.size = kRing}};
  kernel_abi::UniqueFd tap_, wire_;
  std::unique_ptr<NetScratch> scratch_ = std::make_unique<NetScratch>();
  NetCounters counters_;
  Frames frames_;
  size_t allocated_ = 1 << 16;
  uint64_t outstanding_ = 0;  // chains with the device
};

// ---- Out ---------------------------------------------------------------------------------------

class TransmitWorld : public World {
 public:
  explicit TransmitWorld(Input& input) {
    const uint8_t bits = input.Byte();
    options_ = {.tap_fd = tap_.get(),
                .header_bytes = (bits & 16) != 0 ? kHeader : kernel_abi::kNetHdrSizeLegacy,
                .merge = {.tcp4 = (bits & 1) != 0,
                          .tcp6 = (bits & 2) != 0,
                          .udp4 = (bits & 4) != 0,
                          .udp6 = (bits & 8) != 0}};
    Start(0);
  }

  void Run(Input& input) {
    while (!input.empty() && counters_.dropped(NetDrop::kStopped) == 0) Act(input);
    if (counters_.dropped(NetDrop::kStopped) != 0) return;  // Those may be any.
    while (Burst()) ReadWire();
    ReadWire();
    Require(wire_oracle_.missing() == 0 && outstanding_ == 0);
    Require(Drops() == bad_);
  }

 private:
  void Start(vhost::VringBase base) {
    queue_ = std::make_unique<TransmitQueue>(MakeQueue(base), options_, *scratch_, counters_);
  }

  void Act(Input& input) {
    const uint8_t action = input.Byte();
    if (action % 4 != 0) return Publish(input, action / 4);
    switch (action / 4 % 4) {
      case 0:
      case 1:
        Burst();
        return;
      case 2:
        return ReadWire();
      default: {
        ReadWire();
        queue_->PutBackUnsent();
        queue_->queue().Flush();
        Require(queue_->queue().in_flight() == 0);
        const vhost::VringBase base = queue_->queue().base();
        queue_.reset();
        TakeUsed();
        Start(base);
      }
    }
  }

  void Publish(Input& input, unsigned layout) {
    NetFrame frame = frames_.Next(input);
    Bytes bytes(options_.header_bytes);
    std::memcpy(bytes.data(), &frame.header, bytes.size());
    bytes.insert(bytes.end(), frame.bytes.begin(), frame.bytes.end());
    if (layout % 16 == 15) bytes.resize(1 + input.Byte() % 32);
    if (layout % 16 == 14) bytes.resize(bytes.size() + 70'000);
    if (!HasRoom(bytes.size())) return;
    constexpr size_t kPieceBytes[] = {1 << 20, 12, 10, 1, 54, 100, 4096, 1514};
    // A table has no more entries than a ring may have.
    const size_t piece = std::max(kPieceBytes[layout % 8], bytes.size() / 60 + 1);
    auto chain = ring_.Chain();
    for (size_t at = 0; at < bytes.size(); at += piece) {
      const size_t part = std::min(piece, bytes.size() - at);
      std::move(chain).Readable(std::span<const std::byte>(bytes).subspan(at, part));
    }
    std::move(chain).Indirect();
    std::move(chain).Publish();
    ++outstanding_;
    const size_t size =
        bytes.size() < options_.header_bytes ? 0 : bytes.size() - options_.header_bytes;
    frame.bytes.assign(bytes.end() - static_cast<ptrdiff_t>(size), bytes.end());
    if (size < vhost::inprocess::kEthernetBytes || size > vhost::inprocess::kMaxFrameBytes ||
        !CheckNetHeader(frame.header, size)) {
      ++bad_;
      return;
    }
    VirtioNetHdr again = frame.header;
    Require(CheckNetHeader(again, size) && Same(again, frame.header));
    wire_oracle_.Expect(std::move(frame));
  }

  // False: nothing left to do.
  bool Burst() {
    const TransmitQueue::Outcome outcome = queue_->Burst();
    Require(outcome != TransmitQueue::Outcome::kBroken &&
            outcome != TransmitQueue::Outcome::kTapGone);
    TakeUsed();
    return outcome != TransmitQueue::Outcome::kIdle;
  }
  void TakeUsed() {
    for (; ring_.TakeUsed().has_value(); --outstanding_) Require(outstanding_ > 0);
  }

  void ReadWire() {
    static std::array<std::byte, 80'000> buffer;
    ssize_t size;
    while ((size = ::recv(wire_.get(), buffer.data(), buffer.size(), 0)) > 0) {
      VirtioNetHdr header{};
      Require(static_cast<size_t>(size) > options_.header_bytes);
      std::memcpy(&header, buffer.data(), options_.header_bytes);
      wire_oracle_.Sent(header, Bytes(buffer.data() + options_.header_bytes, buffer.data() + size));
    }
  }

  TransmitQueue::Options options_;
  std::unique_ptr<TransmitQueue> queue_;
  WireOracle wire_oracle_;
  uint64_t bad_ = 0;  // frames that must be dropped
};

// ---- In ----------------------------------------------------------------------------------------

class ReceiveWorld : public World {
 public:
  explicit ReceiveWorld(Input& input) {
    const uint16_t bits = input.Word();
    const auto bit = [bits](int number) { return (bits >> number & 1) != 0; };
    options_ = {.tap_fd = tap_.get(),
                .mergeable = bit(0),
                .large = bit(1),
                .most_frame_bytes = bit(2) ? size_t{1518} : 0,
                .take_all = bit(3),
                .takes_partial_checksums = bit(4),
                .takes_tso4 = bit(5),
                .takes_tso6 = bit(6),
                .takes_uso4 = bit(7),
                .takes_uso6 = bit(8)};
    queue_ = std::make_unique<ReceiveQueue>(MakeQueue(0), options_, *scratch_, counters_);
  }

  void Run(Input& input) {
    while (!input.empty()) Act(input);
    queue_->PutBackUnused();
    queue_->queue().Flush();
    TakeUsed();
    Require(queue_->queue().in_flight() == 0);
    // All that came and is not there was dropped and counted; so was what came in pieces.
    Require(delivered_ == counters_.packets && at_ <= expected_.size());
  }

 private:
  void Act(Input& input) {
    const uint8_t action = input.Byte();
    switch (action % 4) {
      case 0:
        return PostBuffers(input, action / 4);
      case 1:
      case 2:
        return FromHost(input);
      default:
        (void)queue_->HasBuffers();
        Require(queue_->Burst() != ReceiveQueue::Outcome::kBroken);
        return TakeUsed();
    }
  }

  void PostBuffers(Input& input, unsigned layout) {
    constexpr uint32_t kSizes[] = {1, 12, 64, 1526, 2048, 4096, 66'000, 0};
    uint32_t size = kSizes[layout % 8];
    if (size == 0) size = 1 + input.Word();
    for (unsigned i = 0; i < 1 + layout / 8 % 8; ++i) {
      const unsigned descs = layout % 3 == 0 ? 1 : 2;
      if (!HasRoom(descs * size)) return;
      auto chain = ring_.Chain();
      for (unsigned desc = 0; desc < descs; ++desc) std::move(chain).Writable(size);
      std::move(chain).Indirect();
      std::move(chain).Publish();
      ++outstanding_;
    }
  }

  bool Cuts(const NetFrame& frame) const {
    switch (frame.header.gso_type & ~kernel_abi::kNetHdrGsoEcn) {
      case kernel_abi::kNetHdrGsoNone:
        return false;
      case kernel_abi::kNetHdrGsoTcpV4:
        return !options_.takes_tso4;
      case kernel_abi::kNetHdrGsoTcpV6:
        return !options_.takes_tso6;
      default:
        // Of IP's version too; and what is unknown is refused.
        return true;
    }
  }

  void FromHost(Input& input) {
    NetFrame frame = frames_.Next(input);
    const iovec pieces[] = {{&frame.header, kHeader}, {frame.bytes.data(), frame.bytes.size()}};
    const ssize_t sent = ::writev(wire_.get(), pieces, 2);
    if (sent < 0 || frame.bytes.size() < vhost::inprocess::kEthernetBytes) return;
    if (options_.take_all) return Expect(frame);
    const bool finish = !options_.takes_partial_checksums;
    if (Cuts(frame)) {
      // A frame of UDP may be cut or not, by IP's version.
      if ((frame.header.gso_type & ~kernel_abi::kNetHdrGsoEcn) == kernel_abi::kNetHdrGsoUdpL4 &&
          (options_.takes_uso4 || options_.takes_uso6)) {
        Plain(frame, finish);
      }
      for (NetFrame& segment : CutAndCheck(frame.header, frame.bytes, finish)) {
        Expect(std::move(segment));
      }
      return;
    }
    Plain(frame, finish);
  }
  void Plain(NetFrame frame, bool finish) {
    if (finish) {
      if (IsPartial(frame.header) && !FinishChecksum(frame.header, frame.bytes)) return;
      frame.header.flags = 0;
      frame.header.csum_start = frame.header.csum_offset = 0;
    }
    Expect(std::move(frame));
  }
  void Expect(NetFrame frame) { expected_.push_back(std::move(frame)); }

  void TakeUsed() {
    for (auto used = ring_.TakeUsed(); used.has_value(); used = ring_.TakeUsed()) {
      --outstanding_;
      if (used->written == 0) continue;  // Given up.
      Bytes bytes = std::move(used->data);
      uint16_t buffers = 1;
      if (bytes.size() < kHeader) Require(options_.mergeable);
      // The header itself may lie in several buffers.
      for (uint16_t taken = 1;; ++taken) {
        if (bytes.size() >= kHeader) {
          std::memcpy(&buffers, bytes.data() + offsetof(VirtioNetHdr, num_buffers),
                      sizeof(buffers));
          if (taken >= buffers) break;
        }
        Require(options_.mergeable);
        auto more = ring_.TakeUsed();
        Require(more.has_value());
        --outstanding_;
        bytes.insert(bytes.end(), more->data.begin(), more->data.end());
      }
      Require(buffers >= 1 && (options_.mergeable || buffers == 1));
      Delivered(bytes);
    }
  }

  // It is one of those that were sent, and behind the last one.
  void Delivered(const Bytes& bytes) {
    NetFrame frame{{}, Bytes(bytes.begin() + kHeader, bytes.end())};
    std::memcpy(&frame.header, bytes.data(), kHeader);
    ++delivered_;
    const size_t before = at_;
    while (at_ < expected_.size()) {
      const NetFrame& next = expected_[at_++];
      if (Same(next.header, frame.header) && next.bytes == frame.bytes) {
        // What was skipped was dropped, or is the other form of a UDP frame.
        Require(at_ - before == 1 || Drops() > 0 || !options_.take_all);
        return;
      }
    }
    std::abort();
  }

  ReceiveQueue::Options options_;
  std::unique_ptr<ReceiveQueue> queue_;
  std::vector<NetFrame> expected_;
  size_t at_ = 0;
  uint64_t delivered_ = 0;
};

// ---- Alone -------------------------------------------------------------------------------------

// A header and a frame of any bytes, in memory of just its size.
void Alone(Input& input) {
  VirtioNetHdr header{};
  for (size_t i = 0; i < kHeader; ++i) reinterpret_cast<uint8_t*>(&header)[i] = input.Byte();
  const Bytes frame = input.Rest();
  (void)vhost::inprocess::ParsePacket(frame, frame.size());
  for (const bool finish : {false, true}) CutAndCheck(header, frame, finish);
  Bytes finished = frame;
  if (FinishChecksum(header, finished)) {
    const size_t field = size_t{header.csum_start} + header.csum_offset;
    for (size_t i = 0; i < frame.size(); ++i) {
      Require(finished[i] == frame[i] || i == field || i == field + 1);
    }
  } else {
    Require(finished == frame);
  }
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 4096) return 0;
  fuzz::Input input(data, size);
  switch (input.Byte() % 4) {
    case 0:
    case 1:
      fuzz::TransmitWorld(input).Run(input);
      break;
    case 2:
      fuzz::ReceiveWorld(input).Run(input);
      break;
    default:
      fuzz::Alone(input);
  }
  return 0;
}
