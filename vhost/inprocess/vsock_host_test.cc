// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_host.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace vhost::inprocess {
namespace {

using kernel_abi::UniqueFd;

class VsockHostTest : public testing::Test {
 protected:
  VsockHostTest() {
    char name[] = "/tmp/vsock_host_test.XXXXXX";
    folder_ = mkdtemp(name);
    path_ = folder_ + "/v.sock";
  }
  ~VsockHostTest() override { rmdir(folder_.c_str()); }

  std::string folder_;
  std::string path_;
};

mode_t ModeOf(const std::string& path) {
  struct stat found {};
  return stat(path.c_str(), &found) == 0 ? found.st_mode & 07777 : 0;
}

TEST_F(VsockHostTest, ListensWithTheModeGivenAndRemovesItsFiles) {
  {
    const auto host = VsockHost::Create({.uds_path = path_, .mode = 0620});
    ASSERT_TRUE(host.ok()) << host.status();
    EXPECT_EQ(ModeOf(path_), 0620u);
    EXPECT_EQ(ModeOf(path_ + ".seqpacket"), 0620u);
  }
  EXPECT_EQ(ModeOf(path_), 0u);
  EXPECT_EQ(ModeOf(path_ + ".seqpacket"), 0u);
}

TEST_F(VsockHostTest, DoesNotDisturbAnotherListener) {
  const auto first = VsockHost::Create({.uds_path = path_});
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(absl::IsAlreadyExists(VsockHost::Create({.uds_path = path_}).status()));
  EXPECT_TRUE(ConnectUnix(path_).ok());
}

TEST_F(VsockHostTest, ReplacesTheSocketsOfOneThatDied) {
  {
    auto first = VsockHost::Create({.uds_path = path_});
    ASSERT_TRUE(first.ok());
    // As if it had died: the files stay.
    rename(path_.c_str(), (path_ + ".kept").c_str());
    rename((path_ + ".seqpacket").c_str(), (path_ + ".kept2").c_str());
  }
  rename((path_ + ".kept").c_str(), path_.c_str());
  rename((path_ + ".kept2").c_str(), (path_ + ".seqpacket").c_str());
  EXPECT_TRUE(absl::IsUnavailable(ConnectUnix(path_).status()));
  EXPECT_TRUE(VsockHost::Create({.uds_path = path_}).ok());
}

TEST_F(VsockHostTest, LeavesAFileThatIsNoSocketAlone) {
  const UniqueFd file(open(path_.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  EXPECT_TRUE(absl::IsFailedPrecondition(VsockHost::Create({.uds_path = path_}).status()));
  EXPECT_EQ(unlink(path_.c_str()), 0);
}

TEST_F(VsockHostTest, WantsRoomForAPortBehindItsPath) {
  EXPECT_TRUE(absl::IsInvalidArgument(
      VsockHost::Create({.uds_path = "/tmp/" + std::string(92, 'x')}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(VsockHost::Create({.uds_path = ""}).status()));
}

TEST_F(VsockHostTest, DialsTheSocketOfThePort) {
  const auto host = VsockHost::Create({.uds_path = path_});
  ASSERT_TRUE(host.ok());
  EXPECT_FALSE((*host)->Dial(VsockType::kStream, 80).ok());
  const auto listener = UnixListener::Create(path_ + "_80");
  ASSERT_TRUE(listener.ok());
  EXPECT_TRUE((*host)->Dial(VsockType::kStream, 80).ok());
  EXPECT_FALSE((*host)->Dial(VsockType::kSeqpacket, 80).ok());
  EXPECT_FALSE((*host)->Dial(VsockType::kStream, 8).ok());
}

TEST(VsockConnect, IsParsedAsFirecrackerDoes) {
  EXPECT_EQ(ParseConnect("CONNECT 52\n"), 52u);
  EXPECT_EQ(ParseConnect("connect 0\r\n"), 0u);
  EXPECT_EQ(ParseConnect("Connect   4294967295 \n"), 4294967295u);
  for (const char* garbage :
       {"", "\n", "CONNECT\n", "CONNECT \n", "CONNECT52\n", "CONNECT -1\n", "CONNECT +1\n",
        "CONNECT 4294967296\n", "CONNECT 99999999999999999999\n", "CONNECT 1 2\n", "CONNECT 0x10\n",
        "GET / HTTP/1.1\n", "DISCONNECT 1\n"}) {
    EXPECT_EQ(ParseConnect(garbage), std::nullopt) << garbage;
  }
}

struct Pair {
  explicit Pair(int type) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, fds), 0);
    ours = UniqueFd(fds[0]);
    clients = UniqueFd(fds[1]);
  }
  void Say(const std::string& text) const {
    EXPECT_EQ(send(clients.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  UniqueFd ours, clients;
};

TEST(VsockConnect, IsReadInPiecesAndNotAByteMore) {
  const Pair pair(SOCK_STREAM);
  uint32_t port = 0;
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kStream, port), VsockHello::kIncomplete);
  pair.Say("CONN");
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kStream, port), VsockHello::kIncomplete);
  pair.Say("ECT 1234\nhello");
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kStream, port), VsockHello::kPort);
  EXPECT_EQ(port, 1234u);
  std::array<char, 16> rest;
  EXPECT_EQ(recv(pair.ours.get(), rest.data(), rest.size(), 0), 5);
  EXPECT_TRUE(WriteOk(pair.ours.get(), 1073741824));
  EXPECT_EQ(recv(pair.clients.get(), rest.data(), rest.size(), 0), 14);
  EXPECT_EQ(std::string(rest.data(), 14), "OK 1073741824\n");
}

TEST(VsockConnect, OfALineThatDoesNotEndIsGarbage) {
  const Pair pair(SOCK_STREAM);
  uint32_t port = 0;
  pair.Say(std::string(31, 'x'));
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kStream, port), VsockHello::kIncomplete);
  pair.Say("x");
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kStream, port), VsockHello::kGarbage);
}

TEST(VsockConnect, OfSeqpacketIsOneMessage) {
  const Pair pair(SOCK_SEQPACKET);
  uint32_t port = 0;
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kSeqpacket, port), VsockHello::kIncomplete);
  pair.Say("CONNECT 9");
  pair.Say("data");
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kSeqpacket, port), VsockHello::kPort);
  EXPECT_EQ(port, 9u);
  pair.Say("CONNECT 10\n");
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kSeqpacket, port), VsockHello::kGarbage);
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kSeqpacket, port), VsockHello::kPort);
}

TEST(VsockConnect, OfOneThatWentAwayIsGarbage) {
  Pair pair(SOCK_STREAM);
  pair.clients.Reset();
  uint32_t port = 0;
  EXPECT_EQ(ReadConnect(pair.ours.get(), VsockType::kStream, port), VsockHello::kGarbage);
  EXPECT_FALSE(WriteOk(pair.ours.get(), 1));
}

}  // namespace
}  // namespace vhost::inprocess
