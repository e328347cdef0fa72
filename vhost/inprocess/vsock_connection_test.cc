// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_connection.h"

#include <gtest/gtest.h>

namespace vhost::inprocess {
namespace {

using Action = VsockConnection::Action;
using State = VsockConnection::State;
using namespace kernel_abi;  // NOLINT(google-build-using-namespace)

constexpr uint64_t kGuest = 7;
constexpr uint32_t kBuffer = 1000;
constexpr uint32_t kBoth = kVsockShutdownReceive | kVsockShutdownSend;

VsockHeader FromGuest(uint16_t op, uint32_t len = 0, uint32_t flags = 0) {
  VsockHeader header{};
  header.src_cid = kGuest;
  header.dst_cid = kVsockHostCid;
  header.src_port = 1024;
  header.dst_port = 52;
  header.len = len;
  header.type = kVsockTypeStream;
  header.op = op;
  header.flags = flags;
  header.buf_alloc = 2000;
  return header;
}

VsockConnection Dialling() {
  return VsockConnection::FromGuest(FromGuest(kVsockOpRequest), kBuffer);
}
VsockConnection Requested() {
  return VsockConnection::FromHost(kGuest, {.guest = 1024, .host = 52}, VsockType::kStream,
                                   kBuffer);
}
VsockConnection Established() {
  VsockConnection connection = Dialling();
  connection.Dialled();
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpResponse);
  return connection;
}

TEST(VsockConnection, OfTheGuestIsEstablishedWhenTheHostsSocketIs) {
  VsockConnection connection = Dialling();
  EXPECT_EQ(connection.state(), State::kDialling);
  EXPECT_TRUE(connection.is_half_open());
  EXPECT_FALSE(connection.wants_to_send());
  EXPECT_EQ(connection.sendable(), 0u);
  connection.Dialled();
  EXPECT_EQ(connection.state(), State::kEstablished);
  const std::optional<VsockHeader> response = connection.TakeControl();
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->op, kVsockOpResponse);
  EXPECT_EQ(response->src_cid, kVsockHostCid);
  EXPECT_EQ(response->dst_cid, kGuest);
  EXPECT_EQ(response->src_port, 52u);
  EXPECT_EQ(response->dst_port, 1024u);
  EXPECT_EQ(response->buf_alloc, kBuffer);
  EXPECT_EQ(response->fwd_cnt, 0u);
  EXPECT_EQ(connection.sendable(), 2000u);
  EXPECT_FALSE(connection.TakeControl().has_value());
}

TEST(VsockConnection, OfTheHostIsEstablishedWhenTheGuestResponds) {
  VsockConnection connection = Requested();
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpRequest);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpResponse)), Action::kEstablished);
  EXPECT_EQ(connection.state(), State::kEstablished);
  EXPECT_EQ(connection.sendable(), 2000u);
  // Another one says nothing new.
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpResponse)), Action::kDropped);
  EXPECT_EQ(connection.state(), State::kEstablished);
}

TEST(VsockConnection, IsResetByAResponseToARequestThatWasNotSent) {
  VsockConnection connection = Requested();
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpResponse)), Action::kReset);
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpRst);
  EXPECT_EQ(connection.state(), State::kClosed);
}

TEST(VsockConnection, IsRefusedByTheGuestsReset) {
  VsockConnection connection = Requested();
  connection.TakeControl();
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRst)), Action::kGone);
  EXPECT_EQ(connection.state(), State::kClosed);
  EXPECT_FALSE(connection.wants_to_send());
}

TEST(VsockConnection, PassesDataOnWithinItsCredit) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRw, 600)), Action::kDeliver);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRw, 400)), Action::kDeliver);
  connection.Forwarded(499);
  EXPECT_FALSE(connection.wants_to_send());
  connection.Forwarded(1);
  const std::optional<VsockHeader> update = connection.TakeControl();
  ASSERT_TRUE(update.has_value());
  EXPECT_EQ(update->op, kVsockOpCreditUpdate);
  EXPECT_EQ(update->fwd_cnt, 500u);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRw, 501)), Action::kReset);
  EXPECT_EQ(connection.last_drop(), VsockDrop::kCreditExceeded);
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpRst);
}

