// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What scrapers and others say to the metrics listener, as texts and over real sockets.
#include "src/vhostctl/metrics/scrape_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/kernel.h"

namespace vhost::ctl {
namespace {

using kernel_abi::UniqueFd;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// ---- Texts -------------------------------------------------------------------------------------

int StatusOf(absl::string_view request) {
  const auto verdict = JudgeRequest(request);
  return verdict.has_value() ? verdict->status : 0;
}

TEST(HttpRequest, IsJudgedOnceItsHeadIsThere) {
  const std::string request = "GET /metrics HTTP/1.1\r\nHost: a\r\nUser-Agent: b c\r\n\r\n";
  for (size_t i = 0; i < request.size(); ++i) EXPECT_EQ(StatusOf(request.substr(0, i)), 0);
  EXPECT_EQ(StatusOf(request), 200);
  EXPECT_EQ(StatusOf(request + "more"), 200);
  EXPECT_EQ(StatusOf("GET /metrics HTTP/1.0\n\n"), 200);
  EXPECT_EQ(StatusOf("HEAD /metrics?name[]=up HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), 200);
}

TEST(HttpRequest, IsRefusedWithWhatIsWrong) {
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\n\r\n"), 404);
  EXPECT_EQ(StatusOf("GET /metrics/../etc HTTP/1.1\r\n\r\n"), 404);
  EXPECT_EQ(StatusOf("POST /metrics HTTP/1.1\r\n\r\n"), 405);
  EXPECT_EQ(StatusOf("GET /metrics HTTP/2.0\r\n\r\n"), 505);
  for (const char* bad :
       {"\r\n\r\n", "GET\r\n\r\n", "GET /metrics\r\n\r\n", " / HTTP/1.1\r\n\r\n",
        "GET  HTTP/1.1\r\n\r\n", "G\x01T / HTTP/1.1\r\n\r\n", "GET /metrics SMTP/1.1\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nnone\r\n\r\n", "GET /metrics HTTP/1.1\r\n folded: x\r\n\r\n"}) {
    EXPECT_EQ(StatusOf(bad), 400) << bad;
  }
  EXPECT_EQ(StatusOf("GET /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), 413);
  EXPECT_EQ(StatusOf("GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 413);
  EXPECT_EQ(StatusOf(std::string(kMaxHeadBytes, 'x')), 431);
  EXPECT_EQ(StatusOf("GET /metrics HTTP/1.1\r\nA: " + std::string(kMaxHeadBytes, 'x') + "\r\n\r\n"),
            431);
}

TEST(HttpRequest, IsAnsweredInTheFormatThatItPrefers) {
  const auto format = [](absl::string_view accept) {
    return JudgeRequest(absl::StrCat("GET /metrics HTTP/1.1\r\nACCEPT: ", accept, "\r\n\r\n"))
        ->format;
  };
  // As Prometheus 2.42 asks.
  EXPECT_EQ(format("application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
                   "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
            MetricFormat::kOpenMetrics);
  EXPECT_EQ(format("text/plain, application/openmetrics-text; q=0.5"), MetricFormat::kText);
  EXPECT_EQ(format("application/openmetrics-text;q=0"), MetricFormat::kText);
  EXPECT_EQ(format("application/openmetrics-text;q=x"), MetricFormat::kText);
  EXPECT_EQ(format("*/*"), MetricFormat::kText);
  EXPECT_EQ(format(""), MetricFormat::kText);
}

TEST(HttpReply, SaysHowLongItIs) {
  EXPECT_EQ(HttpReply({.format = MetricFormat::kOpenMetrics}, "abc"),
            "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; "
            "charset=utf-8\r\nContent-Length: 3\r\nX-Content-Type-Options: nosniff\r\n"
            "Connection: close\r\n\r\nabc");
  EXPECT_THAT(HttpReply({.head_only = true}, "abc"),
              AllOf(HasSubstr("Content-Length: 3"), EndsWith("\r\n\r\n")));
  EXPECT_THAT(HttpReply({.status = 405}, ""), HasSubstr("Allow: GET, HEAD"));
}

TEST(ListenAddress, IsThisHostsUnlessMoreIsSaid) {
  EXPECT_THAT(Listen("0")->url, StartsWith("http://127.0.0.1:"));
  EXPECT_THAT(Listen(":0")->url, StartsWith("http://127.0.0.1:"));
  EXPECT_THAT(Listen("0.0.0.0:0")->url, StartsWith("http://0.0.0.0:"));
  for (const char* wrong : {"", "x", "65536", "-1", "example.org:80", "1.2.3:80", "[::1:80",
                            "::1:80x", "[1.2.3.4]:80", "127.0.0.1:"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Listen(wrong).status())) << wrong;
  }
  const auto first = Listen("0");
  ASSERT_TRUE(first.ok());
  const std::string port = first->url.substr(17, first->url.rfind('/') - 17);
  EXPECT_TRUE(absl::StrContains(Listen(port).status().message(), "EADDRINUSE"));
}

// ---- Sockets -----------------------------------------------------------------------------------

class ScrapeServerTest : public ::testing::Test {
 protected:
  void Start(const ScrapeLimits& limits = {}, const std::string& where = "0") {
    auto socket = Listen(where);
    ASSERT_TRUE(socket.ok()) << socket.status();
    sockaddr_storage address{};
    address_size_ = sizeof(address);
    getsockname(socket->fd(), reinterpret_cast<sockaddr*>(&address), &address_size_);
    address_ = address;
    auto server = ScrapeServer::Create(
        *std::move(socket),
        [this] {
          ++gathered_;
          if (hold_ != nullptr) hold_->WaitForNotification();
          Exposition exposition;
          exposition.Declare("up", MetricType::kGauge, "Help.");
          exposition.Add("up", {{"n", std::string(body_bytes_, 'x')}}, 1);
          return exposition;
        },
        limits);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    runs_ = std::thread([this] { ended_ = server_->Run(stop_.get()); });
  }
  void TearDown() override {
    stop_.Signal();
    if (runs_.joinable()) runs_.join();
    server_.reset();
    EXPECT_TRUE(ended_.ok()) << ended_;
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  // Whose buffers are small, unlike those of TCP.
  std::string UnixSocket() {
    char name[] = "/tmp/vhostctl-scrape-XXXXXX";
    folder_ = mkdtemp(name);
    return absl::StrCat("unix:", folder_, "/metrics.sock");
  }

  UniqueFd Dial() const {
    UniqueFd fd(socket(address_.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address_), address_size_), 0);
    return fd;
  }
  static void Say(const UniqueFd& fd, absl::string_view text) {
    while (!text.empty()) {
      const ssize_t count = send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      text.remove_prefix(static_cast<size_t>(count));
    }
  }
  // All until the server closes.
  static std::string Hear(const UniqueFd& fd) {
    std::string all;
    char buffer[65536];
    while (true) {
      pollfd ready{fd.get(), POLLIN, 0};
      if (poll(&ready, 1, 60'000) != 1) return all + "<silence>";
      const ssize_t count = recv(fd.get(), buffer, sizeof(buffer), 0);
      if (count < 0) return all + "<reset>";
      if (count == 0) return all;
      all.append(buffer, static_cast<size_t>(count));
    }
  }
  std::string Get(absl::string_view request = "GET /metrics HTTP/1.1\r\n\r\n") const {
    const UniqueFd fd = Dial();
    Say(fd, request);
    return Hear(fd);
  }

  const kernel_abi::EventFd stop_ = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  std::string folder_;
  sockaddr_storage address_{};
  socklen_t address_size_ = 0;
  std::atomic<int> gathered_ = 0;
  size_t body_bytes_ = 1;
  absl::Notification* hold_ = nullptr;
  std::unique_ptr<ScrapeServer> server_;
  absl::Status ended_;
  std::thread runs_;
};

TEST_F(ScrapeServerTest, AnswersScrapers) {
  Start();
  EXPECT_THAT(Get(), AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("version=0.0.4"),
                           EndsWith("\r\n\r\n# HELP up Help.\n# TYPE up gauge\nup{n=\"x\"} 1\n")));
  EXPECT_THAT(Get("GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n"),
              EndsWith("# EOF\n"));
  EXPECT_THAT(Get("HEAD /metrics HTTP/1.1\r\n\r\n"), EndsWith("Connection: close\r\n\r\n"));
  EXPECT_THAT(Get("GET /favicon.ico HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get("DELETE /metrics HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Get("\x16\x03\x01\r\n\r\n"), StartsWith("HTTP/1.1 400"));  // TLS
  EXPECT_EQ(gathered_, 3);
}

TEST_F(ScrapeServerTest, AnswersOnAUnixSocket) {
  Start({}, UnixSocket());
  EXPECT_THAT(Get(), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(std::filesystem::status(folder_ + "/metrics.sock").permissions(),
            std::filesystem::perms{0660});
}

TEST_F(ScrapeServerTest, ALongReplyToASlowClientArrivesWholeAndHoldsUpNobody) {
  body_bytes_ = 2 << 20;
  Start({}, UnixSocket());
  const UniqueFd slow = Dial();
  Say(slow, "GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_THAT(Get("GET / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404"));
  EXPECT_GT(Hear(slow).size(), body_bytes_);
}

TEST_F(ScrapeServerTest, WhoDoesNotFinishInTimeIsToldAndClosed) {
  Start({.request = std::chrono::milliseconds(50)});
  EXPECT_THAT(Get("GET /metrics HTT"), StartsWith("HTTP/1.1 408"));
  EXPECT_THAT(Get(""), StartsWith("HTTP/1.1 408"));
}

TEST_F(ScrapeServerTest, WhoTakesNoReplyIsClosed) {
  body_bytes_ = 2 << 20;
  Start({.reply = std::chrono::milliseconds(500)}, UnixSocket());
  const UniqueFd deaf = Dial();
  Say(deaf, "GET /metrics HTTP/1.1\r\n\r\n");
  pollfd closed{deaf.get(), POLLRDHUP, 0};
  // The server's end goes, though there is more to say.
  ASSERT_EQ(poll(&closed, 1, 60'000), 1);
  EXPECT_LT(Hear(deaf).size(), body_bytes_);
}

TEST_F(ScrapeServerTest, TooLongARequestIsRefusedWithoutKeepingIt) {
  Start();
  EXPECT_THAT(Get("GET /metrics HTTP/1.1\r\nA: " + std::string(kMaxHeadBytes + 1, 'x')),
              StartsWith("HTTP/1.1 431"));
}

TEST_F(ScrapeServerTest, OneClientTooManyIsToldSo) {
  Start({.most_clients = 2});
  UniqueFd first = Dial();
  const UniqueFd second = Dial();
  // Connections are accepted in their order.
  EXPECT_THAT(Hear(Dial()), StartsWith("HTTP/1.1 503"));
  first.Reset();
  std::string said = "HTTP/1.1 503";
  while (!HasFailure() &&
         (absl::StartsWith(said, "HTTP/1.1 503") || absl::EndsWith(said, "<reset>"))) {
    said = Get();
  }
  EXPECT_THAT(said, StartsWith("HTTP/1.1 200"));
}

TEST_F(ScrapeServerTest, ThoseWhoWaitShareAScrapeAndOneThatBeganLater) {
  absl::Notification go;
  hold_ = &go;
  Start();
  std::vector<UniqueFd> scrapers;
  for (int i = 0; i < 8; ++i) {
    scrapers.push_back(Dial());
    Say(scrapers.back(), "GET /metrics HTTP/1.1\r\n\r\n");
  }
  // Others are served meanwhile; by then the eight have been read, or are so next.
  EXPECT_THAT(Get("GET / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404"));
  go.Notify();
  for (const UniqueFd& fd : scrapers) EXPECT_THAT(Hear(fd), StartsWith("HTTP/1.1 200"));
  EXPECT_LE(gathered_, 3);
}

TEST_F(ScrapeServerTest, EndsWhileSomebodyWaits) {
  Start();
  const UniqueFd idle = Dial();
  const UniqueFd asking = Dial();
  Say(asking, "GET /metrics HTTP/1.1\r\n\r\n");
  stop_.Signal();
  runs_.join();
}

TEST_F(ScrapeServerTest, SurvivesClientsThatComeAndGo) {
  // Where the queue of connections is full, connect() waits a moment here, and a second with TCP.
  Start({}, UnixSocket());
  for (int i = 0; i < 1000; ++i) {
    const UniqueFd fd = Dial();
    if (i % 3 == 1) Say(fd, "GET /met");
    if (i % 3 == 2) Say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
  }
  std::string said = "HTTP/1.1 503";
  while (!HasFailure() &&
         (absl::StartsWith(said, "HTTP/1.1 503") || absl::EndsWith(said, "<reset>"))) {
    said = Get();
  }
  EXPECT_THAT(said, StartsWith("HTTP/1.1 200"));
}

}  // namespace
}  // namespace vhost::ctl
