// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Thousands of clients that mean harm, against one server: what it keeps of them, and what a data
// path in the same process notices.
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vhost/control/commands.h"
#include "vhost/control/listener.h"
#include "vhost/control/sample_report.h"
#include "vhost/control/server.h"
#include "vhost/epoll_loop.h"
#include "vhost/inprocess/net_backend_fixture.h"

namespace vhost::control {
namespace {

using kernel_abi::UniqueFd;
using ::testing::HasSubstr;

// A VM of one device, whose report is taken live where there is a backend.
class Vm final : public Subject {
 public:
  explicit Vm(const Backend* backend = nullptr) : backend_(backend) {}
  ProcessInfo Process() const override { return {"vm", 1, "0"}; }
  std::vector<DeviceReport> Describe() const override {
    DeviceReport report = SampleNet();
    if (backend_ != nullptr) report.backend = backend_->Report();
    return {report};
  }
  absl::StatusOr<DeviceReport> Describe(absl::string_view) const override {
    return Describe().front();
  }
  absl::StatusOr<HandoverReport> Handover(absl::string_view, BackendKind,
                                          absl::string_view) override {
    return HandoverReport{};
  }
  absl::Status Pause(absl::string_view, absl::string_view) override { return absl::OkStatus(); }
  absl::Status Resume(absl::string_view) override { return absl::OkStatus(); }
  absl::StatusOr<CaptureBatch> Capture(absl::string_view, const CaptureRequest&) override {
    return CaptureBatch{};
  }

