// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The devices of this library as a front end sees them: net over a real TAP, vsock over real unix
// sockets.
#include <poll.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "kernel-abi/virtio.h"
#include "tests/fakes/manual_loop.h"
#include "tests/fakes/vhost_user_front_end.h"
#include "tests/integration/wire.h"
#include "vhost/host/link.h"
#include "vhost/host/network_namespace_fixture.h"
#include "vhost/user/served_net.h"
#include "vhost/user/served_vsock.h"
#include "vhost/user/server.h"

namespace vhost::user {
namespace {

using FrontEnd = fakes::VhostUserFrontEnd;
using Request = FrontEndRequest;
using Ring = FrontEnd::Ring;

constexpr uint64_t kVersion1Bit = uint64_t{1} << 32;
// All but other layouts and orders of rings than the test's.
constexpr uint64_t kFeatures = ~(uint64_t{3} << 34);
constexpr auto kAllProtocolFeatures = ProtocolFeatures::FromWords(~uint64_t{0});
constexpr int kPatienceMs = 60'000;
constexpr size_t kHeader = kernel_abi::kNetHdrSize;

// A server over one end of a pair of sockets, and a front end at the other.
class Link {
 public:
  explicit Link(ServedDevice& device) {
    auto ends = Connection::MakeSockets();
    ServerOptions options;
    options.socket = std::move(ends->first);
    server_ = *Server::Create(kernel_abi::LinuxKernel(), loop_, device, std::move(options));
    front_end = std::make_unique<FrontEnd>(std::move(ends->second), [this] { loop_.Pump(); });
  }

 private:
  fakes::ManualLoop loop_;
  std::unique_ptr<Server> server_;

 public:
  std::unique_ptr<FrontEnd> front_end;
};

class ServedNetTest : public NetworkNamespaceTest {
 protected:
  void MakeNet(int pairs) {
    ServedNetOptions options;
    options.tap = {.name = "tapuser", .queues = pairs};
    auto net = ServedNet::Create(kernel_abi::LinuxKernel(), std::move(options));
    ASSERT_TRUE(net.ok()) << net.status();
    net_ = *std::move(net);
    auto links = Links::Open();
    ASSERT_TRUE(links.ok()) << links.status();
    ASSERT_TRUE(links->SetUp("tapuser", true).ok());
    wire_.emplace(links->Get("tapuser")->index);
    ASSERT_TRUE(wire_->ok());
  }
  void BringUp(FrontEnd& front_end, int pairs) {
    ASSERT_TRUE(front_end.Negotiate(kFeatures, kAllProtocolFeatures));
    ASSERT_TRUE(front_end.ShareMemory(ram_));
    for (int i = static_cast<int>(rings_.size()); i < 2 * pairs; ++i) {
      rings_.push_back(
          std::make_unique<Ring>(ram_, fakes::DriverRing::Options{.size = 64, .event_idx = true}));
    }
    for (int i = 0; i < 2 * pairs; ++i) {
      const auto queue = static_cast<uint32_t>(i);
      ASSERT_TRUE(front_end.SetUp(ram_, queue, *rings_[queue]));
      front_end.Kick(*rings_[queue]);
    }
  }
  void PostBuffer(FrontEnd& front_end, size_t queue) {
    rings_[queue]->driver.Chain().Writable(2048).Publish();
    front_end.Kick(*rings_[queue]);
  }
  void Transmit(FrontEnd& front_end, size_t queue, absl::string_view text) {
    std::vector<std::byte> bytes(kHeader);
    const std::vector<std::byte> frame = Wire::Frame(text);
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    rings_[queue]->driver.Chain().Readable(bytes).Publish();
    front_end.Kick(*rings_[queue]);
  }
  // The host's own chatter is passed over.
  std::string ReceiveText(FrontEnd& front_end, size_t queue) {
    for (int i = 0; i < 100; ++i) {
      PostBuffer(front_end, queue);
      const auto used = front_end.WaitForUsed(*rings_[queue]);
      if (!used.has_value() || used->data.size() < kHeader + Wire::kHeaderBytes) return "nothing";
      const std::byte* frame = used->data.data() + kHeader;
      if (frame[12] == std::byte{Wire::kEtherType >> 8}) {
        return Wire::Text(frame, used->data.size() - kHeader);
      }
    }
    return "chatter";
  }

