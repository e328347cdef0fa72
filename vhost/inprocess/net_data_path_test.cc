// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How frames get through the net backend of this process, on real TAPs and by each I/O engine: how
// they are laid out in the guest's buffers, offloads both ways, merging and cutting, back-pressure.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "vhost/inprocess/net_backend_fixture.h"
#include "vhost/inprocess/segment_cut.h"

namespace vhost::inprocess {
namespace {

using namespace std::chrono_literals;
using enum VirtioFeature;

using NetDataPathTest = InProcessNetByEngineTest;
INSTANTIATE_TEST_SUITE_P(Engine, NetDataPathTest, Engines(), EngineName);

// ---- Layouts and offloads ----------------------------------------------------------------------

TEST_P(NetDataPathTest, HeadersAndFramesMayBeCutAnywhere) {
  auto net = MakeNet(1, {.coalesce = false});
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kModern)).ok());
  for (const size_t desc_bytes : {1, 5, 11, 12, 13, 60}) {
    for (const bool indirect : {false, true}) {
      const Bytes frame = Wire::Frame(absl::StrCat("in pieces of ", desc_bytes));
      Publish(1, {}, frame, desc_bytes, indirect);
      Kick(1);
      EXPECT_EQ(wire_->Receive(kPatienceMs), absl::StrCat("in pieces of ", desc_bytes));
      EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
    }
  }
}

TEST_P(NetDataPathTest, ReceivesWithAndWithoutMergeableBuffersOfAnySize) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  BackendStart start = AllQueues(kModern);
  for (const bool mergeable : {true, false}) {
    for (const uint32_t bytes : {40u, 100u, 700u, 1526u, 4096u}) {
      if (!mergeable && bytes < 1526) continue;
      start.acked.Set(kNetMrgRxbuf, mergeable);
      ASSERT_TRUE(net->Start(start).ok());
      PostBuffers(100, bytes);
      const FrameSpec spec{.payload = 1400};
      for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(vnet_->Send({{}, BuildFrame(spec)}));
        size_t buffers = 0;
        const auto packet = ReceiveFrame(&buffers);
        ASSERT_TRUE(packet.has_value()) << bytes;
        EXPECT_EQ(packet->frame, BuildFrame(spec));
        EXPECT_EQ(buffers, (kHeader + packet->frame.size() + bytes - 1) / bytes);
      }
      for (const StoppedVring& vring : net->Stop()) {
        start.vrings[static_cast<size_t>(vring.queue)].base = vring.base;
      }
      // What was posted and not used goes back to the driver: it begins anew.
      queues_[0]->ring.Forget();
      start.vrings[0].base = 0;
    }
  }
}

