// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/net_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/device/net_features.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using enum VirtioFeature;

using Bytes = std::vector<int>;

struct Target final : NetControlTarget {
  int max_queue_pairs() const override { return 4; }
  absl::Status SetQueuePairs(int n) override {
    if (refuse) return absl::InternalError("no");
    pairs = n;
    return absl::OkStatus();
  }
  absl::Status SetGuestOffloads(VirtioFeatures set) override {
    if (refuse) return absl::InternalError("no");
    offloads = set;
    return absl::OkStatus();
  }
  void ReceiveFilterChanged() override { ++filter_changes; }
  void AnnounceAcked() override { ++announce_acks; }

  bool refuse = false;
  int pairs = 1;
  VirtioFeatures offloads;
  int filter_changes = 0;
  int announce_acks = 0;
};

VirtioFeatures Everything() {
  return AllToGuestFeatures() |
         VirtioFeatures{kNetCtrlVq,      kNetCtrlRx, kNetCtrlRxExtra,   kNetCtrlVlan,
                        kNetCtrlMacAddr, kNetMq,     kNetGuestAnnounce, kNetCtrlGuestOffloads};
}

class NetControlTest : public ::testing::Test {
 protected:
  uint8_t Send(const Bytes& command, VirtioFeatures acked = Everything()) {
    std::vector<std::byte> bytes;
    for (const int byte : command) bytes.push_back(static_cast<std::byte>(byte));
    return HandleNetCommand(bytes, acked, filter_, target_);
  }
  ReceiveFilter filter_;
  Target target_;
};

constexpr uint8_t kOk = kernel_abi::kNetCtrlOk;
constexpr uint8_t kErr = kernel_abi::kNetCtrlErr;
const MacAddress kA = {0x52, 0x54, 0, 0, 0, 0xa};
const MacAddress kGroup = {0x33, 0x33, 0, 0, 0, 1};

TEST_F(NetControlTest, SetsEachReceiveMode) {
  bool ReceiveFilter::*const modes[] = {&ReceiveFilter::promiscuous, &ReceiveFilter::all_multicast,
                                        &ReceiveFilter::all_unicast, &ReceiveFilter::no_multicast,
                                        &ReceiveFilter::no_unicast,  &ReceiveFilter::no_broadcast};
  for (int mode = 0; mode < 6; ++mode) {
    EXPECT_EQ(Send({0, mode, 1}), kOk);
    EXPECT_TRUE(filter_.*modes[mode]) << mode;
    EXPECT_EQ(Send({0, mode, 0}), kOk);
    EXPECT_FALSE(filter_.*modes[mode]) << mode;
  }
  EXPECT_EQ(target_.filter_changes, 11);  // It was promiscuous from the start.
}

TEST_F(NetControlTest, KeepsBothTablesOfAddresses) {
  EXPECT_EQ(Send({1, 0,                                  //
                  1, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 0xa,  // one unicast address
                  2, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1,   0x33, 0x33, 0, 0, 0, 2}),
            kOk);
  EXPECT_THAT(filter_.unicast, ElementsAre(kA));
  ASSERT_EQ(filter_.multicast.size(), 2u);
  EXPECT_EQ(filter_.multicast[0], kGroup);
  EXPECT_EQ(Send({1, 0, 0, 0, 0, 0, 0, 0, 0, 0}), kOk);
  EXPECT_TRUE(filter_.unicast.empty());
  EXPECT_TRUE(filter_.multicast.empty());
}

TEST_F(NetControlTest, LetsAllThroughWhenATableIsLongerThanIsKept) {
  Bytes command = {1, 0, 65, 0, 0, 0};
  for (int i = 0; i < 65; ++i) command.insert(command.end(), {0x52, 0x54, 0, 0, 0, i});
  command.insert(command.end(), {0, 0, 0, 0});
  EXPECT_EQ(Send(command), kOk);
  EXPECT_TRUE(filter_.unicast_overflow);
  EXPECT_TRUE(filter_.unicast.empty());
  EXPECT_FALSE(filter_.multicast_overflow);
}

TEST_F(NetControlTest, SetsTheAddress) {
  EXPECT_EQ(Send({1, 1, 0x52, 0x54, 0, 0, 0, 0xa}), kOk);
  EXPECT_EQ(filter_.mac, kA);
}

TEST_F(NetControlTest, AddsAndRemovesVlans) {
  EXPECT_EQ(Send({2, 0, 0xff, 0x0f}), kOk);
  EXPECT_TRUE(filter_.vlans[4095]);
  EXPECT_EQ(Send({2, 1, 0xff, 0x0f}), kOk);
  EXPECT_FALSE(filter_.vlans[4095]);
}