  fakes::GuestRam ram_{4 << 20, fakes::GuestRam::kDefaultStart, true};
  std::vector<std::unique_ptr<Ring>> rings_;
  std::unique_ptr<ServedNet> net_;
  std::optional<Wire> wire_;
};

TEST_F(ServedNetTest, FramesPassBothWaysOnceRingsAreEnabled) {
  ASSERT_NO_FATAL_FAILURE(MakeNet(1));
  Link link(*net_);
  FrontEnd& front_end = *link.front_end;
  EXPECT_EQ(front_end.GetNumber(Request::kGetQueueNum), 1U) << "in pairs";
  ASSERT_NO_FATAL_FAILURE(BringUp(front_end, 1));
  Transmit(front_end, 1, "too early");
  ASSERT_TRUE(front_end.WaitForUsed(*rings_[1]).has_value()) << "thrown away, and given back";
  ASSERT_TRUE(front_end.Enable(0) && front_end.Enable(1));
  Transmit(front_end, 1, "to the host");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "to the host");
  ASSERT_TRUE(wire_->Send("to the guest"));
  EXPECT_EQ(ReceiveText(front_end, 0), "to the guest");
}

TEST_F(ServedNetTest, ASecondPairComesAndGoes) {
  ASSERT_NO_FATAL_FAILURE(MakeNet(2));
  Link link(*net_);
  FrontEnd& front_end = *link.front_end;
  EXPECT_EQ(front_end.GetNumber(Request::kGetQueueNum), 2U);
  EXPECT_NE(*front_end.GetNumber(Request::kGetFeatures) & uint64_t{1} << 22, 0U) << "MQ";
  ASSERT_NO_FATAL_FAILURE(BringUp(front_end, 2));
  for (uint32_t queue = 0; queue < 4; ++queue) ASSERT_TRUE(front_end.Enable(queue));
  Transmit(front_end, 3, "by the second");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "by the second");
  ASSERT_TRUE(front_end.Enable(2, false) && front_end.Enable(3, false));
  // Whatever the host steers by now, it all comes to the first.
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(wire_->Send("again"));
    EXPECT_EQ(ReceiveText(front_end, 0), "again");
  }
  ASSERT_TRUE(front_end.Enable(2) && front_end.Enable(3));
  Transmit(front_end, 3, "is back");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "is back");
}

TEST_F(ServedNetTest, TheNetworkIsToldWhereAGuestIs) {
  ASSERT_NO_FATAL_FAILURE(MakeNet(1));
  Link link(*net_);
  FrontEnd& front_end = *link.front_end;
  constexpr uint64_t kMac = 0x0600'0000'5452;  // 52:54:00:00:00:06, in the order of memory
  ASSERT_NO_FATAL_FAILURE(BringUp(front_end, 1));
  EXPECT_FALSE(front_end.Ask(Request::kSendRarp, kMac)) << "nothing has run yet";
  ASSERT_TRUE(front_end.Enable(0) && front_end.Enable(1));
  const kernel_abi::UniqueFd all(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x8035)));
  ASSERT_TRUE(all.valid());
  EXPECT_FALSE(front_end.Ask(Request::kSendRarp, uint64_t{1})) << "an address of a group";
  ASSERT_TRUE(front_end.Ask(Request::kSendRarp, kMac));
  pollfd ready{.fd = all.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&ready, 1, kPatienceMs), 1);
  unsigned char frame[128] = {};
  ASSERT_EQ(recv(all.get(), frame, sizeof(frame), 0), 60);
  const unsigned char wanted[] = {
      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 6, 0x80, 0x35, 0,    1, 8, 0, 6,
      4,    0,    3,    0x52, 0x54, 0,    0,    0,    6, 0, 0, 0, 0,    0x52, 0x54, 0, 0, 0, 6};
  EXPECT_EQ(memcmp(frame, wanted, sizeof(wanted)), 0);
}