TEST(VsockConnection, EveryPacketCarriesTheCreditSoThatNoUpdateIsOwed) {
  VsockConnection connection = Established();
  connection.OnPacket(FromGuest(kVsockOpRw, 1000));
  connection.Forwarded(1000);
  EXPECT_TRUE(connection.wants_to_send());
  const VsockHeader data = connection.TakeData(10);
  EXPECT_EQ(data.op, kVsockOpRw);
  EXPECT_EQ(data.len, 10u);
  EXPECT_EQ(data.fwd_cnt, 1000u);
  EXPECT_FALSE(connection.wants_to_send());
}

TEST(VsockConnection, AnswersACreditRequest) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpCreditRequest)), Action::kNone);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpCreditRequest)), Action::kNone);
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpCreditUpdate);
  EXPECT_FALSE(connection.TakeControl().has_value());  // However many were asked.
}

TEST(VsockConnection, AsksForCreditOnceUntilItChanges) {
  VsockConnection connection = Established();
  connection.TakeData(2000);
  EXPECT_EQ(connection.sendable(), 0u);
  connection.Stalled();
  connection.Stalled();
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpCreditRequest);
  connection.Stalled();
  EXPECT_FALSE(connection.wants_to_send());
  VsockHeader update = FromGuest(kVsockOpCreditUpdate);
  EXPECT_EQ(connection.OnPacket(update), Action::kNone);  // Still nothing.
  connection.Stalled();
  EXPECT_FALSE(connection.wants_to_send());
  update.fwd_cnt = 2000;
  EXPECT_EQ(connection.OnPacket(update), Action::kNone);
  EXPECT_EQ(connection.sendable(), 2000u);
  connection.TakeData(2000);
  connection.Stalled();
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpCreditRequest);
}

TEST(VsockConnection, CountsRunOver) {
  VsockConnection connection = Established();
  connection.StartCountsAt(UINT32_MAX - 99, UINT32_MAX - 9);
  EXPECT_EQ(connection.sendable(), 2000u);
  connection.TakeData(2000);
  VsockHeader rw = FromGuest(kVsockOpRw, 1000);
  rw.fwd_cnt = UINT32_MAX - 99 + 1500;
  EXPECT_EQ(connection.OnPacket(rw), Action::kDeliver);
  EXPECT_EQ(connection.sendable(), 1500u);
  connection.Forwarded(1000);
  EXPECT_EQ(connection.TakeControl()->fwd_cnt, 990u);
}

TEST(VsockConnection, ShutDownByTheGuestInTwoSteps) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpShutdown, 0, kVsockShutdownSend)),
            Action::kShutdown);
  EXPECT_EQ(connection.peer_shutdown(), kVsockShutdownSend);
  EXPECT_EQ(connection.sendable(), 2000u);  // It still receives.
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpShutdown, 0, kVsockShutdownSend)), Action::kNone);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpShutdown, 0, kVsockShutdownReceive)),
            Action::kShutdown);
  EXPECT_EQ(connection.peer_shutdown(), kBoth);
  EXPECT_EQ(connection.sendable(), 0u);
}

TEST(VsockConnection, DataAfterTheGuestsShutdownBreaksIt) {
  VsockConnection connection = Established();
  connection.OnPacket(FromGuest(kVsockOpShutdown, 0, kVsockShutdownSend));
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRw, 1)), Action::kReset);
  EXPECT_EQ(connection.last_drop(), VsockDrop::kAfterShutdown);
}

TEST(VsockConnection, UnknownShutdownFlagsAreIgnored) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpShutdown, 0, 0xfffffffc)), Action::kNone);
  EXPECT_EQ(connection.peer_shutdown(), 0u);
}

