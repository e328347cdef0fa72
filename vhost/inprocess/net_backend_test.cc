// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What is particular to the net backend of this process, on real TAPs: how frames are laid out in
// the guest's buffers, offloads both ways, merging and cutting, back-pressure, a TAP that goes, and
// hostile drivers. What all net backends promise is in tests/integration/net_contract_test.cc.
#include "vhost/inprocess/net_backend.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernel-abi/tun.h"
#include "tests/integration/net_machine.h"
#include "tests/integration/vnet_wire.h"
#include "vhost/inprocess/net_frames_fixture.h"
#include "vhost/inprocess/segment_cut.h"

namespace vhost::inprocess {
namespace {

using namespace std::chrono_literals;
using enum VirtioFeature;
using kernel_abi::EventFd;
using testing::HasSubstr;
using testing::SizeIs;

constexpr VirtioFeatures kModern = {kVersion1, kIndirectDesc, kEventIdx};
constexpr VirtioFeatures kAllToHost = {kNetCsum, kNetHostTso4, kNetHostTso6, kNetHostUso};
constexpr VirtioFeatures kAllToGuest = {kNetGuestCsum, kNetGuestTso4, kNetGuestTso6};

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

  std::optional<VnetWire> vnet_;
};

TEST_F(InProcessNetTest, OffersWhatItCanServe) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  const VirtioFeatures own = kModern | kAllToHost | kAllToGuest |
                             VirtioFeatures{kNetMrgRxbuf, kNetMq, kNetCtrlVq, kRingReset};
  EXPECT_EQ(net->Supported(own), own);
  EXPECT_TRUE(net->Supported({kAccessPlatform, kNotifyOnEmpty, kNotificationData, kAdminVq,
                              kNetHostUdpTunnelGso})
                  .empty());
}

// ---- Layouts and offloads ----------------------------------------------------------------------

