// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/event_fd.h"
#include "vhost/control/listener.h"
#include "vhost/control/protocol.h"
#include "vhost/control/runtime_directory.h"
#include "vhost/epoll_loop.h"

namespace vhost::control {
namespace {

using kernel_abi::UniqueFd;
using ::testing::HasSubstr;

// A server that answers a line with "LINE!", and clients that misbehave.
class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/vhost-server-test-XXXXXX";
    directory_ = mkdtemp(name);
    loop_ = *EpollLoop::Create();
  }
  void TearDown() override {
    server_.reset();
    loop_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string Path() const { return directory_ + "/control.sock"; }

  void Start(ServerOptions options = {}) {
    options.path = Path();
    auto server = Server::Create(
        *loop_,
        [this](absl::string_view line) -> Reply {
          ++requests_;
          if (absl::StartsWith(line, "events")) {
            return {"ok\n", {.id = "7", .device = std::string(line.substr(6))}};
          }
          if (line == "big") return std::string(big_reply_bytes_, 'x') + "\n";
          return absl::StrCat(line, "!\n");
        },
        options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // On the loop's thread, as the control plane does.
  void Publish(const std::string& device, const std::string& text, int count = 1) {
    absl::Notification done;
    const kernel_abi::EventFd wake = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
    auto watch = loop_->WatchReadable(wake.get(), [&] {
      wake.Drain();
      for (int i = 0; i < count; ++i) {
        server_->Publish({.device = device, .report = {.what = "stall", .text = text}}, 0);
      }
      done.Notify();
    });
    ASSERT_TRUE(watch.ok());
    wake.Signal();
    done.WaitForNotification();
  }
  UniqueFd Subscribe(const std::string& request = "events") {
    UniqueFd client = Dial();
    Send(client, request + "\n");
    EXPECT_EQ(ReadLine(client), "ok");
    return client;
  }

  UniqueFd Dial() {
    absl::StatusOr<UniqueFd> fd = Connect(Path());
    EXPECT_TRUE(fd.ok()) << fd.status();
    return fd.ok() ? *std::move(fd) : UniqueFd();
  }
  static void Send(const UniqueFd& fd, absl::string_view text) {
    while (!text.empty()) {
      pollfd ready{fd.get(), POLLOUT, 0};
      ASSERT_EQ(poll(&ready, 1, 60'000), 1);
      const ssize_t count = send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (count < 0) return;
      text.remove_prefix(static_cast<size_t>(count));
    }
  }
  // Up to and without the newline; "<end>" if the server closed instead, "<silence>" after a
  // minute.
  static std::string ReadLine(const UniqueFd& fd) {
    std::string line;
    while (true) {
      pollfd ready{fd.get(), POLLIN, 0};
      if (poll(&ready, 1, 60'000) != 1) return "<silence>";
      char c;
      if (recv(fd.get(), &c, 1, 0) != 1) return line + "<end>";
      if (c == '\n') return line;
      line.push_back(c);
    }
  }

  std::string directory_;
  std::atomic<int> requests_ = 0;
  size_t big_reply_bytes_ = 4 << 20;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, AnswersRequestsInTheirOrder) {
  Start();
  const UniqueFd client = Dial();
  Send(client, "a\nb\nc\n");
  EXPECT_EQ(ReadLine(client), "a!");
  EXPECT_EQ(ReadLine(client), "b!");
  EXPECT_EQ(ReadLine(client), "c!");
}

TEST_F(ServerTest, PutsARequestTogetherFromItsPieces) {
  Start();
  const UniqueFd client = Dial();
  for (const char* piece : {"he", "l", "lo", "\nx"}) {
    Send(client, piece);
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(ReadLine(client), "hello!");
  Send(client, "y\n");
  EXPECT_EQ(ReadLine(client), "xy!");
}

TEST_F(ServerTest, AnswersAClientThatHasShutDownItsSide) {
  Start();
  const UniqueFd client = Dial();
  Send(client, "a\nb\n");
  shutdown(client.get(), SHUT_WR);
  EXPECT_EQ(ReadLine(client), "a!");
  EXPECT_EQ(ReadLine(client), "b!");
  EXPECT_EQ(ReadLine(client), "<end>");
}

TEST_F(ServerTest, TellsAClientThatItsLastRequestIsUnfinished) {
  Start();
  const UniqueFd client = Dial();
  Send(client, "half");
  shutdown(client.get(), SHUT_WR);
  EXPECT_THAT(ReadLine(client), HasSubstr("ended without a newline"));
  EXPECT_EQ(ReadLine(client), "<end>");
  EXPECT_EQ(requests_, 0);
}

TEST_F(ServerTest, ClosesAClientWhoseLineIsTooLong) {
  Start();
  const UniqueFd client = Dial();
  Send(client, std::string(kMaxRequestBytes - 1, 'x') + "\n");  // as long as may be
  EXPECT_EQ(ReadLine(client).size(), kMaxRequestBytes);
  Send(client, std::string(kMaxRequestBytes, 'x'));
  EXPECT_THAT(ReadLine(client), HasSubstr("RESOURCE_EXHAUSTED"));
  EXPECT_EQ(ReadLine(client), "<end>");
}

TEST_F(ServerTest, AClientThatNeverReadsHoldsUpNobodyAndIsClosed) {
  Start({.exchange_timeout_ms = 100});
  const UniqueFd slow = Dial();
  Send(slow, "big\nbig\nbig\n");
  const UniqueFd other = Dial();
  Send(other, "a\n");
  EXPECT_EQ(ReadLine(other), "a!");
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(requests_, 2);  // the second "big" was not even read
  EXPECT_THAT(ReadLine(slow), HasSubstr("x<end>"));
}

TEST_F(ServerTest, ALargeReplyArrivesWhole) {
  Start();
  const UniqueFd client = Dial();
  Send(client, "big\nafter\n");
  std::string reply;
  std::vector<char> buffer(1 << 16);
  while (reply.size() < big_reply_bytes_ + 1) {
    pollfd ready{client.get(), POLLIN, 0};
    ASSERT_EQ(poll(&ready, 1, 60'000), 1);
    const ssize_t count = recv(client.get(), buffer.data(),
                               std::min(buffer.size(), big_reply_bytes_ + 1 - reply.size()), 0);
    ASSERT_GT(count, 0);
    reply.append(buffer.data(), static_cast<size_t>(count));
  }
  EXPECT_EQ(reply, std::string(big_reply_bytes_, 'x') + "\n");
  EXPECT_EQ(ReadLine(client), "after!");
}

TEST_F(ServerTest, ClosesAClientThatDoesNotFinishItsRequest) {
  Start({.exchange_timeout_ms = 50});
  const UniqueFd client = Dial();
  Send(client, "half");
  EXPECT_EQ(ReadLine(client), "<end>");
}

TEST_F(ServerTest, ClosesAClientThatIsIdleForLong) {
  Start({.idle_timeout_ms = 50});
  const UniqueFd client = Dial();
  EXPECT_EQ(ReadLine(client), "<end>");
}

TEST_F(ServerTest, TellsOneClientTooManyAndServesItOnceThereIsRoom) {
  Start({.max_clients = 2});
  const UniqueFd first = Dial();
  UniqueFd second = Dial();
  Send(first, "a\n");
  Send(second, "b\n");
  EXPECT_EQ(ReadLine(first), "a!");
  EXPECT_EQ(ReadLine(second), "b!");
  const UniqueFd third = Dial();
  EXPECT_THAT(ReadLine(third), HasSubstr("2 clients are connected"));
  EXPECT_EQ(ReadLine(third), "<end>");
  second.Reset();
  Send(first, "a\n");
  EXPECT_EQ(ReadLine(first), "a!");  // by now the close was seen
  const UniqueFd fourth = Dial();
  Send(fourth, "d\n");
  EXPECT_EQ(ReadLine(fourth), "d!");
}

TEST_F(ServerTest, KeepsServingWhenItRunsOutOfFds) {
  Start({.exchange_timeout_ms = 40});
  const UniqueFd steady = Dial();
  Send(steady, "a\n");
  EXPECT_EQ(ReadLine(steady), "a!");
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  std::vector<UniqueFd> hoard;
  rlimit tight = before;
  tight.rlim_cur = 64;
  setrlimit(RLIMIT_NOFILE, &tight);
  const UniqueFd waiting(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  while (true) {
    UniqueFd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) break;
    hoard.push_back(std::move(fd));
  }
  hoard.pop_back();  // for the client's own end; there is none for the server's
  const UniqueFd client = Dial();
  Send(client, "b\n");
  Send(steady, "a\n");
  EXPECT_EQ(ReadLine(steady), "a!");
  setrlimit(RLIMIT_NOFILE, &before);
  hoard.clear();
  EXPECT_EQ(ReadLine(client), "b!");
}

TEST_F(ServerTest, IsForItsOwnerAlone) {
  Start();
  struct stat made {};
  ASSERT_EQ(lstat(Path().c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 07777, 0600u);
  // This process may.
  const UniqueFd client = Dial();
  Send(client, "a\n");
  EXPECT_EQ(ReadLine(client), "a!");
}

TEST_F(ServerTest, AStrangerIsRefusedByItsCredentials) {
  if (geteuid() != 0) GTEST_SKIP() << "skipped: becoming somebody else needs root";
  Start();
  // Past the mode of the file, as a stranger with an inherited directory fd or a lax chmod would
  // be.
  chmod(Path().c_str(), 0666);
  chmod(directory_.c_str(), 0755);
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd output(pipe_fds[0]);
  UniqueFd input(pipe_fds[1]);
  const std::string path = Path();
  const pid_t child = fork();
  if (child == 0) {
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) _exit(1);
    const absl::StatusOr<UniqueFd> fd = Connect(path);
    const std::string line = fd.ok() ? ReadLine(*fd) : std::string(fd.status().message());
    _exit(write(input.get(), line.data(), line.size()) > 0 ? 0 : 1);
  }
  input.Reset();
  char buffer[512] = {};
  ASSERT_GT(read(output.get(), buffer, sizeof(buffer) - 1), 0);
  EXPECT_THAT(std::string(buffer), HasSubstr("PERMISSION_DENIED"));
  EXPECT_THAT(std::string(buffer), HasSubstr("user 65534"));
  EXPECT_EQ(requests_, 0);
}

TEST_F(ServerTest, RemovesItsSocketAndOnlyItsOwn) {
  Start();
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(Path()));
  Start();
  std::filesystem::remove(Path());
  const auto other = Listener::Create(Path(), std::nullopt);
  ASSERT_TRUE(other.ok());
  server_.reset();
  EXPECT_TRUE(std::filesystem::exists(Path()));
}

TEST_F(ServerTest, EventsGoToThoseWhoAskedForThem) {
  Start();
  const UniqueFd all = Subscribe();
  const UniqueFd one = Subscribe("eventsnet1");
  const UniqueFd none = Dial();
  Publish("net0", "a");
  Publish("net1", "b");
  EXPECT_THAT(ReadLine(all), HasSubstr(R"("id":7,"dropped":0,"event":{"device":"net0")"));
  EXPECT_THAT(ReadLine(all), HasSubstr(R"("text":"b")"));
  EXPECT_THAT(ReadLine(one), HasSubstr(R"("device":"net1")"));
  Send(none, "x\n");
  EXPECT_EQ(ReadLine(none), "x!");
}

TEST_F(ServerTest, FollowersOfEventsLeaveRoomForRequests) {
  Start({.max_clients = 4, .max_followers = 2});
  UniqueFd first = Subscribe();
  const UniqueFd second = Subscribe();
  const UniqueFd third = Dial();
  Send(third, "events\n");
  EXPECT_THAT(ReadLine(third), HasSubstr("2 clients follow events"));
  Send(third, "a\n");
  EXPECT_EQ(ReadLine(third), "a!");
  first.Reset();
  std::string said = "!";
  while (absl::EndsWith(said, "!") ||
         absl::StrContains(said, "follow")) {  // until the close is seen
    Send(third, "events\n");
    said = ReadLine(third);
  }
  EXPECT_EQ(said, "ok");
}

TEST_F(ServerTest, EventsOutliveTheIdleTimeAndAClientsHalfClose) {
  Start({.idle_timeout_ms = 2000});
  const UniqueFd client = Subscribe();
  shutdown(client.get(), SHUT_WR);
  absl::SleepFor(absl::Milliseconds(2500));
  Publish("net0", "late");
  EXPECT_THAT(ReadLine(client), HasSubstr("late"));
}

TEST_F(ServerTest, AClientOfEventsThatSpeaksIsClosed) {
  Start();
  const UniqueFd client = Subscribe();
  Send(client, "list\n");
  EXPECT_EQ(ReadLine(client), "<end>");
  EXPECT_EQ(requests_, 1);
}

TEST_F(ServerTest, ASlowClientOfEventsLosesTheOldestAndIsToldHowMany) {
  Start();
  const UniqueFd slow = Subscribe();
  constexpr int kEvents = 20000;
  Publish("net0", std::string(1000, 'x'), kEvents);
  Publish("net0", "last");
  int received = 0;
  int dropped = 0;
  std::string line;
  while (!absl::StrContains(line, "last")) {
    line = ReadLine(slow);
    ASSERT_THAT(line, HasSubstr("\"dropped\":"));
    const size_t number = line.find("\"dropped\":") + 10;
    dropped += atoi(line.c_str() + number);
    ++received;
  }
  EXPECT_EQ(received + dropped, kEvents + 1);
  EXPECT_GT(dropped, 0);
}

TEST_F(ServerTest, AClientThatTakesNoEventsIsClosedInTheEnd) {
  Start({.idle_timeout_ms = 2000});
  const UniqueFd dead = Subscribe();
  Publish("net0", std::string(1000, 'x'), 20000);
  pollfd closed{dead.get(), 0, 0};
  ASSERT_EQ(poll(&closed, 1, 60'000), 1);
  std::string line;
  while (!absl::EndsWith(line, "<end>")) {
    line = ReadLine(dead);
    ASSERT_NE(line, "<silence>");
  }
}

TEST_F(ServerTest, ClosesItsClientsWhenItEnds) {
  Start();
  const UniqueFd client = Dial();
  Send(client, "a\n");
  EXPECT_EQ(ReadLine(client), "a!");
  server_.reset();
  EXPECT_EQ(ReadLine(client), "<end>");
}

TEST_F(ServerTest, ReplacesASocketThatNobodyListensOn) {
  {
    const auto first = Listener::Create(Path(), std::nullopt);
    ASSERT_TRUE(first.ok());
    std::filesystem::create_hard_link(Path(), directory_ + "/kept");
  }
  std::filesystem::rename(directory_ + "/kept", Path());
  Start();
  const UniqueFd client = Dial();
  Send(client, "a\n");
  EXPECT_EQ(ReadLine(client), "a!");
}

TEST_F(ServerTest, DoesNotReplaceWhatIsInUseOrNoSocket) {
  Start();
  const absl::Status in_use = Listener::Create(Path(), std::nullopt).status();
  EXPECT_TRUE(absl::IsAlreadyExists(in_use)) << in_use;
  const std::string file = directory_ + "/file";
  std::ofstream(file) << "precious";
  const absl::Status no_socket = Listener::Create(file, std::nullopt).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(no_socket)) << no_socket;
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_TRUE(absl::IsInvalidArgument(
      Listener::Create(directory_ + std::string(100, 'x'), std::nullopt).status()));
  EXPECT_TRUE(absl::IsNotFound(Listener::Create("/nowhere/x.sock", std::nullopt).status()));
}

TEST_F(ServerTest, ARuntimeDirectoryBehindALinkIsNotUsed) {
  const std::string elsewhere = directory_ + "/elsewhere";
  ASSERT_TRUE(MakeRuntimeDirectory(elsewhere, std::nullopt).ok());
  const std::string link = directory_ + "/libvhost";
  ASSERT_EQ(symlink(elsewhere.c_str(), link.c_str()), 0);
  EXPECT_THAT(std::string(MakeRuntimeDirectory(link, std::nullopt).message()),
              HasSubstr("not a directory"));
  auto listener = Listener::Create(elsewhere + "/vm-1.sock", std::nullopt);
  ASSERT_TRUE(listener.ok()) << listener.status();
  const char* session = getenv("XDG_RUNTIME_DIR");
  const std::string before = session == nullptr ? "" : session;
  setenv("XDG_RUNTIME_DIR", directory_.c_str(), 1);
  EXPECT_THAT(FindSockets(), ::testing::Not(::testing::Contains(HasSubstr(directory_))));
  std::filesystem::remove(link);
  std::filesystem::rename(elsewhere, link);
  EXPECT_THAT(FindSockets(), ::testing::Contains(link + "/vm-1.sock"));
  session == nullptr ? unsetenv("XDG_RUNTIME_DIR") : setenv("XDG_RUNTIME_DIR", before.c_str(), 1);
}

TEST_F(ServerTest, TheRuntimeDirectoryIsClosedToOthers) {
  const std::string runtime = directory_ + "/libvhost";
  ASSERT_TRUE(MakeRuntimeDirectory(runtime, std::nullopt).ok());
  struct stat made {};
  ASSERT_EQ(lstat(runtime.c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 07777, 0700u);
  EXPECT_TRUE(MakeRuntimeDirectory(runtime, std::nullopt).ok());  // as it is there already
  chmod(runtime.c_str(), 0777);
  const absl::Status lax = MakeRuntimeDirectory(runtime, std::nullopt);
  EXPECT_TRUE(absl::IsFailedPrecondition(lax)) << lax;
  EXPECT_THAT(std::string(lax.message()), HasSubstr("others may write to it (mode 777)"));
}

TEST_F(ServerTest, VmNamesThatCannotBeFileNamesAreRefused) {
  EXPECT_EQ(*SocketPath("/run/libvhost", "web-1.a_b", 12), "/run/libvhost/web-1.a_b-12.sock");
  for (const char* name : {"", ".", "..", "-x", "a/b", "a b", "a\n"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(SocketPath("/run", name, 1).status())) << name;
  }
  EXPECT_FALSE(SocketPath("/run", std::string(49, 'a'), 1).ok());
}

TEST_F(ServerTest, OldDeadSocketsAreSweptAway) {
  const auto leave_dead = [this](const std::string& name) {
    const std::string path = directory_ + "/" + name;
    {
      const auto listener = Listener::Create(path, std::nullopt);
      std::filesystem::create_hard_link(path, path + "x");
    }
    std::filesystem::rename(path + "x", path);
    return path;
  };
  const std::string old_dead = leave_dead("old.sock");
  const std::string young_dead = leave_dead("young.sock");
  Start();
  const timespec long_ago[2] = {{.tv_sec = 1'000'000}, {.tv_sec = 1'000'000}};
  for (const std::string& path : {old_dead, Path()}) {
    utimensat(AT_FDCWD, path.c_str(), long_ago, AT_SYMLINK_NOFOLLOW);
  }
  RemoveStaleSockets(directory_);
  EXPECT_THAT(SocketsIn(directory_), ::testing::ElementsAre(Path(), young_dead));
}

}  // namespace
}  // namespace vhost::control
