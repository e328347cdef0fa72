// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/message.h"

#include <fcntl.h>

#include <array>

#include "gtest/gtest.h"

namespace vhost::user {
namespace {

void AddFds(Message& message, size_t count) {
  for (size_t i = 0; i < count; ++i) message.fds.emplace_back(open("/dev/null", O_CLOEXEC));
}

absl::Status CheckRequest(const Message& message) { return Check(RequestSet::kFrontEnd, message); }

Header HeaderOf(FrontEndRequest request, uint32_t size, uint32_t flags = kVersion) {
  return {.request = static_cast<uint32_t>(request), .flags = flags, .size = size};
}

TEST(MessageTest, AHeaderOfAnotherVersionFlagsOrSizeIsRefused) {
  const auto check = [](const Header& header) {
    return CheckHeader(RequestSet::kFrontEnd, header).code();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(check(HeaderOf(FrontEndRequest::kSetVringNum, 8)), absl::StatusCode::kOk);
  EXPECT_EQ(check(HeaderOf(FrontEndRequest::kSetVringNum, 8, kVersion | kFlagNeedReply)),
            absl::StatusCode::kOk);
  EXPECT_EQ(check(HeaderOf(FrontEndRequest::kSetVringNum, 8, 0)), kBad);
  EXPECT_EQ(check(HeaderOf(FrontEndRequest::kSetVringNum, 8, 2)), kBad);
  EXPECT_EQ(check(HeaderOf(FrontEndRequest::kSetVringNum, 8, kVersion | 16)), kBad);
  EXPECT_EQ(check(HeaderOf(FrontEndRequest::kSetVringNum, 7)), kBad);
  EXPECT_EQ(check(HeaderOf(FrontEndRequest::kSetVringNum, 9)), kBad);
  EXPECT_EQ(check(HeaderOf(FrontEndRequest::kSetMemTable, 0xffff'fff8)), kBad);
  EXPECT_EQ(check({.request = 0, .flags = kVersion, .size = 0}), kBad);
  EXPECT_EQ(check({.request = 1000, .flags = kVersion, .size = 0}), kBad);
  EXPECT_FALSE(CheckHeader(RequestSet::kBackEnd, HeaderOf(FrontEndRequest::kGetStatus, 0)).ok());
}

TEST(MessageTest, AnAnswerToNeedReplyIsANumberForAnyRequest) {
  Message ack = MakeAck(MakeRequest(FrontEndRequest::kSetOwner), true);
  EXPECT_TRUE(CheckRequest(ack).ok());
  EXPECT_EQ(GetU64(ack).value(), 0U);
  ack = MakeAck(MakeRequest(FrontEndRequest::kSetFeatures, uint64_t{1}), false);
  EXPECT_NE(GetU64(ack).value(), 0U);
}

TEST(MessageTest, AMemoryTableSurvivesTheWay) {
  const std::array<MemRegion, 2> regions{
      {{.guest_address = 0, .size = 0x1000, .user_address = 0x7f00, .mmap_offset = 0},
       {.guest_address = 1 << 20, .size = 0x2000, .user_address = 0x8f00, .mmap_offset = 4096}}};
  Message message = MakeMemTable(regions);
  AddFds(message, 2);
  const auto got = GetMemTable(message);
  ASSERT_TRUE(got.ok()) << got.status();
  ASSERT_EQ(got->size(), 2U);
  EXPECT_EQ(got->at(1).size, 0x2000U);
  EXPECT_EQ(got->at(1).mmap_offset, 4096U);
}

TEST(MessageTest, AMemoryTableWithAnotherNumberOfRegionsOrFdsIsRefused) {
  const std::array<MemRegion, 2> regions{};
  Message message = MakeMemTable(regions);
  EXPECT_FALSE(CheckRequest(message).ok());  // no fds
  AddFds(message, 3);
  EXPECT_FALSE(CheckRequest(message).ok());
  message.fds.pop_back();
  EXPECT_TRUE(CheckRequest(message).ok());
  for (const uint32_t lie : {0U, 1U, 3U, 0x0800'0002U, 0xffff'ffffU}) {
    memcpy(message.payload.data(), &lie, sizeof(lie));
    EXPECT_FALSE(CheckRequest(message).ok()) << lie;
  }
}

TEST(MessageTest, AVringFdIsThereUnlessItsFlagSaysThatItIsNot) {
  Message message = MakeRequest(FrontEndRequest::kSetVringKick, uint64_t{3});
  EXPECT_FALSE(CheckRequest(message).ok());
  AddFds(message, 1);
  EXPECT_TRUE(CheckRequest(message).ok());
  AddFds(message, 1);
  EXPECT_FALSE(CheckRequest(message).ok());
  message = MakeRequest(FrontEndRequest::kSetVringCall, uint64_t{3} | kVringFdNone);
  EXPECT_TRUE(CheckRequest(message).ok());
  AddFds(message, 1);
  EXPECT_FALSE(CheckRequest(message).ok());
  EXPECT_FALSE(CheckRequest(MakeRequest(FrontEndRequest::kSetVringErr, uint64_t{0x1100})).ok());
}

TEST(MessageTest, FdsWhereNoneBelongAreRefused) {
  Message message = MakeRequest(FrontEndRequest::kSetOwner);
  AddFds(message, 1);
  EXPECT_FALSE(CheckRequest(message).ok());
  message = MakeReply(MakeRequest(FrontEndRequest::kGetFeatures), uint64_t{1});
  EXPECT_TRUE(CheckRequest(message).ok());
  AddFds(message, 1);
  EXPECT_FALSE(CheckRequest(message).ok());
}

TEST(MessageTest, AConfigOfAnotherSizeThanItSaysIsRefused) {
  const std::array<std::byte, 60> bytes{std::byte{7}};
  Message message = MakeConfig(FrontEndRequest::kSetConfig, 4, kConfigForMigration, bytes);
  ASSERT_TRUE(CheckRequest(message).ok());
  const auto config = GetConfig(message);
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->offset, 4U);
  EXPECT_EQ(config->flags, kConfigForMigration);
  EXPECT_EQ(config->bytes.size(), 60U);
  message.payload.pop_back();
  EXPECT_FALSE(CheckRequest(message).ok());
}

TEST(MessageTest, AnEmptyConfigReplyTellsOfFailure) {
  const Message request = MakeConfig(FrontEndRequest::kGetConfig, 0, 0, {});
  const Message failed = MakeConfigReply(request, 0, {});
  EXPECT_TRUE(CheckRequest(failed).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(GetConfig(failed).status()));
  const std::array<std::byte, 8> bytes{};
  const Message reply = MakeConfigReply(request, 0, bytes);
  EXPECT_TRUE(CheckRequest(reply).ok());
  EXPECT_EQ(GetConfig(reply)->bytes.size(), 8U);
}

TEST(MessageTest, AnInflightDescriptionHasNoPaddingOnTheWay) {
  const Message message = MakeRequest(
      FrontEndRequest::kGetInflightFd,
      InflightDescription{.mmap_size = 1, .mmap_offset = 2, .queues = 3, .queue_size = 4});
  EXPECT_EQ(message.payload.size(), 20U);
  EXPECT_EQ(GetPayload<InflightDescription>(message)->queue_size, 4);
}

TEST(MessageTest, NamesAreTheProtocols) {
  EXPECT_EQ(RequestName(RequestSet::kFrontEnd, 11), "GET_VRING_BASE");
  EXPECT_EQ(RequestName(RequestSet::kBackEnd, 2), "BACKEND_CONFIG_CHANGE_MSG");
  EXPECT_EQ(RequestName(RequestSet::kBackEnd, 77), "request 77");
  EXPECT_EQ(ProtocolFeatureName(ProtocolFeature::kDeviceState), "DEVICE_STATE");
  EXPECT_EQ(ProtocolFeatureName(static_cast<ProtocolFeature>(20)), "bit 20");
}

}  // namespace
}  // namespace vhost::user