TEST_P(NetDataPathTest, LargeFramesFillBuffersOfEveryKind) {
  auto net = MakeNet(1, {}, 1024);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(tap_->SetOffloads(kernel_abi::kTunFCsum | kernel_abi::kTunFTso4).ok());
  for (const bool mergeable : {true, false}) {
    BackendStart start = AllQueues(kModern | kAllToGuest);
    start.acked.Set(kNetMrgRxbuf, mergeable);
    ASSERT_TRUE(net->Start(start).ok());
    for (int i = 0; i < (mergeable ? 200 : 8); ++i) {
      auto chain = queues_[0]->ring.Chain();
      for (int desc = 0; desc < (mergeable ? 1 : 17); ++desc) {
        std::move(chain).Writable(mergeable ? 1536 : 4096);
      }
      std::move(chain).Publish();
    }
    Kick(0);
    // Twice: the first comes as a surprise, the second is read straight into place.
    for (int i = 0; i < 3; ++i) {
      const VnetWire::Packet sent = TsoFrame(60'000);
      ASSERT_TRUE(vnet_->Send(sent));
      size_t buffers = 0;
      const auto packet = ReceiveFrame(&buffers);
      ASSERT_TRUE(packet.has_value());
      EXPECT_EQ(packet->frame, sent.frame);
      EXPECT_EQ(packet->header.gso_type, kernel_abi::kNetHdrGsoTcpV4);
      EXPECT_EQ(packet->header.gso_size, 1448);
      EXPECT_EQ(buffers, mergeable ? (kHeader + sent.frame.size() + 1535) / 1536 : 1);
    }
    net->Stop();
    queues_[0]->ring.Forget();
  }
  EXPECT_EQ(net->counters(0).dropped(NetDrop::kSmallBuffers), 0u);
}

TEST_P(NetDataPathTest, AFrameWithTooFewBuffersWaitsForMore) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(tap_->SetOffloads(kernel_abi::kTunFCsum | kernel_abi::kTunFTso4).ok());
  ASSERT_TRUE(net->Start(AllQueues(kModern | kAllToGuest | VirtioFeatures{kNetMrgRxbuf})).ok());
  const VnetWire::Packet large = TsoFrame(30'000);
  const FrameSpec small{.source_port = 9};
  ASSERT_TRUE(vnet_->Send(large));
  ASSERT_TRUE(vnet_->Send({{}, BuildFrame(small)}));
  for (int i = 0; i < 40; ++i) {  // 15 for the large one; the host's chatter takes some, too
    PostBuffers(1, 2048);
    std::this_thread::sleep_for(1ms);
  }
  const auto first = ReceiveFrame();
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->frame, large.frame);
  PostBuffers(50, 2048);  // Also for the host's chatter.
  const auto second = ReceiveFrame();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->frame, BuildFrame(small));
}

TEST_P(NetDataPathTest, LargeFramesGoOutWhole) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kModern | kAllToHost)).ok());
  for (const bool tcp : {true, false}) {
    if (!tcp && !tap_->takes_uso()) continue;
    const VnetWire::Packet sent = TsoFrame(60'000, tcp);
    Publish(1, sent.header, sent.frame, 4096, /*indirect=*/true);
    Kick(1);
    const auto packet = vnet_->Receive(kPatienceMs);
    ASSERT_TRUE(packet.has_value());
    EXPECT_EQ(packet->frame, sent.frame);
    EXPECT_EQ(packet->header.gso_type, sent.header.gso_type);
    EXPECT_EQ(packet->header.gso_size, sent.header.gso_size);
  }
}

// ---- Merging and cutting -----------------------------------------------------------------------

TEST_P(NetDataPathTest, SegmentsOfABurstAreMergedAndTheKernelCutsThemAsTheyWere) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  for (const bool tcp : {true, false}) {
    for (const bool ipv6 : {false, true}) {
      if (!tcp && !tap_->takes_uso()) continue;
      BackendStart start = AllQueues(kModern | VirtioFeatures{kNetCsum});
      std::vector<Bytes> sent;
      FrameSpec spec{.tcp = tcp, .ipv6 = ipv6, .payload = 1000};
      for (int i = 0; i < 20; ++i) {
        sent.push_back(BuildFrame(spec));
        Publish(1, HeaderOf(spec), sent.back());
        spec.sequence += static_cast<uint32_t>(spec.payload);
        ++spec.id;
      }
      const uint64_t merged_before = net->counters(1).merged;
      ASSERT_TRUE(net->Start(start).ok());
      const auto packet = vnet_->Receive(kPatienceMs);
      ASSERT_TRUE(packet.has_value());
      EXPECT_EQ(packet->header.gso_size, 1000);
      const auto cut = SegmentCut::Parse(packet->header, packet->frame, true);
      ASSERT_TRUE(cut.has_value());
      ASSERT_EQ(cut->count(), sent.size());
      for (size_t i = 0; i < sent.size(); ++i) {
        SegmentCut::Segment segment;
        cut->Make(i, segment);
        Bytes frame(segment.head.data(), segment.head.data() + segment.head_bytes);
        frame.insert(frame.end(), segment.payload.begin(), segment.payload.end());
        EXPECT_EQ(frame, sent[i]);
      }
      net->Stop();
      EXPECT_EQ(net->counters(1).merged - merged_before, 19u);
      queues_[1]->ring.Forget();
    }
  }
}