TEST_F(ServedNetTest, AnMtuIsTakenIfADeviceCanHaveIt) {
  ASSERT_NO_FATAL_FAILURE(MakeNet(1));
  Link link(*net_);
  ASSERT_TRUE(link.front_end->Negotiate(kFeatures, kAllProtocolFeatures));
  EXPECT_TRUE(link.front_end->Ask(Request::kNetSetMtu, uint64_t{9000}));
  EXPECT_FALSE(link.front_end->Ask(Request::kNetSetMtu, uint64_t{67}));
  EXPECT_FALSE(link.front_end->Ask(Request::kNetSetMtu, uint64_t{65536}));
  EXPECT_FALSE(link.front_end->is_dropped());
}

TEST(ServedVsockTest, TellsItsCidAndAnswersTheGuest) {
  const std::string path = ::testing::TempDir() + "served-" + std::to_string(getpid()) + ".vsock";
  ServedVsockOptions options;
  options.backend.guest_cid = 77;
  options.backend.host.uds_path = path;
  auto vsock = ServedVsock::Create(kernel_abi::LinuxKernel(), std::move(options));
  ASSERT_TRUE(vsock.ok()) << vsock.status();
  Link link(**vsock);
  FrontEnd& front_end = *link.front_end;
  ASSERT_TRUE(front_end.Negotiate(kVersion1Bit, kAllProtocolFeatures));
  front_end.Send(MakeConfig(Request::kGetConfig, 0, 0, std::vector<std::byte>(8)));
  const auto config = GetConfig(front_end.TryReceive().value());
  ASSERT_TRUE(config.ok()) << config.status();
  uint64_t cid = 0;
  memcpy(&cid, config->bytes.data(), sizeof(cid));
  EXPECT_EQ(cid, 77U);

  fakes::GuestRam ram(1 << 20, fakes::GuestRam::kDefaultStart, true);
  ASSERT_TRUE(front_end.ShareMemory(ram));
  Ring rx(ram, {.size = 16});
  Ring tx(ram, {.size = 16});
  Ring event(ram, {.size = 16});
  Ring* const rings[] = {&rx, &tx, &event};
  for (uint32_t queue = 0; queue < 3; ++queue) {
    ASSERT_TRUE(front_end.SetUp(ram, queue, *rings[queue]) && front_end.Enable(queue));
    front_end.Kick(*rings[queue]);
  }
  // A request to a port where nobody listens is answered with a reset.
  rx.driver.Chain().Writable(4096).Publish();
  front_end.Kick(rx);
  kernel_abi::VirtioVsockHdr request{};
  request.src_cid = 77;
  request.dst_cid = 2;
  request.src_port = 1000;
  request.dst_port = 9;
  request.type = 1;
  request.op = 1;
  request.buf_alloc = 65536;
  tx.driver.Chain().Readable(std::as_bytes(std::span(&request, 1))).Publish();
  front_end.Kick(tx);
  const auto used = front_end.WaitForUsed(rx);
  ASSERT_TRUE(used.has_value());
  ASSERT_GE(used->data.size(), sizeof(kernel_abi::VirtioVsockHdr));
  kernel_abi::VirtioVsockHdr answer{};
  memcpy(&answer, used->data.data(), sizeof(answer));
  EXPECT_EQ(answer.op, 3);
  EXPECT_EQ(answer.dst_port, 1000U);
}

}  // namespace
}  // namespace vhost::user
