// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The in-process net backend on a real TAP, with a driver that plays the guest.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "kernel-abi/tun.h"
#include "tests/integration/net_machine.h"
#include "tests/integration/vnet_wire.h"
#include "vhost/inprocess/net_backend.h"
#include "vhost/inprocess/net_frames_fixture.h"

namespace vhost::inprocess {

inline constexpr VirtioFeatures kModern = {VirtioFeature::kVersion1, VirtioFeature::kIndirectDesc,
                                           VirtioFeature::kEventIdx};
inline constexpr VirtioFeatures kAllToHost = {VirtioFeature::kNetCsum, VirtioFeature::kNetHostTso4,
                                              VirtioFeature::kNetHostTso6,
                                              VirtioFeature::kNetHostUso};
inline constexpr VirtioFeatures kAllToGuest = {
    VirtioFeature::kNetGuestCsum, VirtioFeature::kNetGuestTso4, VirtioFeature::kNetGuestTso6};

class InProcessNetTest : public NetMachineTest {
 protected:
  InProcessNetTest() : NetMachineTest(kernel_abi::kTunPath) {}

  std::unique_ptr<InProcessNetBackend> MakeNet(int pairs = 1, InProcessNetOptions options = {},
                                               uint16_t queue_size = 256) {
    for (int i = 0; i < 2 * pairs; ++i) AddQueue(queue_size);
    if (tap_ == nullptr) MakeTap(pairs);
    if (HasFatalFailure()) return nullptr;
    options.tap_fds = tap_->fds();
    options.tap_takes_uso = tap_->takes_uso();
    options.io_engine = io_engine_;
    auto net = InProcessNetBackend::Create(kernel_, std::move(options));
    EXPECT_TRUE(net.ok()) << net.status();
    if (!net.ok()) return nullptr;
    auto links = Links::Open();
    vnet_.emplace(links->Get("tapvhost")->index);
    EXPECT_TRUE(vnet_->ok());
    return *std::move(net);
  }

  // A frame in front of which `header` stands, in descriptors of `desc_bytes`.
  void Publish(int queue, const kernel_abi::VirtioNetHdr& header, const Bytes& frame,
               size_t desc_bytes = 1 << 20, bool indirect = false) {
    Bytes bytes(kHeader);
    std::memcpy(bytes.data(), &header, kHeader);
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    auto chain = queues_[static_cast<size_t>(queue)]->ring.Chain();
    for (size_t at = 0; at < bytes.size(); at += desc_bytes) {
      std::move(chain).Readable(
          std::span(bytes).subspan(at, std::min(desc_bytes, bytes.size() - at)));
    }
    if (indirect) std::move(chain).Indirect();
    std::move(chain).Publish();
  }
  void Kick(int queue) { queues_[static_cast<size_t>(queue)]->kick.Signal(); }
  void PostBuffers(int count, uint32_t bytes) {
    for (int i = 0; i < count; ++i) queues_[0]->ring.Chain().Writable(bytes).Publish();
    Kick(0);
  }

  // The next frame on the receive queue from our address, put together from its buffers.
  std::optional<VnetWire::Packet> ReceiveFrame(size_t* buffers = nullptr) {
    for (int i = 0; i < 1000; ++i) {
      auto used = WaitUsed(*queues_[0]);
      if (!used.has_value()) return std::nullopt;
      VnetWire::Packet packet;
      Bytes bytes = used->data;
      // virtio 1.3, 5.1.6.4: each has the header in its first buffer.
      if (bytes.size() < kHeader) return std::nullopt;
      std::memcpy(&packet.header, bytes.data(), kHeader);
      for (int more = 1; more < packet.header.num_buffers; ++more) {
        // All of a packet's are there at once.
        used = queues_[0]->ring.TakeUsed();
        if (!used.has_value()) return std::nullopt;
        bytes.insert(bytes.end(), used->data.begin(), used->data.end());
      }
      packet.frame.assign(bytes.begin() + kHeader, bytes.end());
      if (packet.frame.size() < 14 || packet.frame[6] != std::byte{0x52} ||
          packet.frame[11] != std::byte{9}) {
        continue;  // the host's chatter
      }
      if (buffers != nullptr) *buffers = packet.header.num_buffers;
      return packet;
    }
    return std::nullopt;
  }

  static VnetWire::Packet TsoFrame(size_t payload, bool tcp = true, uint16_t gso_size = 1448) {
    const FrameSpec spec{.tcp = tcp, .payload = payload, .partial = true};
    VnetWire::Packet packet{HeaderOf(spec), BuildFrame(spec)};
    packet.header.gso_type = tcp ? kernel_abi::kNetHdrGsoTcpV4 : kernel_abi::kNetHdrGsoUdpL4;
    packet.header.gso_size = gso_size;
    packet.header.hdr_len = ShapeOf(spec).payload;
    return packet;
  }
  static void ExpectDrops(const InProcessNetBackend& net, int queue, NetDrop why, uint64_t count) {
    EXPECT_TRUE(Wait([&] { return net.counters(queue).dropped(why) == count; }))
        << Name(why) << ": " << net.counters(queue).dropped(why);
  }
  void ExpectStillSends() {
    Transmit(1, "sound");
    EXPECT_EQ(wire_->Receive(kPatienceMs), "sound");
  }

  IoEngine io_engine_ = IoEngine::kAuto;
  std::optional<VnetWire> vnet_;
};

// The same by each engine.
class InProcessNetByEngineTest : public InProcessNetTest,
                                 public testing::WithParamInterface<IoEngine> {
 protected:
  void SetUp() override {
    InProcessNetTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    io_engine_ = GetParam();
    if (io_engine_ != IoEngine::kIoUring) return;
    const auto tap = Tap::Create(kernel_, {.name = "tapprobe"});
    ASSERT_TRUE(tap.ok()) << tap.status();
    const auto ring = FrameRing::Create(kernel_, (*tap)->fd(0));
    if (!ring.ok()) GTEST_SKIP() << "skipped: no io_uring: " << ring.status();
  }
};

inline auto Engines() { return testing::Values(IoEngine::kSyscall, IoEngine::kIoUring); }
inline std::string EngineName(const testing::TestParamInfo<IoEngine>& info) {
  return Name(info.param);
}

}  // namespace vhost::inprocess