// The kernel's own segmentation is the judge: the merged packet goes out through the stack of a
// second TAP without offloads, and what its reader gets must be what was sent.
TEST_P(NetDataPathTest, TheKernelsSegmentationGivesBackWhatWasMerged) {
  MakeTap(1);
  ASSERT_FALSE(HasFatalFailure());
  auto links = Links::Open();
  auto other = Tap::Create(kernel_, {.name = "tapother"});
  ASSERT_TRUE(other.ok()) << other.status();
  if (std::system("ip link del brmerge 2>/dev/null; ip link add brmerge type bridge 2>/dev/null") !=
      0) {
    GTEST_SKIP() << "skipped: no bridge to be had";
  }
  for (const char* port : {"tapvhost", "tapother"}) {
    ASSERT_TRUE(links->SetBridge(port, "brmerge").ok());
    ASSERT_TRUE(links->SetUp(port, true).ok());
  }
  ASSERT_TRUE(links->SetUp("brmerge", true).ok());
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ::fcntl((*other)->fd(0), F_SETFL, O_RDWR | O_NONBLOCK);
  for (const bool tcp : {true, false}) {
    for (const bool ipv6 : {false, true}) {
      if (!tcp && !tap_->takes_uso()) continue;
      for (const bool partial : {false, true}) {
        FrameSpec spec{.tcp = tcp, .ipv6 = ipv6, .mac = 77, .payload = 1200, .partial = partial};
        std::vector<Bytes> sent;
        for (int i = 0; i < 30; ++i) {
          if (i == 29) spec.payload = 333;
          FrameSpec whole = spec;
          whole.partial = false;
          sent.push_back(BuildFrame(whole));
          Publish(1, HeaderOf(spec), BuildFrame(spec));
          spec.sequence += static_cast<uint32_t>(spec.payload);
          ++spec.id;
        }
        ASSERT_TRUE(net->Start(AllQueues(kModern | VirtioFeatures{kNetCsum})).ok());
        for (size_t i = 0; i < sent.size();) {
          std::byte bytes[4096];
          ssize_t size = -1;
          ASSERT_TRUE(Wait([&] {
            size = ::read((*other)->fd(0), bytes, sizeof(bytes));
            return size > 0;
          }));
          const Bytes frame(bytes + kHeader, bytes + size);
          if (frame[11] != std::byte{9} || frame[6] != std::byte{0x52}) continue;
          ASSERT_EQ(frame, sent[i]) << i;
          ++i;
        }
        net->Stop();
        queues_[1]->ring.Forget();
      }
    }
  }
  EXPECT_GT(net->counters(1).merged, 100u);
}

TEST_P(NetDataPathTest, NothingIsMergedWhenToldNotTo) {
  auto net = MakeNet(1, {.coalesce = false});
  ASSERT_NE(net, nullptr);
  FrameSpec spec;
  for (int i = 0; i < 10; ++i) {
    Publish(1, {}, BuildFrame(spec));
    spec.sequence += 100;
    ++spec.id;
  }
  ASSERT_TRUE(net->Start(AllQueues(kModern)).ok());
  for (int i = 0; i < 10; ++i) {
    const auto packet = vnet_->Receive(kPatienceMs);
    ASSERT_TRUE(packet.has_value());
    EXPECT_EQ(packet->frame.size(), ShapeOf(spec).payload + 100u);
  }
  EXPECT_EQ(net->counters(1).merged, 0u);
}

