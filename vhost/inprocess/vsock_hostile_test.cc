// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a hostile driver, or hostile processes of the host, do to a VsockMux. Whatever it is: it is
// dropped and counted or ends one connection, others live, and the device neither spins nor grows.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "vhost/inprocess/vsock_mux_fixture.h"

namespace vhost::inprocess {
namespace {

using namespace kernel_abi;  // NOLINT(google-build-using-namespace)
using std::chrono::milliseconds;
using Header = fakes::VsockGuest::Header;

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A packet on an established connection (guest port 1024, host port 52), spoilt.
struct HostilePacket {
  const char* what;
  void (*spoil)(Header&);
  uint32_t payload_bytes;
  std::optional<VsockDrop> drop;
  bool resets;    // the connection
  bool answered;  // with a reset although there is no such connection
};
class HostileVsockPacket : public VsockMuxTest,
                           public testing::WithParamInterface<HostilePacket> {};

TEST_P(HostileVsockPacket, HarmsNobodyElse) {
  const HostilePacket& param = GetParam();
  Start();
  Connection victim = ConnectFromGuest(52);
  Connection bystander = ConnectFromGuest(53);
  ASSERT_EQ(victim.guest->guest_port, 1024u);
  Header header = victim.guest->Make(kVsockOpRw);
  header.len = param.payload_bytes;
  param.spoil(header);
  guest_->Put(header, Bytes(std::string(param.payload_bytes, 'x')));
  guest_->Run();
  if (param.drop.has_value()) {
    EXPECT_EQ(Drops(*param.drop), 1u) << Name(*param.drop);
    EXPECT_EQ(AllDrops(), 1u);
  } else {
    EXPECT_EQ(AllDrops(), 0u);
  }
  EXPECT_EQ(victim.guest->reset, param.resets);
  EXPECT_EQ(victim.host.AtEnd(), param.resets);
  EXPECT_EQ(guest_->strays.size(), param.answered ? 1u : 0u);
  if (param.answered) {
    EXPECT_EQ(guest_->strays[0].op, kVsockOpRst);
  }
  // The other one is as it was.
  bystander.guest->Send("alive");
  bystander.host.Say("alive too");
  guest_->Run();
  EXPECT_EQ(bystander.host.Hear(), "alive");
  EXPECT_EQ(bystander.guest->received, "alive too");
  EXPECT_EQ(mux_->connections(), param.resets ? 1u : 2u);
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileVsockPacket,
    testing::Values(
        HostilePacket{"ForgedCidOfAnother", [](Header& h) { h.src_cid = 4; }, 10,
                      VsockDrop::kForgedSource, false, false},
        HostilePacket{"ForgedCidOfTheHost", [](Header& h) { h.src_cid = kVsockHostCid; }, 10,
                      VsockDrop::kForgedSource, false, false},
        HostilePacket{"ForgedCidWithHighBits", [](Header& h) { h.src_cid += 1ull << 32; }, 10,
                      VsockDrop::kForgedSource, false, false},
        HostilePacket{"ToAnotherGuest", [](Header& h) { h.dst_cid = 4; }, 10,
                      VsockDrop::kNotForHost, false, false},
        HostilePacket{"ToItself", [](Header& h) { h.dst_cid = 3; }, 10, VsockDrop::kNotForHost,
                      false, false},
        HostilePacket{"LengthBeyondTheChain", [](Header& h) { h.len = 11; }, 10,
                      VsockDrop::kBadLength, false, false},
        HostilePacket{"LengthOf4GiB", [](Header& h) { h.len = UINT32_MAX; }, 10,
                      VsockDrop::kBadLength, false, false},
        HostilePacket{"LengthWithinALargerChain", [](Header& h) { h.len = 0; }, 10, std::nullopt,
                      false, false},
        HostilePacket{"UnknownType", [](Header& h) { h.type = 3; }, 10, VsockDrop::kUnknownType,
                      true, false},
        HostilePacket{"TheOtherType", [](Header& h) { h.type = kVsockTypeSeqpacket; }, 10,
                      VsockDrop::kUnknownType, true, false},
        HostilePacket{"UnknownOp", [](Header& h) { h.op = 8; }, 10, VsockDrop::kUnknownOp, false,
                      false},
        HostilePacket{"NoOp", [](Header& h) { h.op = 0; }, 10, VsockDrop::kUnknownOp, false, false},
        HostilePacket{"RequestAgain", [](Header& h) { h.op = kVsockOpRequest; }, 0,
                      VsockDrop::kWrongState, true, false},
        HostilePacket{"ResponseUnasked", [](Header& h) { h.op = kVsockOpResponse; }, 0,
                      VsockDrop::kWrongState, false, false},
        HostilePacket{"DataForNobody", [](Header& h) { h.src_port = 9999; }, 10,
                      VsockDrop::kNoConnection, false, true},
        HostilePacket{"ShutdownForNobody",
                      [](Header& h) {
                        h.src_port = 9999;
                        h.op = kVsockOpShutdown;
                      },
                      0, VsockDrop::kNoConnection, false, true},
        HostilePacket{"ResponseForNobody",
                      [](Header& h) {
                        h.dst_port = 9999;
                        h.op = kVsockOpResponse;
                      },
                      0, VsockDrop::kNoConnection, false, true},
        HostilePacket{"ResetForNobody",
                      [](Header& h) {
                        h.src_port = 9999;
                        h.op = kVsockOpRst;
                      },
                      0, std::nullopt, false, false},
        HostilePacket{"CreditForWhatWasNeverSent", [](Header& h) { h.fwd_cnt = 12345; }, 10,
                      std::nullopt, false, false},
        HostilePacket{"CreditInThePast", [](Header& h) { h.fwd_cnt = 0x8000'0000; }, 10,
                      std::nullopt, false, false}),
    [](const auto& test) { return test.param.what; });

TEST_F(VsockMuxTest, ChainsTooShortForAHeaderAreDropped) {
  Start();
  for (size_t bytes = 1; bytes < 44; bytes += 7) {
    ASSERT_TRUE(driver_->SendBytes(Bytes(std::string(bytes, 'x'))));
  }
  guest_->Run();
  EXPECT_EQ(Drops(VsockDrop::kShortChain), 7u);
  EXPECT_EQ(driver_->under_way(), 0u);  // All were returned.
  EXPECT_TRUE(ConnectFromGuest().guest->established);
}

TEST_F(VsockMuxTest, ReceiveBuffersTooShortForAPacketArePassedOver) {
  Start({}, {.receive_size = 8, .receive_bytes = 20});
  auto* socket = guest_->Connect(52);
  for (int i = 0; i < 50; ++i) Poll();
  EXPECT_FALSE(socket->reset);
  EXPECT_EQ(Drops(VsockDrop::kShortChain), 8u);  // Each once: the driver never gave more.
}

TEST_F(VsockMuxTest, ReceiveBuffersOfAHeaderAloneCarryNoData) {
  Start({}, {.receive_size = 8, .receive_bytes = 44});
  Connection connection = ConnectFromGuest();
  connection.host.Say("data");
  for (int i = 0; i < 100; ++i) {
    Poll();
    while (driver_->Receive().has_value()) {
    }
  }
  EXPECT_EQ(connection.guest->received, "");
  EXPECT_GT(Drops(VsockDrop::kShortChain), 0u);
}

TEST_F(VsockMuxTest, AReadableReceiveBufferIsNotWrittenTo) {
  Start({}, {.receive_size = 8, .post_receive = false});
  auto& ring = driver_->receive();
  ring.PutDesc(7, {Value(ring.address(7)), 4096, 0, 0});
  ring.PublishHead(7);
  driver_->PostReceive(1);
  auto* socket = guest_->Connect(99);
  Poll();
  EXPECT_EQ(Drops(VsockDrop::kShortChain), 1u);
  const auto used = ring.TakeUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->second, 0u);
  guest_->Run();
  EXPECT_TRUE(socket->reset);
}

TEST_F(VsockMuxTest, ABrokenRingStopsOnlyItself) {
  Start();
  Connection connection = ConnectFromGuest();
  driver_->transmit().PublishHead(60000);  // no such descriptor
  Poll();
  EXPECT_FALSE(transmit_->broken().ok());
  connection.host.Say("still heard");
  guest_->Run();
  EXPECT_EQ(connection.guest->received, "still heard");
}

TEST_F(VsockMuxTest, AFloodOfConnectionsStopsAtTheLimit) {
  Start({.connections = 20});
  const UnixListener listener = ListenAt(52, SOCK_STREAM, 4096);
  std::vector<fakes::VsockGuest::Socket*> sockets;
  for (int i = 0; i < 1000; ++i) {
    sockets.push_back(guest_->Connect(52));
    if (i % 50 == 0) guest_->Run();
  }
  guest_->Run();
  EXPECT_EQ(mux_->connections(), 20u);
  int established = 0, reset = 0;
  for (const auto* socket : sockets) {
    established += socket->established ? 1 : 0;
    reset += socket->reset ? 1 : 0;
  }
  EXPECT_EQ(established, 20);
  EXPECT_EQ(reset, 980);
  EXPECT_EQ(Drops(VsockDrop::kConnectionLimit), 980u);
  // Places come back.
  for (auto* socket : sockets) {
    if (socket->established) socket->Reset();
  }
  guest_->Run();
  EXPECT_EQ(mux_->connections(), 0u);
  EXPECT_TRUE(ConnectFromGuest(60).guest->established);
}

TEST_F(VsockMuxTest, AFloodOfConnectionsToABusyListenerStopsAtTheHalfOpenLimit) {
  Start({.half_open = 5});
  const UnixListener listener = ListenAt(52, SOCK_STREAM, 0);
  std::vector<HostPeer> queue;
  while (true) {
    auto fd = ConnectUnix(path_ + "_52");
    if (!fd.ok()) break;
    queue.emplace_back(*std::move(fd));
  }
  std::vector<fakes::VsockGuest::Socket*> sockets;
  for (int i = 0; i < 50; ++i) sockets.push_back(guest_->Connect(52));
  guest_->Run();
  EXPECT_EQ(mux_->connections(), 5u);
  EXPECT_EQ(Drops(VsockDrop::kConnectionLimit), 45u);
  // Other listeners are not reached meanwhile, but clients of the host are served.
  EXPECT_NE(ConnectFromHost(80).guest, nullptr);
}

TEST_F(VsockMuxTest, AFloodOfSilentClientsLeavesTheGuestsConnectionsAlone) {
  Start({.half_open = 5, .half_open_timeout = milliseconds(100)});
  std::vector<HostPeer> clients;
  for (int i = 0; i < 60; ++i) clients.push_back(Client());
  guest_->Run();
  EXPECT_TRUE(ConnectFromGuest().guest->established);
  // The next ones wait in the listener's queue, and are looked at when the first ones' time is up.
  guest_->Listen(80);
  HostPeer last = Client();
  last.Say("CONNECT 80\n");
  for (int i = 0; i < 20 && guest_->Accepted(80) == nullptr; ++i) Pass(milliseconds(101));
  EXPECT_NE(guest_->Accepted(80), nullptr);
}

TEST_F(VsockMuxTest, BuffersOfAllConnectionsTogetherAreBounded) {
  Start({.connections = 1000, .window_bytes = 64 * 1024, .buffer_bytes = 256 * 1024});
  const UnixListener listener = ListenAt(52, SOCK_STREAM, 4096);
  std::vector<fakes::VsockGuest::Socket*> sockets;
  for (int i = 0; i < 200; ++i) {
    sockets.push_back(guest_->Connect(52));
    if (i % 30 == 0) guest_->Run();
  }
  guest_->Run();
  uint64_t promised = 0;
  for (auto* socket : sockets) {
    if (socket->established) promised += socket->peer_buffer;
  }
  EXPECT_LE(promised, 256u * 1024);
  EXPECT_GT(mux_->connections(), 10u);
  EXPECT_LT(mux_->connections(), 200u);
  // All of them send all that they may, to a host that never reads.
  for (int i = 0; i < 20; ++i) {
    for (auto* socket : sockets) {
      if (socket->established) socket->Send(std::string(64 * 1024, 'x'));
    }
    guest_->Run();
  }
  EXPECT_LE(mux_->stats().buffered_bytes, 256u * 1024);
}

TEST_F(VsockMuxTest, AFloodOfStraysWithoutReceiveBuffersIsHeldBackNotQueued) {
  Start({}, {.transmit_size = 256, .transmit_bytes = 64, .post_receive = false});
  Header header{};
  header.src_cid = kCid;
  header.dst_cid = kVsockHostCid;
  header.type = kVsockTypeStream;
  header.op = kVsockOpRw;
  int sent = 0;
  for (int round = 0; round < 50; ++round) {
    while (true) {
      header.src_port = static_cast<uint32_t>(sent);
      if (!driver_->Send(header)) break;
      ++sent;
    }
    Poll();
  }
  // As many as there can be resets, and a ring full that waits.
  EXPECT_LE(mux_->stats().from_guest.packets, 256u);
  EXPECT_LE(sent, 256 + 256);
  // With receive buffers all are answered.
  driver_->PostReceive(64);
  guest_->Run();
  EXPECT_EQ(guest_->strays.size(), static_cast<size_t>(sent));
}

TEST_F(VsockMuxTest, AFloodOfRequestsAndResetsLeavesNothingBehind) {
  Start({}, {.post_receive = false});
  const UnixListener listener = ListenAt(52, SOCK_STREAM, 4096);
  for (int i = 0; i < 2000; ++i) {
    guest_->Connect(52)->Reset();
    if (i % 16 == 0) {
      Poll();
      while (Accept(listener).valid()) {
      }
    }
  }
  Poll();
  EXPECT_EQ(mux_->connections(), 0u);
  driver_->PostReceive(64);
  guest_->Run();
  EXPECT_TRUE(ConnectFromGuest(60).guest->established);
}

TEST_F(VsockMuxTest, AGuestThatMakesItsBufferSmallerIsSentNothingMore) {
  Start({}, {.receive_size = 16});
  guest_->SetReads(false);
  Connection connection = ConnectFromHost(80, SOCK_SEQPACKET);
  driver_->KeepReceived(true);
  connection.host.Say(Pattern(200'000));  // more than the buffers at hand
  mux_->NoteEvents();
  mux_->Poll();
  connection.guest->buffer = 10;
  guest_->Put(connection.guest->Make(kVsockOpCreditUpdate));
  driver_->KeepReceived(false);
  guest_->Run();
  driver_->PostReceive(64);
  guest_->Run();
  EXPECT_LT(connection.guest->received_count, 200'000u);
  Poll();  // does not spin
}

TEST_F(VsockMuxTest, CreditLiesNeverSendMoreThanTheGuestsBuffersTake) {
  Start({}, {.receive_size = 16});
  driver_->KeepReceived(true);
  Connection connection = ConnectFromGuest();
  Header header = connection.guest->Make(kVsockOpCreditUpdate);
  header.buf_alloc = UINT32_MAX;
  guest_->Put(header);
  guest_->Run();
  for (int i = 0; i < 10; ++i) {
    connection.host.Say(Pattern(100'000));
    guest_->Run();
  }
  EXPECT_LE(connection.guest->received.size(), 16u * 4096);
  EXPECT_EQ(mux_->stats().buffered_bytes, 0u);
}

// Random packets, half of them nearly right, on a device with connections: nothing breaks, hangs or
// grows. What libFuzzer does longer (tests/fuzz/vsock_packet_fuzz.cc).
TEST_F(VsockMuxTest, SurvivesRandomPackets) {
  Start({.connections = 30,
         .half_open_timeout = milliseconds(50),
         .close_timeout = milliseconds(50),
         .linger_timeout = milliseconds(50)});
  const UnixListener stream = ListenAt(1, SOCK_STREAM, 1000);
  const UnixListener seqpacket = ListenAt(2, SOCK_SEQPACKET, 1000);
  std::vector<HostPeer> peers;
  std::mt19937 random(7);
  const std::string payload = Pattern(70'000);
  for (int i = 0; i < 20'000; ++i) {
    Header header{};
    header.src_cid = random() % 64 == 0 ? random() : kCid;
    header.dst_cid = random() % 64 == 0 ? random() : kVsockHostCid;
    header.src_port = random() % 8;
    header.dst_port = random() % 4;
    header.type = static_cast<uint16_t>(random() % 32 == 0 ? random() : 1 + header.dst_port / 2);
    header.op = static_cast<uint16_t>(random() % 9);
    const uint32_t bytes = random() % 4 == 0 ? random() % 20'000 : random() % 200;
    header.len = random() % 32 == 0 ? random() : bytes;
    header.flags = random() % 16 == 0 ? random() : random() % 4;
    header.buf_alloc = random() % 8 == 0 ? random() : 100'000;
    header.fwd_cnt = random() % 8 == 0 ? random() : 0;
    guest_->Put(header, Bytes(payload).first(bytes));
    if (random() % 8 == 0) {
      guest_->Run(1);
      guest_->strays.clear();
    }
    if (random() % 16 == 0) {
      if (HostPeer peer = Accept(random() % 2 == 0 ? stream : seqpacket); peer.valid()) {
        peers.push_back(std::move(peer));
      }
    }
    if (!peers.empty()) {
      HostPeer& peer = peers[random() % peers.size()];
      switch (random() % 16) {
        case 0:
          peer.Say(payload.substr(0, random() % 70'000));
          break;
        case 1:
          peer.Hear();
          break;
        case 2:
          peer.Shutdown(random() % 2 == 0 ? SHUT_RD : SHUT_WR);
          break;
        case 3:
          if (random() % 4 == 0) peer.Close();
          break;
        default:
          break;
      }
    }
    if (peers.size() > 40) peers.erase(peers.begin());
    if (random() % 128 == 0) now_ += milliseconds(30);
  }
  guest_->Run();
  ASSERT_LE(mux_->connections(), 30u);
  peers.clear();
  for (int i = 0; i < 20; ++i) Pass(milliseconds(60));
  guest_->Run();
  mux_->DropConnections();
  EXPECT_TRUE(ConnectFromGuest(60).guest->established);
}

TEST_F(VsockMuxTest, HeadersThatChangeUnderTheParserAreReadOnce) {
  Start({}, {.transmit_bytes = 1024});
  Connection connection = ConnectFromGuest();
  std::atomic<bool> stop = false;
  // Another vCPU writes over every transmit buffer, headers and all.
  std::thread vcpu([&] {
    std::mt19937 random(3);
    while (!stop.load(std::memory_order_relaxed)) {
      for (uint16_t slot = 0; slot < 8; ++slot) {
        auto* words = reinterpret_cast<uint32_t*>(driver_->transmit().buffer(slot));
        for (int i = 4; i < 11; ++i) {
          std::atomic_ref<uint32_t>(words[i]).store(random(), std::memory_order_relaxed);
        }
      }
    }
  });
  for (int i = 0; i < 1000; ++i) {
    Header header = connection.guest->Make(kVsockOpRw);
    header.len = 900;
    for (int n = 0; n < 8; ++n) driver_->Send(header, Bytes(Pattern(900)));
    Poll();
    while (driver_->Receive().has_value()) {
    }
    connection.host.Hear();
  }
  stop = true;
  vcpu.join();
  EXPECT_EQ(driver_->under_way(), 0u);
  EXPECT_LE(mux_->stats().buffered_bytes, 256u * 1024 * 64);
}

}  // namespace
}  // namespace vhost::inprocess