TEST_F(InProcessNetTest, HeadersAndFramesMayBeCutAnywhere) {
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

TEST_F(InProcessNetTest, ReceivesWithAndWithoutMergeableBuffersOfAnySize) {
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

TEST_F(InProcessNetTest, LargeFramesFillBuffersOfEveryKind) {
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

TEST_F(InProcessNetTest, AFrameWithTooFewBuffersWaitsForMore) {
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

TEST_F(InProcessNetTest, LargeFramesGoOutWhole) {
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

TEST_F(InProcessNetTest, SegmentsOfABurstAreMergedAndTheKernelCutsThemAsTheyWere) {
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
TEST_F(InProcessNetTest, TheKernelsSegmentationGivesBackWhatWasMerged) {
  MakeTap(1);
  ASSERT_FALSE(HasFatalFailure());
  auto links = Links::Open();
  auto other = Tap::Create(kernel_, {.name = "tapother"});
  ASSERT_TRUE(other.ok()) << other.status();
  if (std::system("ip link add brmerge type bridge 2>/dev/null") != 0) {
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

TEST_F(InProcessNetTest, NothingIsMergedWhenToldNotTo) {
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

TEST_F(InProcessNetTest, LargeFramesAreCutForADriverThatTakesNone) {
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

TEST_F(InProcessNetTest, WithoutBuffersFramesWaitInTheTapAndNobodySpins) {
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

TEST_F(InProcessNetTest, NothingIsLostOrRepeatedOnTheWayToTheGuestThroughStops) {
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

// ---- The TAP -----------------------------------------------------------------------------------

void DeleteLink(int index) {
  const kernel_abi::UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request{};
  request.header = {.nlmsg_len = sizeof(request),
                    .nlmsg_type = RTM_DELLINK,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK};
  request.link.ifi_index = index;
  ASSERT_EQ(::send(socket.get(), &request, sizeof(request), 0),
            static_cast<ssize_t>(sizeof(request)));
  char answer[256];
  ASSERT_GT(::recv(socket.get(), answer, sizeof(answer), 0), 0);
}

TEST_F(InProcessNetTest, ATapThatGoesIsAnErrorOfBothQueuesAndNobodySpins) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  auto links = Links::Open();
  DeleteLink(links->Get("tapvhost")->index);
  for (const int queue : {0, 1}) {
    EXPECT_TRUE(
        Wait([&] { return kernel_abi::EventFd::IsEventFdSignalled(net->error_fd(queue)); }));
    EXPECT_THAT(net->Report().vrings[static_cast<size_t>(queue)].problem,
                HasSubstr("the TAP is gone"));
  }
  const uint64_t before = *net->Report().workers[0].cpu_time_ns;
  for (int i = 0; i < 100; ++i) Kick(1);
  std::this_thread::sleep_for(100ms);
  EXPECT_LT(*net->Report().workers[0].cpu_time_ns - before, 3'000'000u);
  EXPECT_THAT(net->Stop(), SizeIs(2));
}

TEST_F(InProcessNetTest, FramesForAnInterfaceThatIsDownAreDropped) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  auto links = Links::Open();
  ASSERT_TRUE(links->SetUp("tapvhost", false).ok());
  Transmit(1, "to nobody");
  ExpectDrops(*net, 1, NetDrop::kLinkDown, 1);
  EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
  ASSERT_TRUE(links->SetUp("tapvhost", true).ok());
  wire_.emplace(links->Get("tapvhost")->index);  // The old one has an error to tell.
  ExpectStillSends();
}

// ---- Threads -----------------------------------------------------------------------------------

TEST_F(InProcessNetTest, ManyPairsShareAThreadThatWasHandedIn) {
  std::shared_ptr<DataThread> thread = *DataThread::Create(kernel_, {.name = "shared"});
  auto net = MakeNet(3, {.thread = thread});
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  for (int pair = 0; pair < 3; ++pair) {
    Transmit(2 * pair + 1, absl::StrCat("pair ", pair));
    EXPECT_EQ(wire_->Receive(kPatienceMs), absl::StrCat("pair ", pair));
  }
  const BackendReport report = net->Report();
  ASSERT_THAT(report.workers, SizeIs(1));
  EXPECT_EQ(report.workers[0].name, "shared");
  EXPECT_THAT(report.workers[0].queues, testing::ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(report.vrings[1].data_path->packets, 1u);
}

TEST_F(InProcessNetTest, EachPairHasAThreadOfItsOwn) {
  auto net = MakeNet(2, {.thread_options = {.name = "net", .placement = {.cpus = {0}}}});
  ASSERT_NE(net, nullptr);
  const BackendReport report = net->Report();
  ASSERT_THAT(report.workers, SizeIs(2));
  EXPECT_EQ(report.workers[0].name, "net-0");
  EXPECT_EQ(report.workers[1].name, "net-1");
  EXPECT_EQ(report.workers[1].affinity, "0");
}

// ---- Hostile drivers ---------------------------------------------------------------------------

TEST_F(InProcessNetTest, FramesThatMakeNoSenseAreDroppedAndCounted) {
  struct Case {
    const char* what;
    kernel_abi::VirtioNetHdr header;
    size_t frame_bytes;
    NetDrop why;
  };
  using namespace kernel_abi;  // NOLINT
  const Case cases[] = {
      {"no frame", {}, 0, NetDrop::kShortFrame},
      {"a frame of 13 bytes", {}, 13, NetDrop::kShortFrame},
      {"a frame of 100 KiB", {}, 100 << 10, NetDrop::kLongFrame},
      {"csum_start beyond", {.flags = 1, .csum_start = 5000}, 60, NetDrop::kBadHeader},
      {"csum_start at the end", {.flags = 1, .csum_start = 59}, 60, NetDrop::kBadHeader},
      {"csum_offset beyond",
       {.flags = 1, .csum_start = 34, .csum_offset = 65535},
       60,
       NetDrop::kBadHeader},
      {"sum of both wraps",
       {.flags = 1, .csum_start = 65535, .csum_offset = 65535},
       60,
       NetDrop::kBadHeader},
      {"csum in Ethernet's header", {.flags = 1, .csum_start = 0}, 60, NetDrop::kBadHeader},
      {"GSO type 2", {.gso_type = 2, .gso_size = 100}, 200, NetDrop::kBadHeader},
      {"GSO type 127", {.gso_type = 127, .gso_size = 100}, 200, NetDrop::kBadHeader},
      {"ECN alone", {.gso_type = 0x80, .gso_size = 100}, 200, NetDrop::kBadHeader},
      {"GSO of size 0",
       {.flags = 1, .gso_type = 1, .csum_start = 34, .csum_offset = 16},
       200,
       NetDrop::kBadHeader},
      {"hdr_len beyond",
       {.gso_type = 1, .hdr_len = 5000, .gso_size = 100},
       200,
       NetDrop::kBadHeader},
  };
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  for (const Case& each : cases) {
    SCOPED_TRACE(each.what);
    const uint64_t before = net->counters(1).dropped(each.why);
    Publish(1, each.header, Bytes(each.frame_bytes));
    Kick(1);
    EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
    ExpectDrops(*net, 1, each.why, before + 1);
    ExpectStillSends();
    EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
  }
  // Shorter than its header.
  queues_[1]->ring.Chain().Readable("short").Publish();
  Kick(1);
  EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
  ExpectStillSends();
  EXPECT_FALSE(EventFd::IsEventFdSignalled(net->error_fd(1)));
}

TEST_F(InProcessNetTest, AFrameInMorePiecesThanTheKernelTakesIsSent) {
  auto net = MakeNet(1, {}, 4096);
  ASSERT_NE(net, nullptr);
  for (const VirtioFeatures acked : {kModern, kModern | kAllToHost}) {
    ASSERT_TRUE(net->Start(AllQueues(acked)).ok());
    const FrameSpec spec{.payload = 1400};
    Publish(1, {}, BuildFrame(spec), 1, /*indirect=*/true);
    Kick(1);
    const auto packet = vnet_->Receive(kPatienceMs);
    ASSERT_TRUE(packet.has_value());
    EXPECT_EQ(packet->frame, BuildFrame(spec));
    net->Stop();
    queues_[1]->ring.Forget();
  }
}

TEST_F(InProcessNetTest, ReceiveBuffersThatAreNoneOrTooSmallDropAndCount) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kModern)).ok());  // Not mergeable.
  queues_[0]->ring.Chain().Readable("not for writing").Publish();
  PostBuffers(1, 100);
  const FrameSpec large{.payload = 1000};
  ASSERT_TRUE(vnet_->Send({{}, BuildFrame(large)}));
  EXPECT_TRUE(Wait([&] { return net->counters(0).dropped(NetDrop::kSmallBuffers) >= 2; }));
  // The small buffer is good for a small frame.
  const FrameSpec small{.tcp = false, .payload = 10};
  ASSERT_TRUE(vnet_->Send({{}, BuildFrame(small)}));
  std::optional<VnetWire::Packet> packet;
  for (int i = 0; i < 20 && !packet.has_value(); ++i) {
    PostBuffers(1, 100);
    const auto used = WaitUsed(*queues_[0]);
    ASSERT_TRUE(used.has_value());
    if (used->data.size() == kHeader + ShapeOf(small).payload + 10) packet.emplace();
  }
  EXPECT_TRUE(packet.has_value());
}

TEST_F(InProcessNetTest, ABrokenRingStopsItsQueueAlone) {
  auto net = MakeNet(2);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  queues_[1]->ring.PutAvailable(999);
  Kick(1);
  EXPECT_TRUE(Wait([&] { return EventFd::IsEventFdSignalled(net->error_fd(1)); }));
  EXPECT_FALSE(EventFd::IsEventFdSignalled(net->error_fd(0)));
  EXPECT_THAT(net->Report().vrings[1].problem, HasSubstr("999"));
  queues_[0]->ring.PutAvailableIndex(30'000);
  Kick(0);
  EXPECT_TRUE(wire_->Send("into a broken ring"));
  EXPECT_TRUE(Wait([&] { return EventFd::IsEventFdSignalled(net->error_fd(0)); }));
  Transmit(3, "the other pair");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "the other pair");
  EXPECT_THAT(net->Stop(), SizeIs(4));
}

// Stops and resets in the middle of everything, with a driver that goes on writing.
TEST_F(InProcessNetTest, ResetsInTheMiddleOfTrafficLeaveNothingBehind) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  std::atomic<bool> done = false;
  std::thread host([&] {
    while (!done) {
      wire_->Send("from the host");
      std::this_thread::sleep_for(20us);
    }
  });
  for (int round = 0; round < 200; ++round) {
    for (const auto& queue : queues_) queue->ring.Forget();
    PostReceiveBuffers(0, 20);
    for (int i = 0; i < 20; ++i) Transmit(1, "from the guest");
    ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
    std::this_thread::sleep_for(std::chrono::microseconds(round * 3));
    net->Stop();
    const uint16_t used = queues_[0]->ring.used_index();
    const uint16_t sent = queues_[1]->ring.used_index();
    EXPECT_LE(used, 20);
    EXPECT_LE(sent, 20);
    std::this_thread::yield();
    EXPECT_EQ(queues_[0]->ring.used_index(), used);
    EXPECT_EQ(queues_[1]->ring.used_index(), sent);
  }
  done = true;
  host.join();
}

}  // namespace
}  // namespace vhost::inprocess