 private:
  const Backend* backend_;
};

// A server on a loop of its own, and clients to plague it with.
class Besieged {
 public:
  explicit Besieged(const Backend* backend = nullptr) : vm_(backend) {
    char name[] = "/tmp/vhost-flood-test-XXXXXX";
    directory_ = mkdtemp(name);
    loop_ = *EpollLoop::Create();
    auto server = Server::Create(*loop_, HandlerFor(vm_), {.path = directory_ + "/control.sock"});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  ~Besieged() {
    server_.reset();
    loop_.reset();
    std::filesystem::remove_all(directory_);
  }

  // Whenever the server has come round to those who wait.
  UniqueFd Dial() const {
    while (true) {
      absl::StatusOr<UniqueFd> fd = Connect(server_->path());
      if (fd.ok()) return *std::move(fd);
      EXPECT_TRUE(absl::IsResourceExhausted(fd.status())) << fd.status();
      absl::SleepFor(absl::Microseconds(100));
    }
  }
  // What can be said until the server closes or has taken nothing for `patience_ms`; in bytes.
  static size_t Say(const UniqueFd& fd, absl::string_view text, size_t times, int patience_ms) {
    size_t said = 0;
    for (size_t i = 0; i < times; ++i) {
      absl::string_view left = text;
      while (!left.empty()) {
        const ssize_t count = send(fd.get(), left.data(), left.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count > 0) {
          left.remove_prefix(static_cast<size_t>(count));
          said += static_cast<size_t>(count);
          continue;
        }
        pollfd ready{fd.get(), POLLOUT, 0};
        if (errno != EAGAIN || poll(&ready, 1, patience_ms) <= 0) return said;
      }
    }
    return said;
  }
  // The first line, or what came of it until the server closed.
  static std::string Hear(const UniqueFd& fd) {
    std::string line;
    while (line.empty() || line.back() != '\n') {
      pollfd ready{fd.get(), POLLIN, 0};
      char c;
      if (poll(&ready, 1, 60'000) != 1) return line + "<silence>";
      if (recv(fd.get(), &c, 1, 0) != 1) return line + "<end>";
      line.push_back(c);
    }
    return line;
  }
  std::string Ask() const {
    std::string said;
    do {  // While others stand at the door, it may be full.
      const UniqueFd fd = Dial();
      Say(fd, "{\"version\":1,\"command\":\"list\"}\n", 1, 60'000);
      said = Hear(fd);
    } while (absl::StrContains(said, "clients are connected") || absl::EndsWith(said, "<end>"));
    return said;
  }

  // One client of many kinds, which is gone at once.
  void Plague(int kind) const {
    const UniqueFd fd = Dial();
    switch (kind % 6) {
      case 0:
        break;
      case 1:
        Say(fd, "{\"version\":1,", 1, 0);
        break;
      case 2:
        Say(fd, "{\"version\":1,\"command\":\"show\"}\n", 1, 0);
        break;
      case 3:
        Say(fd, std::string(4000, '['), 1, 0);
        Say(fd, "\n", 1, 0);
        break;
      case 4:
        Say(fd, std::string(10'000, '\xff'), 1, 0);
        break;
      default:
        Say(fd, "{\"version\":1,\"command\":\"events\"}\n", 1, 0);
    }
  }

 private:
  std::string directory_;
  Vm vm_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<Server> server_;
};

TEST(Flood, ThousandsOfClientsOneAfterTheOther) {
  const Besieged server;
  // In the emulated host of scripts/vm each takes ten times as long, and is no other client.
  const int clients = getenv("VM_RESULTS") != nullptr ? 1000 : 10'000;
  for (int i = 0; i < clients; ++i) server.Plague(i);
  EXPECT_THAT(server.Ask(), HasSubstr("\"ok\":true"));
}

TEST(Flood, HundredsOfClientsAtOnce) {
  const Besieged server;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const size_t most = std::min<size_t>(limit.rlim_cur - 200, 600);
  std::vector<UniqueFd> crowd;
  for (size_t i = 0; i < most; ++i) {
    crowd.push_back(server.Dial());
    Besieged::Say(crowd.back(), "{\"version\":1,", 1, 0);
  }
  // All but those that it serves were told so, and closed.
  size_t refused = 0;
  for (const UniqueFd& fd : crowd) {
    pollfd ready{fd.get(), POLLIN, 0};
    if (poll(&ready, 1, 0) == 1) refused += absl::StrContains(Besieged::Hear(fd), "32 clients");
  }
  EXPECT_GT(refused, most / 2);
  crowd.clear();
  EXPECT_THAT(server.Ask(), HasSubstr("\"ok\":true"));
}

TEST(Flood, WhatAClientCanMakeItTakeIsBounded) {
  const Besieged server;
  constexpr size_t kSocketBuffers = 4 << 20;
  const std::string megabyte(1 << 20, 'x');
  {
    const UniqueFd endless = server.Dial();
    EXPECT_LT(Besieged::Say(endless, megabyte, 1024, 60'000), kSocketBuffers);  // a line of 1 GiB
    EXPECT_THAT(Besieged::Hear(endless), HasSubstr("longer than 4096 bytes"));
  }
  // Sound requests without end, of one who takes no reply.
  const UniqueFd deaf = server.Dial();
  std::string requests;
  while (requests.size() < megabyte.size()) requests += "{\"version\":1,\"command\":\"show\"}\n";
  EXPECT_LT(Besieged::Say(deaf, requests, 1024, 500), kSocketBuffers);
  // Levels without end, as far as a line goes.
  const UniqueFd deep = server.Dial();
  for (const char* level : {"[", "{\"a\":"}) {
    std::string line;
    while (line.size() < 4000) line += level;
    Besieged::Say(deep, line + "\n", 1, 60'000);
    EXPECT_THAT(Besieged::Hear(deep), HasSubstr("not JSON"));
  }
  EXPECT_THAT(server.Ask(), HasSubstr("\"ok\":true"));
}

// ---- Beside a data path ------------------------------------------------------------------------

class FloodedDataPath : public inprocess::InProcessNetTest {};

TEST_F(FloodedDataPath, GetsEveryFrameThroughAndCountsThem) {
  const auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  const Besieged server(net.get());
  std::atomic<bool> over = false;
  std::atomic<int> clients = 0;
  std::thread flood([&] {
    for (int i = 0; !over; ++i) {
      server.Plague(i);
      ++clients;
    }
  });
  constexpr int kFrames = 2000;
  int missing = 0;
  for (int i = 0; i < kFrames || clients < 500; ++i) {
    if (i >= kFrames) {
      absl::SleepFor(absl::Milliseconds(1));
      continue;
    }
    const std::string text = absl::StrCat("frame ", i);
    WaitForRoom(1);
    Transmit(1, text);
    missing += wire_->Receive(kPatienceMs) != text;
  }
  over = true;
  flood.join();
  EXPECT_EQ(missing, 0);
  const BackendReport report = net->Report();
  for (const BackendVringReport& vring : report.vrings) {
    if (vring.queue != 1) continue;
    ASSERT_TRUE(vring.data_path.has_value());
    EXPECT_EQ(vring.data_path->packets, static_cast<uint64_t>(kFrames));
    EXPECT_TRUE(vring.data_path->drops.empty());
    EXPECT_EQ(vring.errors, 0u);
  }
  EXPECT_THAT(server.Ask(), HasSubstr(absl::StrCat("\"ok\":true")));
}

}  // namespace
}  // namespace vhost::control
