// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_mux.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "vhost/inprocess/vsock_mux_fixture.h"

namespace vhost::inprocess {
namespace {

using namespace kernel_abi;  // NOLINT(google-build-using-namespace)
using std::chrono::milliseconds;

constexpr uint32_t kBoth = kVsockShutdownReceive | kVsockShutdownSend;

// ---- Connecting --------------------------------------------------------------------------------

TEST_F(VsockMuxTest, AGuestReachesTheSocketOfThePort) {
  Start();
  Connection connection = ConnectFromGuest(52);
  connection.guest->Send("from the guest");
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "from the guest");
  connection.host.Say("from the host");
  guest_->Run();
  EXPECT_EQ(connection.guest->received, "from the host");
  EXPECT_EQ(AllDrops(), 0u);
  EXPECT_EQ(mux_->connections(), 1u);
}

TEST_F(VsockMuxTest, AClientReachesThePortOfTheGuest) {
  Start();
  Connection connection = ConnectFromHost(80);
  EXPECT_GE(connection.guest->host_port, 1u << 30);
  connection.host.Say("from the host");
  guest_->Run();
  EXPECT_EQ(connection.guest->received, "from the host");
  connection.guest->Send("from the guest");
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "from the guest");
  EXPECT_EQ(AllDrops(), 0u);
}

TEST_F(VsockMuxTest, AClientMaySayEverythingAtOnceAndLeave) {
  Start();
  guest_->Listen(80);
  HostPeer client = Client();
  client.Say("CONNECT 80\nGET /\n");
  client.Close();
  guest_->Run();
  ASSERT_NE(guest_->Accepted(80), nullptr);
  EXPECT_EQ(guest_->Accepted(80)->received, "GET /\n");
  EXPECT_NE(guest_->Accepted(80)->peer_shutdown, 0u);
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, APortWithoutAListenerIsRefusedBothWays) {
  Start();
  auto* socket = guest_->Connect(99);
  HostPeer client = Client();
  client.Say("CONNECT 99\n");
  guest_->Run();
  EXPECT_TRUE(socket->reset);
  EXPECT_TRUE(client.AtEnd());
  EXPECT_EQ(mux_->connections(), 0u);
  EXPECT_EQ(Drops(VsockDrop::kRefused), 1u);
}

TEST_F(VsockMuxTest, AListenerThatIsBusyIsTriedAgain) {
  Start();
  const UnixListener listener = ListenAt(52, SOCK_STREAM, /*backlog=*/0);
  std::vector<HostPeer> queue;  // fills its queue
  while (true) {
    auto fd = ConnectUnix(path_ + "_52");
    if (!fd.ok()) break;
    queue.emplace_back(*std::move(fd));
    ASSERT_LT(queue.size(), 100u);
  }
  auto* socket = guest_->Connect(52);
  guest_->Run();
  EXPECT_FALSE(socket->established);
  EXPECT_FALSE(socket->reset);
  Pass(milliseconds(50));
  EXPECT_FALSE(socket->established);
  for (size_t i = 0; i < queue.size(); ++i) Accept(listener);
  Pass(milliseconds(50));
  EXPECT_TRUE(socket->established);
}

TEST_F(VsockMuxTest, AListenerThatStaysBusyIsGivenUp) {
  Start({.half_open_timeout = milliseconds(1000)});
  const UnixListener listener = ListenAt(52, SOCK_STREAM, /*backlog=*/0);
  std::vector<HostPeer> queue;
  while (true) {
    auto fd = ConnectUnix(path_ + "_52");
    if (!fd.ok()) break;
    queue.emplace_back(*std::move(fd));
  }
  auto* socket = guest_->Connect(52);
  for (int i = 0; i < 60 && !socket->reset; ++i) Pass(milliseconds(20));
  EXPECT_TRUE(socket->reset);
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, ClientsThatSayNothingOrGarbageAreSentAway) {
  Start({.half_open_timeout = milliseconds(500)});
  HostPeer silent = Client();
  HostPeer garbage = Client();
  garbage.Say("HELO\n");
  HostPeer half = Client();
  half.Say("CONN");
  HostPeer half_closed = Client();
  half_closed.Say("CONN");
  half_closed.Shutdown(SHUT_WR);
  guest_->Run();
  EXPECT_TRUE(garbage.AtEnd());
  EXPECT_TRUE(half_closed.AtEnd());
  EXPECT_FALSE(silent.AtEnd());
  EXPECT_FALSE(half.AtEnd());
  Pass(milliseconds(501));
  EXPECT_TRUE(silent.AtEnd());
  EXPECT_TRUE(half.AtEnd());
  EXPECT_EQ(mux_->stats().garbage_clients, 4u);
  EXPECT_FALSE(mux_->deadline().has_value());
}

