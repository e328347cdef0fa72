// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Seqpacket connections through VsockMux: messages stay messages, whatever they are cut into.
#include <gtest/gtest.h>

#include <vector>

#include "vhost/inprocess/vsock_mux_fixture.h"

namespace vhost::inprocess {
namespace {

using namespace kernel_abi;  // NOLINT(google-build-using-namespace)

TEST_F(VsockMuxTest, MessagesOfTheGuestStayMessages) {
  Start();
  Connection connection = ConnectFromGuest(52, SOCK_SEQPACKET);
  connection.guest->Send("one");
  connection.guest->Send("in three pieces", true, 6);
  connection.guest->Send(Pattern(100'000), true, 30'000);
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "one");
  EXPECT_EQ(connection.host.Hear(), "in three pieces");
  EXPECT_EQ(connection.host.Hear(), Pattern(100'000));
  EXPECT_FALSE(connection.host.Hear().has_value());
  EXPECT_EQ(AllDrops(), 0u);
}

TEST_F(VsockMuxTest, MessagesOfTheHostStayMessages) {
  Start();
  Connection connection = ConnectFromHost(80, SOCK_SEQPACKET);
  connection.host.Say("one");
  connection.host.Say(Pattern(100'000));  // over many receive buffers
  connection.host.Say("three");
  guest_->Run();
  ASSERT_EQ(connection.guest->messages.size(), 3u);
  EXPECT_EQ(connection.guest->messages[0], "one");
  EXPECT_TRUE(connection.guest->messages[1] == Pattern(100'000));
  EXPECT_EQ(connection.guest->messages[2], "three");
  // Only the last packet of each ends a message, and none ends a record.
  int ends = 0;
  for (uint32_t flags : connection.guest->flags) {
    ends += (flags & kVsockSeqEom) != 0 ? 1 : 0;
    EXPECT_EQ(flags & ~kVsockSeqEom, 0u);
  }
  EXPECT_EQ(ends, 3);
  EXPECT_EQ(AllDrops(), 0u);
}

TEST_F(VsockMuxTest, AMessageGoesIntoFewReceiveBuffersToo) {
  // 200000 bytes never fit 4 buffers of 4 KiB at once.
  Start({}, {.receive_size = 4});
  Connection connection = ConnectFromHost(80, SOCK_SEQPACKET);
  connection.host.Say(Pattern(100'000));
  connection.host.Say("after");
  guest_->Run();
  ASSERT_EQ(connection.guest->messages.size(), 2u);
  EXPECT_TRUE(connection.guest->messages[0] == Pattern(100'000));
  EXPECT_EQ(connection.guest->messages[1], "after");
}

TEST_F(VsockMuxTest, AMessageWaitsForCreditForAllOfIt) {
  Start();
  guest_->SetReads(false);
  guest_->SetBuffer(1000);
  Connection connection = ConnectFromHost(80, SOCK_SEQPACKET);
  connection.host.Say(Pattern(600));
  connection.host.Say(Pattern(500, 2));
  guest_->Run();
  EXPECT_EQ(connection.guest->messages.size(), 1u);
  EXPECT_EQ(connection.guest->credit_requests, 1);
  connection.guest->Read();
  guest_->Run();
  ASSERT_EQ(connection.guest->messages.size(), 2u);
  EXPECT_TRUE(connection.guest->messages[1] == Pattern(500, 2));
}

TEST_F(VsockMuxTest, AMessageThatTheGuestCanNeverHoldResetsItsConnection) {
  Start();
  guest_->SetBuffer(1000);
  Connection connection = ConnectFromHost(80, SOCK_SEQPACKET);
  connection.host.Say(Pattern(1001));
  guest_->Run();
  EXPECT_TRUE(connection.guest->reset);
  EXPECT_TRUE(connection.host.AtEnd());
  EXPECT_EQ(Drops(VsockDrop::kMessageTooLong), 1u);
}

TEST_F(VsockMuxTest, EmptyMessagesAreNotTakenForTheEnd) {
  Start();
  Connection connection = ConnectFromHost(80, SOCK_SEQPACKET);
  connection.host.Say("");
  connection.host.Say("");
  connection.host.Say("not empty");
  connection.host.Say("");
  guest_->Run();
  ASSERT_EQ(connection.guest->messages.size(), 1u);
  EXPECT_EQ(connection.guest->messages[0], "not empty");
  EXPECT_EQ(connection.guest->peer_shutdown, 0u);
  EXPECT_EQ(Drops(VsockDrop::kEmptyMessage), 3u);
  connection.host.Close();
  guest_->Run();
  EXPECT_NE(connection.guest->peer_shutdown, 0u);
}

TEST_F(VsockMuxTest, AnEmptyMessageOfTheGuestIsDropped) {
  Start();
  Connection connection = ConnectFromGuest(52, SOCK_SEQPACKET);
  fakes::VsockGuest::Header header = connection.guest->Make(kVsockOpRw);
  header.flags = kVsockSeqEom;
  guest_->Put(header);
  connection.guest->Send("after");
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "after");
  EXPECT_EQ(Drops(VsockDrop::kEmptyMessage), 1u);
}

TEST_F(VsockMuxTest, AnEmptyPacketMayEndAMessage) {
  Start();
  Connection connection = ConnectFromGuest(52, SOCK_SEQPACKET);
  connection.guest->Send("open", /*ends=*/false);
  guest_->Run();
  EXPECT_FALSE(connection.host.Hear().has_value());
  fakes::VsockGuest::Header header = connection.guest->Make(kVsockOpRw);
  header.flags = kVsockSeqEom | kVsockSeqEor;
  guest_->Put(header);
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "open");
}

TEST_F(VsockMuxTest, MessagesForASlowHostWaitInOrderAndWhole) {
  Start();
  Connection connection = ConnectFromGuest(52, SOCK_SEQPACKET);
  std::vector<std::string> sent;
  for (uint32_t i = 0; i < 5000; ++i) {
    const std::string message = Pattern(1 + i % 300, i);
    if (connection.guest->credit() < message.size()) break;
    ASSERT_EQ(connection.guest->Send(message, true, 100), message.size());
    guest_->Run();
    sent.push_back(message);
  }
  EXPECT_GT(mux_->stats().buffered_bytes, 0u);
  size_t heard = 0;
  for (int idle = 0; heard < sent.size() && idle < 5;) {
    const auto message = connection.host.Hear();
    if (message.has_value()) {
      ASSERT_TRUE(*message == sent[heard]) << heard;
      ++heard;
      idle = 0;
    } else {
      ++idle;
      guest_->Run();
    }
  }
  EXPECT_EQ(heard, sent.size());
  EXPECT_EQ(mux_->stats().buffered_bytes, 0u);
}

TEST_F(VsockMuxTest, AnUnfinishedMessageEndsWithItsConnection) {
  Start();
  Connection connection = ConnectFromGuest(52, SOCK_SEQPACKET);
  connection.guest->Send("whole");
  connection.guest->Send("half", /*ends=*/false);
  connection.guest->Shutdown(kVsockShutdownReceive | kVsockShutdownSend);
  guest_->Run();
  EXPECT_EQ(connection.host.Hear(), "whole");
  EXPECT_TRUE(connection.host.AtEnd());
  EXPECT_TRUE(connection.guest->reset);
  EXPECT_EQ(mux_->stats().buffered_bytes, 0u);
}

TEST_F(VsockMuxTest, AMessageLongerThanTheWindowBreaksTheCredit) {
  Start({.window_bytes = 64 * 1024});
  Connection connection = ConnectFromGuest(52, SOCK_SEQPACKET);
  // Credit comes back only for whole messages: this one fills the window and cannot end.
  EXPECT_EQ(connection.guest->Send(Pattern(100'000), true, 10'000), 64u * 1024);
  guest_->Run();
  EXPECT_EQ(connection.guest->credit(), 0u);
  fakes::VsockGuest::Header header = connection.guest->Make(kVsockOpRw);
  header.len = 1;
  guest_->Put(header, std::as_bytes(std::span("x", 1)));
  guest_->Run();
  EXPECT_TRUE(connection.guest->reset);
  EXPECT_EQ(Drops(VsockDrop::kCreditExceeded), 1u);
}

TEST_F(VsockMuxTest, AStreamListenerRefusesSeqpacketAndTheOtherWayRound) {
  Start();
  const UnixListener stream = ListenAt(52, SOCK_STREAM);
  const UnixListener seqpacket = ListenAt(53, SOCK_SEQPACKET);
  auto* first = guest_->Connect(52, kVsockTypeSeqpacket);
  auto* second = guest_->Connect(53, kVsockTypeStream);
  guest_->Run();
  EXPECT_TRUE(first->reset);
  EXPECT_TRUE(second->reset);
}

TEST_F(VsockMuxTest, ASeqpacketClientIsSentAwayWhereTheDriverDidNotAckIt) {
  Start();
  mux_->Attach(receive_.get(), transmit_.get(), /*seqpacket_acked=*/false);
  guest_->Listen(80);
  HostPeer client = Client(SOCK_SEQPACKET);
  client.Say("CONNECT 80\n");
  auto* socket = guest_->Connect(52, kVsockTypeSeqpacket);
  guest_->Run();
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(socket->reset);  // 5.10.6.4.1: an unknown type is answered
  EXPECT_EQ(Drops(VsockDrop::kUnknownType), 1u);
}

}  // namespace
}  // namespace vhost::inprocess