TEST_P(NetDataPathTest, LargeFramesAreCutForADriverThatTakesNone) {
  MakeTap(1);
  ASSERT_FALSE(HasFatalFailure());
  auto net =
      MakeNet(1, {.set_extra_offloads = [this](unsigned extra) { return tap_->SetOffloads(extra); },
                  .tap_offloads = tap_->supported_offloads()});
  ASSERT_NE(net, nullptr);
  for (const bool mergeable : {true, false}) {
    for (const bool takes_partial : {true, false}) {
      BackendStart start = AllQueues(kModern);
      start.acked.Set(kNetMrgRxbuf, mergeable);
      start.acked.Set(kNetGuestCsum, takes_partial);
      ASSERT_TRUE(net->Start(start).ok());
      PostBuffers(100, 1536);
      const VnetWire::Packet sent = TsoFrame(30'000);
      ASSERT_TRUE(vnet_->Send(sent));
      const auto cut = SegmentCut::Parse(sent.header, sent.frame, !takes_partial);
      for (size_t i = 0; i < cut->count(); ++i) {
        const auto packet = ReceiveFrame();
        ASSERT_TRUE(packet.has_value()) << i;
        SegmentCut::Segment segment;
        cut->Make(i, segment);
        Bytes frame(segment.head.data(), segment.head.data() + segment.head_bytes);
        frame.insert(frame.end(), segment.payload.begin(), segment.payload.end());
        ASSERT_EQ(packet->frame, frame) << i;
        EXPECT_EQ(packet->header.gso_type, 0);
        EXPECT_EQ(packet->header.flags, takes_partial ? 1 : 0);
      }
      // An ordinary frame whose checksum the host left open.
      const FrameSpec plain{.partial = true};
      ASSERT_TRUE(vnet_->Send({HeaderOf(plain), BuildFrame(plain)}));
      const auto packet = ReceiveFrame();
      ASSERT_TRUE(packet.has_value());
      FrameSpec expected = plain;
      expected.partial = takes_partial;
      EXPECT_EQ(packet->frame, BuildFrame(expected));
      net->Stop();
      queues_[0]->ring.Forget();
    }
  }
  EXPECT_GT(net->counters(0).cut, 0u);
}

// ---- Back-pressure and loss --------------------------------------------------------------------

TEST_P(NetDataPathTest, WithoutBuffersFramesWaitInTheTapAndNobodySpins) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(wire_->Send(absl::StrCat(i)));
  std::this_thread::sleep_for(20ms);
  const uint64_t before = *net->Report().workers[0].cpu_time_ns;
  std::this_thread::sleep_for(200ms);
  EXPECT_LT(*net->Report().workers[0].cpu_time_ns - before, 2'000'000u);
  PostReceiveBuffers(0, 100);
  for (int i = 0; i < 300; ++i) ASSERT_EQ(ReceiveText(0), absl::StrCat(i));
}

TEST_P(NetDataPathTest, NothingIsLostOrRepeatedOnTheWayToTheGuestThroughStops) {
  auto net = MakeNet(2);
  ASSERT_NE(net, nullptr);
  // One queue of the TAP, so that there is one order.
  ASSERT_TRUE(tap_->SetQueueAttached(1, false).ok());
  BackendStart start = AllQueues(kAcked);
  start.vrings.erase(start.vrings.begin() + 2, start.vrings.end());
  PostReceiveBuffers(0, 100);
  std::mt19937 random(7);
  int sent = 0;
  int received = 0;
  for (int round = 0; round < 200; ++round) {
    ASSERT_TRUE(net->Start(start).ok());
    for (unsigned i = random() % 10; i > 0; --i) ASSERT_TRUE(wire_->Send(absl::StrCat(sent++)));
    if (random() % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
    for (const StoppedVring& vring : net->Stop()) {
      start.vrings[static_cast<size_t>(vring.queue)].base = vring.base;
    }
    while (received < sent) {
      if (queues_[0]->ring.used_index() == static_cast<uint16_t>(start.vrings[0].base)) break;
      ASSERT_EQ(ReceiveText(0), absl::StrCat(received++));
      if (random() % 8 == 0) break;
    }
  }
  ASSERT_TRUE(net->Start(start).ok());
  for (; received < sent; ++received) ASSERT_EQ(ReceiveText(0), absl::StrCat(received));
  EXPECT_EQ(net->counters(0).dropped(NetDrop::kStopped), 0u);
}

}  // namespace
}  // namespace vhost::inprocess