TEST_F(VsockMuxTest, AGuestThatDoesNotAnswerAClientIsGivenUp) {
  Start({.half_open_timeout = milliseconds(500)});
  HostPeer client = Client();
  client.Say("CONNECT 80\n");
  Poll();  // The device alone: nobody answers.
  EXPECT_EQ(driver_->Receive()->header.op, kVsockOpRequest);
  now_ += milliseconds(501);
  Poll();
  EXPECT_TRUE(client.AtEnd());
  EXPECT_EQ(driver_->Receive()->header.op, kVsockOpRst);
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, ClientsGetPortsOfTheirOwn) {
  Start();
  Connection first = ConnectFromHost(80);
  Connection second = ConnectFromHost(80);
  EXPECT_NE(first.guest->host_port, second.guest->host_port);
  first.host.Say("one");
  second.host.Say("two");
  guest_->Run();
  EXPECT_EQ(first.guest->received, "one");
  EXPECT_EQ(second.guest->received, "two");
}

// ---- Data --------------------------------------------------------------------------------------

struct DataCase {
  const char* what;
  bool split_header;
  bool event_idx;
  uint32_t receive_bytes;
  size_t packet_bytes;
  bool packed = false;
  bool in_order = false;
};
class VsockData : public VsockMuxTest, public testing::WithParamInterface<DataCase> {};

