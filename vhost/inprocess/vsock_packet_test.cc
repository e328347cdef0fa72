// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_packet.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "vhost/inprocess/vsock_credit.h"

namespace vhost::inprocess {
namespace {

constexpr uint64_t kGuest = 3;

VsockHeader Request() {
  VsockHeader header{};
  header.src_cid = kGuest;
  header.dst_cid = kernel_abi::kVsockHostCid;
  header.src_port = 1000;
  header.dst_port = 52;
  header.type = kernel_abi::kVsockTypeStream;
  header.op = kernel_abi::kVsockOpRequest;
  return header;
}

TEST(VsockPacket, PassesWhatAGuestMaySend) {
  for (uint16_t op = kernel_abi::kVsockOpRequest; op <= kernel_abi::kVsockOpCreditRequest; ++op) {
    VsockHeader header = Request();
    header.op = op;
    EXPECT_EQ(CheckFromGuest(header, 0, kGuest, false), std::nullopt) << op;
  }
  VsockHeader header = Request();
  header.op = kernel_abi::kVsockOpRw;
  header.len = 100;
  EXPECT_EQ(CheckFromGuest(header, 100, kGuest, false), std::nullopt);
  EXPECT_EQ(CheckFromGuest(header, 200, kGuest, false), std::nullopt);  // A larger buffer is fine.
  header.type = kernel_abi::kVsockTypeSeqpacket;
  EXPECT_EQ(CheckFromGuest(header, 100, kGuest, true), std::nullopt);
}

struct BadPacket {
  const char* what;
  void (*spoil)(VsockHeader&);
  VsockDrop drop;
  bool answered;
};

class BadVsockPacket : public testing::TestWithParam<BadPacket> {};

TEST_P(BadVsockPacket, IsRefusedForItsReason) {
  VsockHeader header = Request();
  GetParam().spoil(header);
  const std::optional<VsockDrop> drop = CheckFromGuest(header, 100, kGuest, false);
  ASSERT_TRUE(drop.has_value());
  EXPECT_STREQ(Name(*drop), Name(GetParam().drop));
  EXPECT_EQ(IsAnsweredWithReset(*drop, header), GetParam().answered);
  header.op = kernel_abi::kVsockOpRst;
  EXPECT_FALSE(IsAnsweredWithReset(*drop, header));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadVsockPacket,
    testing::Values(
        BadPacket{"AnotherGuestsCid", [](VsockHeader& h) { h.src_cid = 4; },
                  VsockDrop::kForgedSource, false},
        BadPacket{"TheHostsCid", [](VsockHeader& h) { h.src_cid = 2; }, VsockDrop::kForgedSource,
                  false},
        BadPacket{"HighCidBits", [](VsockHeader& h) { h.src_cid |= uint64_t{1} << 32; },
                  VsockDrop::kForgedSource, false},
        BadPacket{"ToItself", [](VsockHeader& h) { h.dst_cid = kGuest; }, VsockDrop::kNotForHost,
                  false},
        BadPacket{"ToTheHypervisor", [](VsockHeader& h) { h.dst_cid = 0; }, VsockDrop::kNotForHost,
                  false},
        BadPacket{"LongerThanItsChain", [](VsockHeader& h) { h.len = 101; }, VsockDrop::kBadLength,
                  false},
        BadPacket{"LongestLength", [](VsockHeader& h) { h.len = UINT32_MAX; },
                  VsockDrop::kBadLength, false},
        BadPacket{"NoType", [](VsockHeader& h) { h.type = 0; }, VsockDrop::kUnknownType, true},
        BadPacket{"SeqpacketNotAcked", [](VsockHeader& h) { h.type = 2; }, VsockDrop::kUnknownType,
                  true},
        BadPacket{"TypeThree", [](VsockHeader& h) { h.type = 3; }, VsockDrop::kUnknownType, true},
        BadPacket{"OpZero", [](VsockHeader& h) { h.op = 0; }, VsockDrop::kUnknownOp, false},
        BadPacket{"OpEight", [](VsockHeader& h) { h.op = 8; }, VsockDrop::kUnknownOp, false},
        BadPacket{"OpHighest", [](VsockHeader& h) { h.op = 0xffff; }, VsockDrop::kUnknownOp,
                  false}),
    [](const auto& test) { return test.param.what; });

TEST(VsockPacket, AResetGoesBackWhereThePacketCameFrom) {
  const VsockHeader reset = ResetFor(Request());
  EXPECT_EQ(reset.src_cid, kernel_abi::kVsockHostCid);
  EXPECT_EQ(reset.dst_cid, kGuest);
  EXPECT_EQ(reset.src_port, 52u);
  EXPECT_EQ(reset.dst_port, 1000u);
  EXPECT_EQ(reset.op, kernel_abi::kVsockOpRst);
  EXPECT_EQ(reset.type, kernel_abi::kVsockTypeStream);
  EXPECT_EQ(reset.len, 0u);
}

TEST(VsockPacket, EveryDropHasANameOfItsOwn) {
  std::set<std::string> names;
  for (int i = 0; i < static_cast<int>(VsockDrop::kCount); ++i) {
    names.insert(Name(static_cast<VsockDrop>(i)));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(VsockDrop::kCount));
  EXPECT_EQ(names.count("unknown"), 0u);
}

// ---- Credit ------------------------------------------------------------------------------------

// Each test at counts far from, just before, and at the point where they run over.
class VsockCredit : public testing::TestWithParam<uint32_t> {};

TEST_P(VsockCredit, SendsWhatThePeerHasRoomFor) {
  VsockSendCredit credit(GetParam());
  EXPECT_EQ(credit.available(), 0u);
  EXPECT_TRUE(credit.Update(1000, GetParam()));
  EXPECT_EQ(credit.available(), 1000u);
  credit.Sent(600);
  EXPECT_EQ(credit.available(), 400u);
  credit.Sent(400);
  EXPECT_EQ(credit.available(), 0u);
  EXPECT_TRUE(credit.Update(1000, GetParam() + 250));
  EXPECT_EQ(credit.available(), 250u);
  EXPECT_TRUE(credit.Update(1000, GetParam() + 1000));
  EXPECT_EQ(credit.available(), 1000u);
}

TEST_P(VsockCredit, SendsNothingIntoABufferThatShrank) {
  VsockSendCredit credit(GetParam());
  credit.Update(1000, GetParam());
  credit.Sent(800);
  EXPECT_TRUE(credit.Update(500, GetParam()));
  EXPECT_EQ(credit.available(), 0u);
  EXPECT_TRUE(credit.Update(0, GetParam() + 800));
  EXPECT_EQ(credit.available(), 0u);
  EXPECT_TRUE(credit.Update(UINT32_MAX, GetParam() + 800));
  EXPECT_EQ(credit.available(), UINT32_MAX);
}

TEST_P(VsockCredit, BelievesNoForwardingOfWhatWasNeverSent) {
  VsockSendCredit credit(GetParam());
  credit.Update(1000, GetParam());
  credit.Sent(600);
  EXPECT_FALSE(credit.Update(1000, GetParam() + 601));
  EXPECT_EQ(credit.available(), 400u);
  EXPECT_FALSE(credit.Update(1000, GetParam() + 0x8000'0000));
  EXPECT_EQ(credit.available(), 400u);
  EXPECT_TRUE(credit.Update(1000, GetParam() + 300));
  EXPECT_FALSE(credit.Update(1000, GetParam() + 200));  // Older news.
  EXPECT_EQ(credit.available(), 700u);
}

TEST_P(VsockCredit, ReceivesNoMoreThanThereIsRoomFor) {
  VsockReceiveCredit credit(1000, GetParam());
  EXPECT_TRUE(credit.Receive(1000));
  EXPECT_FALSE(credit.Receive(1));
  EXPECT_EQ(credit.held(), 1000u);
  credit.Forward(300);
  EXPECT_EQ(credit.forwarded(), GetParam() + 300);
  EXPECT_FALSE(credit.Receive(301));
  EXPECT_FALSE(credit.Receive(UINT32_MAX));
  EXPECT_TRUE(credit.Receive(300));
  credit.Forward(5000);  // More than there is: all.
  EXPECT_EQ(credit.held(), 0u);
  EXPECT_EQ(credit.forwarded(), credit.received());
}

TEST_P(VsockCredit, IsWorthTellingWhenHalfOfTheBufferIsFreeAgain) {
  VsockReceiveCredit credit(1000, GetParam());
  credit.Receive(1000);
  credit.Forward(499);
  EXPECT_FALSE(credit.worth_telling());
  credit.Forward(1);
  EXPECT_TRUE(credit.worth_telling());
  credit.Told();
  EXPECT_FALSE(credit.worth_telling());
  credit.Forward(500);
  EXPECT_TRUE(credit.worth_telling());
}

INSTANTIATE_TEST_SUITE_P(Counts, VsockCredit,
                         testing::Values(0u, 12345u, 0x7fff'ff00u, 0xffff'ff00u, UINT32_MAX));

}  // namespace
}  // namespace vhost::inprocess