TEST(VsockConnection, ShutDownByTheHostHalfAndWhole) {
  VsockConnection connection = Established();
  connection.HostShutdown(true, false);
  std::optional<VsockHeader> shutdown = connection.TakeControl();
  EXPECT_EQ(shutdown->op, kVsockOpShutdown);
  EXPECT_EQ(shutdown->flags, kVsockShutdownSend);
  EXPECT_EQ(connection.state(), State::kEstablished);
  EXPECT_EQ(connection.sendable(), 0u);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRw, 10)), Action::kDeliver);
  connection.HostShutdown(true, false);
  EXPECT_FALSE(connection.wants_to_send());
  connection.HostShutdown(false, true);
  shutdown = connection.TakeControl();
  EXPECT_EQ(shutdown->flags, kBoth);
  EXPECT_EQ(connection.state(), State::kClosing);
  // Data that was on its way is nobody's any more; the guest's reset ends it.
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRw, 10)), Action::kDropped);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpCreditRequest)), Action::kNone);
  EXPECT_FALSE(connection.wants_to_send());
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRst)), Action::kGone);
}

TEST(VsockConnection, BothSidesCloseAtOnce) {
  VsockConnection connection = Established();
  connection.HostShutdown(true, true);
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpShutdown);
  connection.OnPacket(FromGuest(kVsockOpShutdown, 0, kBoth));
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpRst);
  EXPECT_EQ(connection.state(), State::kClosed);
}

TEST(VsockConnection, DataForAHostThatReceivesNoMoreIsDroppedAndItsCreditGivenBack) {
  VsockConnection connection = Established();
  connection.HostShutdown(false, true);
  EXPECT_EQ(connection.TakeControl()->flags, kVsockShutdownReceive);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRw, 1000)), Action::kDropped);
  EXPECT_EQ(connection.last_drop(), VsockDrop::kAfterShutdown);
  EXPECT_EQ(connection.receive_credit().held(), 0u);
}

TEST(VsockConnection, AResetIsOwedAloneAndOnce) {
  VsockConnection connection = Established();
  connection.OnPacket(FromGuest(kVsockOpCreditRequest));
  connection.HostShutdown(true, false);
  connection.Reset();
  connection.Dialled();
  connection.Stalled();
  EXPECT_EQ(connection.sendable(), 0u);
  EXPECT_EQ(connection.OnPacket(FromGuest(kVsockOpRw, 1)), Action::kDropped);
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpRst);
  EXPECT_FALSE(connection.TakeControl().has_value());
  connection.Reset();
  EXPECT_FALSE(connection.wants_to_send());
}

struct BreakingPacket {
  const char* what;
  VsockConnection (*in)();
  uint16_t op;
  uint16_t type;
};
class BreakingVsockPacket : public testing::TestWithParam<BreakingPacket> {};

TEST_P(BreakingVsockPacket, ResetsTheConnection) {
  VsockConnection connection = GetParam().in();
  VsockHeader header = FromGuest(GetParam().op, GetParam().op == kVsockOpRw ? 1 : 0);
  header.type = GetParam().type;
  EXPECT_EQ(connection.OnPacket(header), Action::kReset);
  EXPECT_EQ(connection.state(), State::kResetting);
  EXPECT_EQ(connection.TakeControl()->op, kVsockOpRst);
}

INSTANTIATE_TEST_SUITE_P(
    All, BreakingVsockPacket,
    testing::Values(BreakingPacket{"RequestAgain", Established, kVsockOpRequest, 1},
                    BreakingPacket{"RequestWhileDialling", Dialling, kVsockOpRequest, 1},
                    BreakingPacket{"RequestWhileRequested", Requested, kVsockOpRequest, 1},
                    BreakingPacket{"DataWhileDialling", Dialling, kVsockOpRw, 1},
                    BreakingPacket{"ShutdownWhileDialling", Dialling, kVsockOpShutdown, 1},
                    BreakingPacket{"DataWhileRequested", Requested, kVsockOpRw, 1},
                    BreakingPacket{"ShutdownWhileRequested", Requested, kVsockOpShutdown, 1},
                    BreakingPacket{"AnotherType", Established, kVsockOpRw, 2}),
    [](const auto& test) { return test.param.what; });

}  // namespace
}  // namespace vhost::inprocess