TEST_P(VsockData, MovesMegabytesBothWaysUnchanged) {
  Start({}, {.receive_bytes = GetParam().receive_bytes,
             .split_header = GetParam().split_header,
             .event_idx = GetParam().event_idx,
             .packed = GetParam().packed,
             .in_order = GetParam().in_order});
  Connection connection = ConnectFromGuest();
  const std::string up = Pattern(3'000'000, 1);
  const std::string down = Pattern(3'000'000, 2);
  std::string heard;
  size_t sent = 0, said = 0;
  for (int idle = 0;
       idle < 50 && (heard.size() < up.size() || connection.guest->received.size() < down.size());
       ++idle) {
    if (sent < up.size()) {
      const size_t now =
          connection.guest->Send(up.substr(sent, 500'000), true, GetParam().packet_bytes);
      sent += now;
      if (now > 0) idle = 0;
    }
    if (said < down.size()) {
      const ssize_t now = connection.host.Say(down.substr(said, 500'000));
      if (now > 0) {
        said += static_cast<size_t>(now);
        idle = 0;
      }
    }
    guest_->Run();
    if (const auto text = connection.host.Hear(); text.has_value()) {
      heard += *text;
      idle = 0;
    }
  }
  EXPECT_TRUE(heard == up);
  EXPECT_TRUE(connection.guest->received == down);
  EXPECT_EQ(AllDrops(), 0u);
  EXPECT_EQ(mux_->stats().from_guest.bytes, up.size());
  EXPECT_EQ(mux_->stats().to_guest.bytes, down.size());
  EXPECT_EQ(mux_->stats().buffered_bytes, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    All, VsockData,
    testing::Values(DataCase{"OnePiece", false, false, 4096, 65536},
                    DataCase{"HeaderApart", true, false, 4096, 65536},
                    DataCase{"EventIdx", false, true, 4096, 65536},
                    DataCase{"LargeBuffers", true, true, 65580, 65536},
                    DataCase{"Packed", false, false, 4096, 65536, true},
                    DataCase{"PackedHeaderApartEventIdx", true, true, 4096, 65536, true},
                    DataCase{"SplitInOrder", false, true, 4096, 65536, false, true},
                    DataCase{"PackedInOrder", true, false, 4096, 65536, true, true},
                    DataCase{"TinyBuffers", false, false, 45 + 300, 1000}),
    [](const auto& test) { return test.param.what; });

TEST_F(VsockMuxTest, CountsThatRunOverDoNoHarm) {
  Start();
  Connection connection = ConnectFromGuest();
  // As if almost 4 GiB had gone each way.
  VsockLink* link = mux_->FindLink({.guest = connection.guest->guest_port, .host = 52});
  ASSERT_NE(link, nullptr);
  const uint32_t count = 0xffff'f000;
  link->connection.StartCountsAt(count, count);
  connection.guest->sent = connection.guest->peer_forwarded = count;
  connection.guest->received_count = connection.guest->forwarded = connection.guest->told = count;
  const std::string data = Pattern(1'000'000);
  EXPECT_TRUE(SayAll(connection.host, data));
  EXPECT_TRUE(connection.guest->received == data);
  std::string heard;
  for (size_t done = 0; done < data.size();) {
    const size_t now = connection.guest->Send(data.substr(done, 100'000));
    ASSERT_GT(now, 0u);
    done += now;
    heard += HearAll(connection.host);
  }
  EXPECT_TRUE(heard == data);
  EXPECT_LT(link->connection.send_credit().sent(), count);
}

TEST_F(VsockMuxTest, AHostThatDoesNotReadStopsTheGuestByCreditAndTakesBoundedMemory) {
  Start();
  Connection slow = ConnectFromGuest(52);
  Connection other = ConnectFromGuest(53);
  const std::string data = Pattern(4'000'000);
  size_t sent = 0;
  for (int i = 0; i < 100; ++i) {
    sent += slow.guest->Send(data.substr(sent, 100'000));
    guest_->Run();
  }
  EXPECT_LT(sent, data.size());
  EXPECT_EQ(slow.guest->credit(), 0u);
  EXPECT_LE(mux_->stats().buffered_bytes, 256u * 1024);
  EXPECT_GT(mux_->stats().buffered_bytes, 0u);
  // Others are not held up.
  other.guest->Send("still here");
  guest_->Run();
  EXPECT_EQ(other.host.Hear(), "still here");
  // And it goes on when the host reads.
  std::string heard = HearAll(slow.host);
  EXPECT_TRUE(heard == data.substr(0, sent));
  EXPECT_GT(slow.guest->credit(), 0u);
  EXPECT_EQ(mux_->stats().buffered_bytes, 0u);
  EXPECT_EQ(AllDrops(), 0u);
}

TEST_F(VsockMuxTest, AGuestThatDoesNotReadStopsTheHost) {
  Start();
  guest_->SetReads(false);
  guest_->SetBuffer(10'000);
  Connection connection = ConnectFromHost();
  const std::string data = Pattern(50'000);
  connection.host.Say(data);
  guest_->Run();
  EXPECT_EQ(connection.guest->received.size(), 10'000u);
  EXPECT_EQ(connection.guest->credit_requests, 1);
  guest_->Run();
  EXPECT_EQ(connection.guest->credit_requests, 1);  // Asked once.
  while (connection.guest->received.size() < data.size()) {
    const size_t before = connection.guest->received.size();
    connection.guest->Read();
    guest_->Run();
    ASSERT_GT(connection.guest->received.size(), before);
  }
  EXPECT_TRUE(connection.guest->received == data);
}

TEST_F(VsockMuxTest, WithoutReceiveBuffersNothingIsReadFromSockets) {
  Start({}, {.receive_size = 8, .post_receive = false});
  driver_->PostReceive(4);
  driver_->KeepReceived(true);
  Connection connection = ConnectFromGuest();  // takes one
  const std::string data = Pattern(40'000);
  connection.host.Say(data);
  guest_->Run();
  EXPECT_EQ(connection.guest->received.size(), 3u * (4096 - 44));
  for (int i = 0; i < 20; ++i) {
    driver_->PostReceive(1);
    guest_->Run();
  }
  EXPECT_TRUE(connection.guest->received == data);
}

TEST_F(VsockMuxTest, ConnectionsAreServedInTurn) {
  Start();
  guest_->SetReads(true);
  Connection loud = ConnectFromGuest(52);
  Connection quiet = ConnectFromGuest(53);
  loud.host.Say(Pattern(200'000));
  quiet.host.Say("me too");
  mux_->NoteEvents();
  for (int i = 0; i < 3; ++i) mux_->Poll();  // Each a bounded burst.
  guest_->Receive();
  EXPECT_EQ(quiet.guest->received, "me too");
}

TEST_F(VsockMuxTest, SmallPacketsOfManyConnectionsInOneBurstKeepTheirPlaces) {
  Start();
  Connection one = ConnectFromGuest(52);
  Connection two = ConnectFromGuest(53);
  const std::string data = Pattern(60);
  // In runs of one, two and three packets, so that some are written together.
  for (size_t at = 0; at < data.size(); ++at) {
    fakes::VsockGuest::Socket* to = at % 6 == 0 || at % 6 > 3 ? one.guest : two.guest;
    EXPECT_EQ(to->Send(data.substr(at, 1)), 1u);
  }
  guest_->Run();
  std::string for_one;
  std::string for_two;
  for (size_t at = 0; at < data.size(); ++at) {
    (at % 6 == 0 || at % 6 > 3 ? for_one : for_two) += data[at];
  }
  EXPECT_EQ(one.host.Hear(), for_one);
  EXPECT_EQ(two.host.Hear(), for_two);
}

// ---- Ends --------------------------------------------------------------------------------------

TEST_F(VsockMuxTest, AGuestThatClosesIsResetOnceTheHostHasItsData) {
  Start();
  Connection connection = ConnectFromGuest();
  connection.guest->Send("last words");
  connection.guest->Shutdown(kBoth);
  guest_->Run();
  EXPECT_TRUE(connection.guest->reset);
  EXPECT_EQ(connection.host.Hear(), "last words");
  EXPECT_TRUE(connection.host.AtEnd());
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, AGuestThatClosesWhileTheHostIsSlowIsResetLater) {
  Start();
  Connection connection = ConnectFromGuest();
  const std::string data = Pattern(10'000'000);
  size_t sent = 0;
  for (int i = 0; i < 100; ++i) {
    sent += connection.guest->Send(data.substr(sent, 100'000));
    guest_->Run();
  }
  ASSERT_GT(mux_->stats().buffered_bytes, 0u);
  connection.guest->Shutdown(kBoth);
  guest_->Run();
  EXPECT_FALSE(connection.guest->reset);
  EXPECT_TRUE(HearAll(connection.host) == data.substr(0, sent));
  EXPECT_TRUE(connection.guest->reset);
  EXPECT_TRUE(connection.host.AtEnd());
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, WhatAGuestSentBeforeItsResetStillReachesTheHost) {
  Start();
  Connection connection = ConnectFromGuest();
  const std::string data = Pattern(10'000'000);
  size_t sent = 0;
  for (int i = 0; i < 100; ++i) {
    sent += connection.guest->Send(data.substr(sent, 100'000));
    guest_->Run();
  }
  connection.guest->Reset();
  guest_->Run();
  EXPECT_EQ(mux_->connections(), 1u);  // It lingers; the ports are free again.
  EXPECT_EQ(mux_->FindLink({.guest = connection.guest->guest_port, .host = 52}), nullptr);
  EXPECT_TRUE(HearAll(connection.host) == data.substr(0, sent));
  EXPECT_TRUE(connection.host.AtEnd());
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, WhatCameBeforeAPacketThatBreaksTheConnectionStillReachesTheHost) {
  Start();
  Connection connection = ConnectFromGuest();
  EXPECT_EQ(connection.guest->Send("a"), 1u);
  EXPECT_EQ(connection.guest->Send("b"), 1u);
  auto wrong = connection.guest->Make(kernel_abi::kVsockOpRw);
  wrong.type = kernel_abi::kVsockTypeSeqpacket;
  wrong.len = 1;
  guest_->Put(wrong, std::as_bytes(std::span("c", 1)));
  guest_->Run();
  EXPECT_TRUE(connection.guest->reset);
  EXPECT_EQ(connection.host.Hear(), "ab");
  EXPECT_TRUE(connection.host.AtEnd());
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, AHostThatNeverReadsDoesNotKeepAConnectionThatIsGone) {
  Start({.linger_timeout = milliseconds(1000)});
  Connection connection = ConnectFromGuest();
  const std::string data = Pattern(1'000'000);
  for (int i = 0; i < 100; ++i) {
    connection.guest->Send(data.substr(0, 100'000));
    guest_->Run();
  }
  connection.guest->Reset();
  guest_->Run();
  EXPECT_EQ(mux_->connections(), 1u);
  Pass(milliseconds(1001));
  EXPECT_EQ(mux_->connections(), 0u);
  EXPECT_EQ(mux_->stats().buffered_bytes, 0u);
}

TEST_F(VsockMuxTest, HalfShutdownOfTheGuestLeavesTheOtherHalf) {
  Start();
  Connection connection = ConnectFromGuest();
  connection.guest->Send("request");
  connection.guest->Shutdown(kVsockShutdownSend);
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "request");
  EXPECT_TRUE(connection.host.AtEnd());
  EXPECT_FALSE(connection.guest->reset);
  const std::string answer = Pattern(300'000);
  EXPECT_TRUE(SayAll(connection.host, answer));
  EXPECT_TRUE(connection.guest->received == answer);
  connection.host.Close();
  guest_->Run();
  EXPECT_EQ(connection.guest->peer_shutdown, kBoth);
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, AGuestThatReceivesNoMoreStopsTheHostsWriter) {
  Start();
  Connection connection = ConnectFromGuest();
  connection.guest->Shutdown(kVsockShutdownReceive);
  guest_->Run();
  EXPECT_LT(connection.host.Say("into the void"), 0);
  EXPECT_EQ(errno, EPIPE);
  connection.guest->Send("still sending");
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "still sending");
  connection.host.Close();
  guest_->Run();
  EXPECT_EQ(connection.guest->peer_shutdown, kBoth);
}

TEST_F(VsockMuxTest, HalfShutdownOfTheHostLeavesTheOtherHalf) {
  Start();
  Connection connection = ConnectFromHost();
  const std::string data = Pattern(150'000);
  connection.host.Say(data);
  connection.host.Shutdown(SHUT_WR);
  guest_->Run();
  EXPECT_TRUE(connection.guest->received == data);
  EXPECT_EQ(connection.guest->peer_shutdown, kVsockShutdownSend);
  EXPECT_FALSE(connection.guest->reset);
  connection.guest->Send("answer");
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "answer");
  connection.guest->Shutdown(kBoth);
  guest_->Run();
  EXPECT_TRUE(connection.guest->reset);
  EXPECT_TRUE(connection.host.AtEnd());
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, AHostThatReceivesNoMoreStopsTheGuest) {
  Start();
  Connection connection = ConnectFromHost();
  connection.host.Shutdown(SHUT_RD);
  connection.guest->Send("too late");
  guest_->Run();
  EXPECT_EQ(connection.guest->peer_shutdown, kVsockShutdownReceive);
  connection.guest->Send("far too late");
  connection.host.Say("but I can talk");
  guest_->Run();
  EXPECT_EQ(connection.guest->received, "but I can talk");
  EXPECT_EQ(Drops(VsockDrop::kAfterShutdown), 2u);
}

TEST_F(VsockMuxTest, AHostThatDiesInMidStreamIsShutDownAfterItsLastByte) {
  Start();
  guest_->SetReads(false);
  guest_->SetBuffer(20'000);
  Connection connection = ConnectFromHost();
  const std::string data = Pattern(100'000);
  connection.host.Say(data);
  connection.host.Close();
  guest_->Run();
  EXPECT_EQ(connection.guest->received.size(), 20'000u);
  EXPECT_EQ(connection.guest->peer_shutdown, 0u);
  for (int i = 0; i < 10; ++i) {
    connection.guest->Read();
    guest_->Run();
  }
  EXPECT_TRUE(connection.guest->received == data);
  EXPECT_EQ(connection.guest->peer_shutdown, kBoth);
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, AHostThatDiesWithUnreadDataResetsTheConnection) {
  Start();
  Connection connection = ConnectFromHost();
  connection.guest->Send("never read");
  guest_->Run();
  connection.host.Close();
  guest_->Run();
  EXPECT_TRUE(connection.guest->reset);
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, AGuestThatDoesNotAnswerAShutdownIsReset) {
  Start({.close_timeout = milliseconds(800)});
  Connection connection = ConnectFromGuest();
  connection.host.Close();
  Poll();
  EXPECT_EQ(driver_->Receive()->header.op, kVsockOpShutdown);
  EXPECT_EQ(mux_->connections(), 1u);
  now_ += milliseconds(801);
  Poll();
  EXPECT_EQ(driver_->Receive()->header.op, kVsockOpRst);
  EXPECT_EQ(mux_->connections(), 0u);
}

TEST_F(VsockMuxTest, ARestartKeepsConnections) {
  Start();
  Connection connection = ConnectFromGuest();
  connection.guest->Send("before ");
  guest_->Run();
  const VringBase receive = receive_->base();
  const VringBase transmit = transmit_->base();
  mux_->Detach();
  connection.guest->Send("meanwhile ");
  connection.host.Say("said meanwhile");
  Attach(receive, transmit);
  connection.guest->Send("after");
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "before meanwhile after");
  EXPECT_EQ(connection.guest->received, "said meanwhile");
}

TEST_F(VsockMuxTest, ConnectionsCanBeDropped) {
  Start();
  Connection first = ConnectFromGuest(52);
  Connection second = ConnectFromHost(80);
  HostPeer waiting = Client();
  guest_->Run();
  mux_->DropConnections();
  guest_->Run();
  EXPECT_TRUE(first.host.AtEnd());
  EXPECT_TRUE(second.host.AtEnd());
  EXPECT_EQ(mux_->connections(), 0u);
  EXPECT_FALSE(waiting.AtEnd());  // It has not said yet where it wants to go.
  // The old sockets are strangers now.
  first.guest->Send("hello?");
  guest_->Run();
  EXPECT_TRUE(first.guest->reset);
  EXPECT_EQ(Drops(VsockDrop::kNoConnection), 1u);
  EXPECT_TRUE(ConnectFromGuest(54).guest->established);
}

// ---- Looking at packets ------------------------------------------------------------------------

VsockHeader HeaderOf(const CapturedPacket& packet) {
  VsockHeader header{};
  if (packet.bytes.size() >= sizeof(header)) memcpy(&header, packet.bytes.data(), sizeof(header));
  return header;
}

TEST_F(VsockMuxTest, WhoCapturesSeesThePacketsOfBothQueues) {
  Start();
  capture_.Read({});
  Connection connection = ConnectFromGuest(52);
  connection.guest->Send("from the guest");
  guest_->Run();
  connection.host.Say("from the host");
  guest_->Run();
  const CaptureBatch batch = capture_.Read({.after = 0});
  EXPECT_EQ(batch.dropped, 0u);
  EXPECT_EQ(batch.packets.size(),
            mux_->stats().from_guest.packets + mux_->stats().to_guest.packets);
  std::vector<std::string> payloads;
  for (const CapturedPacket& packet : batch.packets) {
    const VsockHeader header = HeaderOf(packet);
    EXPECT_EQ(header.dst_cid == kCid, packet.queue == 0);
    EXPECT_EQ(packet.length, kVsockHeaderBytes + header.len);
    EXPECT_GE(packet.chain_bytes, packet.length);
    if (header.op == kVsockOpRw) payloads.push_back(packet.bytes.substr(kVsockHeaderBytes));
  }
  EXPECT_EQ(payloads, (std::vector<std::string>{"from the guest", "from the host"}));
}

TEST_F(VsockMuxTest, NobodyIsShownPacketsOfBefore) {
  Start();
  Connection connection = ConnectFromGuest(52);
  EXPECT_EQ(capture_.Read({.after = 0}).next, 0u);
}

}  // namespace
}  // namespace vhost::inprocess