TEST_F(NetControlTest, ChangesQueuePairsAndOffloadsAndTakesTheAnnouncementsReceipt) {
  EXPECT_EQ(Send({4, 0, 3, 0}), kOk);
  EXPECT_EQ(target_.pairs, 3);
  EXPECT_EQ(Send({5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0}), kOk);
  EXPECT_EQ(target_.offloads, (VirtioFeatures{kNetGuestCsum, kNetGuestTso4}));
  EXPECT_EQ(Send({3, 0}), kOk);
  EXPECT_EQ(target_.announce_acks, 1);
}

TEST_F(NetControlTest, AnswersAnErrorWhereTheHostRefuses) {
  target_.refuse = true;
  EXPECT_EQ(Send({4, 0, 3, 0}), kErr);
  EXPECT_EQ(Send({5, 0, 2, 0, 0, 0, 0, 0, 0, 0}), kErr);
}

struct BadCommand {
  const char* name;
  Bytes command;
  VirtioFeatures withheld = {};
};
void PrintTo(const BadCommand& row, std::ostream* out) { *out << row.name; }

const BadCommand kBadCommands[] = {
    {"Empty", {}},
    {"ClassOnly", {0}},
    {"UnknownClass", {99, 0, 1}},
    {"UnknownReceiveMode", {0, 6, 1}},
    {"ReceiveModeWithoutData", {0, 0}},
    {"ReceiveModeWithTooMuchData", {0, 0, 1, 1}},
    {"ReceiveModeNotNegotiated", {0, 0, 0}, {kNetCtrlRx}},
    {"ExtraReceiveModeNotNegotiated", {0, 2, 1}, {kNetCtrlRxExtra}},
    {"UnknownMacCommand", {1, 2, 0, 0, 0, 0}},
    {"MacTableWithoutCount", {1, 0, 1}},
    {"MacTableCutShort", {1, 0, 1, 0, 0, 0, 0x52, 0x54}},
    {"MacTableThatClaimsFourBillion", {1, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6}},
    {"SecondMacTableMissing", {1, 0, 0, 0, 0, 0}},
    {"MacTablesWithMoreBehind", {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7}},
    {"MacTableNotNegotiated", {1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {kNetCtrlRx}},
    {"MacOfAGroup", {1, 1, 0x33, 0x33, 0, 0, 0, 1}},
    {"MacOfZeros", {1, 1, 0, 0, 0, 0, 0, 0}},
    {"MacTooShort", {1, 1, 0x52, 0x54, 0, 0, 0}},
    {"MacNotNegotiated", {1, 1, 0x52, 0x54, 0, 0, 0, 1}, {kNetCtrlMacAddr}},
    {"VlanTooLarge", {2, 0, 0, 0x10}},
    {"VlanTooShort", {2, 0, 1}},
    {"UnknownVlanCommand", {2, 2, 1, 0}},
    {"VlanNotNegotiated", {2, 0, 1, 0}, {kNetCtrlVlan}},
    {"UnknownAnnounceCommand", {3, 1}},
    {"AnnounceNotNegotiated", {3, 0}, {kNetGuestAnnounce}},
    {"NoQueuePairs", {4, 0, 0, 0}},
    {"MorePairsThanThereAre", {4, 0, 5, 0}},
    {"ManyMorePairsThanThereAre", {4, 0, 0xff, 0xff}},
    {"PairsWithTooMuchData", {4, 0, 1, 0, 0, 0}},
    {"ReceiveSideScaling", {4, 1, 1, 0}},
    {"PairsNotNegotiated", {4, 0, 2, 0}, {kNetMq}},
    {"OffloadThatWasNotAcked", {5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0}, {kNetGuestTso4}},
    {"OffloadThatIsNone", {5, 0, 1, 0, 0, 0, 0, 0, 0, 0}},
    {"OffloadWithoutChecksums", {5, 0, 0x80, 0, 0, 0, 0, 0, 0, 0}},
    {"OffloadsTooShort", {5, 0, 2, 0, 0, 0, 0, 0, 0}},
    {"UnknownOffloadCommand", {5, 1, 2, 0, 0, 0, 0, 0, 0, 0}},
    {"OffloadsNotNegotiated", {5, 0, 2, 0, 0, 0, 0, 0, 0, 0}, {kNetCtrlGuestOffloads}},
};

class BadNetCommandTest : public NetControlTest,
                          public ::testing::WithParamInterface<BadCommand> {};

TEST_P(BadNetCommandTest, IsAnsweredWithAnErrorAndChangesNothing) {
  const ReceiveFilter before = filter_;
  EXPECT_EQ(Send(GetParam().command, Everything() - GetParam().withheld), kErr);
  EXPECT_EQ(filter_, before);
  EXPECT_EQ(target_.filter_changes, 0);
  EXPECT_EQ(target_.pairs, 1);
  EXPECT_TRUE(target_.offloads.empty());
  EXPECT_EQ(target_.announce_acks, 0);
}

INSTANTIATE_TEST_SUITE_P(, BadNetCommandTest, ::testing::ValuesIn(kBadCommands),
                         [](const ::testing::TestParamInfo<BadCommand>& row) {
                           return std::string(row.param.name);
                         });

}  // namespace
}  // namespace vhost
