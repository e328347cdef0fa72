// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/connection.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace vhost::user {
namespace {

using kernel_abi::UniqueFd;
using std::chrono::milliseconds;

Connection::Deadline In(milliseconds time) { return Connection::Clock::now() + time; }
Connection::Deadline Soon() { return In(std::chrono::seconds(60)); }

size_t OpenFds() {
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

class ConnectionTest : public testing::Test {
 protected:
  ConnectionTest() {
    auto sockets = Connection::MakeSockets();
    front_.emplace(std::move(sockets->first), RequestSet::kFrontEnd, Role::kRequester, "front");
    raw_ = sockets->second.get();
    back_.emplace(std::move(sockets->second), RequestSet::kFrontEnd, Role::kServer, "back");
  }
  // To the front end, as the back end.
  void SendRaw(const void* bytes, size_t size, std::span<const int> fds = {}) {
    iovec piece{.iov_base = const_cast<void*>(bytes), .iov_len = size};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 64)] = {};
    msghdr out{};
    out.msg_iov = &piece;
    out.msg_iovlen = 1;
    if (!fds.empty()) {
      out.msg_control = control;
      out.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* part = CMSG_FIRSTHDR(&out);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      memcpy(CMSG_DATA(part), fds.data(), sizeof(int) * fds.size());
    }
    ASSERT_EQ(sendmsg(raw_, &out, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }

  std::optional<Connection> front_;
  std::optional<Connection> back_;
  int raw_ = -1;  // the back end's socket
};

TEST_F(ConnectionTest, AMessageArrivesWithItsFds) {
  const UniqueFd file(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  const std::array<int, 1> fds{file.get()};
  ASSERT_TRUE(
      front_->Send(MakeRequest(FrontEndRequest::kSetVringKick, uint64_t{2}), fds, Soon()).ok());
  const auto message = back_->Receive(Soon());
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(GetU64(*message).value(), 2U);
  ASSERT_EQ(message->fds.size(), 1U);
  struct stat sent {};
  struct stat got {};
  ASSERT_EQ(fstat(file.get(), &sent), 0);
  ASSERT_EQ(fstat(message->fds[0].get(), &got), 0);
  EXPECT_EQ(sent.st_rdev, got.st_rdev);
  EXPECT_NE(fcntl(message->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(ConnectionTest, MessagesThatComeTogetherAreTakenOneByOne) {
  ASSERT_TRUE(front_->Send(MakeRequest(FrontEndRequest::kSetOwner), Soon()).ok());
  ASSERT_TRUE(front_->Send(MakeRequest(FrontEndRequest::kSetFeatures, uint64_t{5}), Soon()).ok());
  EXPECT_TRUE(back_->Receive(Soon())->Is(FrontEndRequest::kSetOwner));
  EXPECT_EQ(GetU64(*back_->Receive(Soon())).value(), 5U);
  const auto none = back_->TryReceive();
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
}

TEST_F(ConnectionTest, AMessageThatComesByteByByteArrives) {
  const Header header{.request = 1, .flags = kVersion | kFlagReply, .size = 8};
  const uint64_t value = 0x1234;
  std::array<char, sizeof(header) + sizeof(value)> bytes;
  memcpy(bytes.data(), &header, sizeof(header));
  memcpy(bytes.data() + sizeof(header), &value, sizeof(value));
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto early = front_->TryReceive();
    ASSERT_TRUE(early.ok() && !early->has_value());
    SendRaw(&bytes[i], 1);
  }
  const auto message = front_->TryReceive();
  ASSERT_TRUE(message.ok() && message->has_value());
  EXPECT_EQ(GetU64(**message).value(), value);
}

TEST_F(ConnectionTest, APeerThatDoesNotAnswerIsGivenUpAtTheDeadline) {
  const auto reply =
      front_->Call(MakeRequest(FrontEndRequest::kGetFeatures), {}, In(milliseconds(1)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(reply.status())) << reply.status();
  EXPECT_FALSE(front_->Send(MakeRequest(FrontEndRequest::kSetOwner), Soon()).ok());
}

TEST_F(ConnectionTest, APeerThatDoesNotReadIsGivenUpAtTheDeadline) {
  absl::Status status;
  for (int i = 0; i < 100'000 && status.ok(); ++i) {
    status = front_->Send(MakeRequest(FrontEndRequest::kSetOwner), In(milliseconds(1)));
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST_F(ConnectionTest, APeerThatGoesIsToldOfWithoutASignal) {
  back_->Close();
  const auto reply = front_->Call(MakeRequest(FrontEndRequest::kGetFeatures), {}, Soon());
  EXPECT_TRUE(absl::IsUnavailable(reply.status())) << reply.status();
}

TEST_F(ConnectionTest, AReplyToAnotherRequestBreaksTheConnection) {
  const Header header{.request = 15, .flags = kVersion | kFlagReply, .size = 8};
  std::array<char, 20> bytes{};
  memcpy(bytes.data(), &header, sizeof(header));
  SendRaw(bytes.data(), bytes.size());
  const auto reply = front_->Call(MakeRequest(FrontEndRequest::kGetFeatures), {}, Soon());
  EXPECT_TRUE(absl::IsInvalidArgument(reply.status())) << reply.status();
  EXPECT_EQ(front_->Send(MakeRequest(FrontEndRequest::kSetOwner), Soon()), reply.status());
}

TEST_F(ConnectionTest, ARequestIsNoReplyAndAReplyNoRequest) {
  const Header request{.request = 3, .flags = kVersion, .size = 0};
  SendRaw(&request, sizeof(request));
  EXPECT_TRUE(absl::IsInvalidArgument(front_->Receive(Soon()).status()));
  auto sockets = Connection::MakeSockets();
  Connection server(std::move(sockets->first), RequestSet::kFrontEnd, Role::kServer, "server");
  raw_ = sockets->second.get();
  const Header reply{.request = 3, .flags = kVersion | kFlagReply, .size = 8};
  SendRaw(&reply, sizeof(reply));
  EXPECT_TRUE(absl::IsInvalidArgument(server.Receive(Soon()).status()));
}

TEST_F(ConnectionTest, WhatIsRefusedLeavesNoFdBehind) {
  const UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const struct {
    Header header;
    size_t fds;
  } cases[] = {
      {{.request = 1, .flags = kVersion | kFlagReply, .size = 8}, 1},    // fds where none belong
      {{.request = 999, .flags = kVersion | kFlagReply, .size = 8}, 1},  // unknown
      {{.request = 1, .flags = kVersion | kFlagReply, .size = 0xffff'ffff}, 2},
      {{.request = 31, .flags = kVersion | kFlagReply, .size = 20}, 40},  // more than there can be
  };
  for (const auto& bad : cases) {
    auto sockets = Connection::MakeSockets();
    Connection front(std::move(sockets->first), RequestSet::kFrontEnd, Role::kRequester, "front");
    raw_ = sockets->second.get();
    const size_t before = OpenFds();
    std::array<char, 32> bytes{};
    memcpy(bytes.data(), &bad.header, sizeof(bad.header));
    const std::vector<int> fds(bad.fds, file.get());
    SendRaw(bytes.data(), 12 + std::min<size_t>(bad.header.size, 20), fds);
    const auto message = front.Receive(Soon());
    EXPECT_TRUE(absl::IsInvalidArgument(message.status())) << message.status();
    EXPECT_EQ(OpenFds(), before);
  }
}

TEST_F(ConnectionTest, FdsOfHalfAMessageAreClosedWithIt) {
  const UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const Header header{.request = 31, .flags = kVersion | kFlagReply, .size = 20};
  const size_t before = OpenFds();
  const std::array<int, 1> fds{file.get()};
  SendRaw(&header, sizeof(header), fds);
  const auto half = front_->TryReceive();
  ASSERT_TRUE(half.ok() && !half->has_value());
  EXPECT_EQ(OpenFds(), before + 1);
  back_->Close();
  EXPECT_TRUE(absl::IsUnavailable(front_->TryReceive().status()));
  EXPECT_EQ(OpenFds(), before - 1);  // the back end's socket too
}

TEST_F(ConnectionTest, ThePeersCredentialsAreKnown) {
  const auto peer = front_->peer();
  ASSERT_TRUE(peer.has_value());
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, getuid());
}

}  // namespace
}  // namespace vhost::user
