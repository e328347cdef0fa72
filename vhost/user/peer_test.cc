// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A front end against a back end that keeps what it is told: by UserBackend, as a device drives it.
#include "vhost/user/peer.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/fake_back_end.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/user/backend.h"

namespace vhost::user {
namespace {

using fakes::DriverRing;
using fakes::FakeBackEnd;
using fakes::GuestRam;
using kernel_abi::EventFd;
using std::chrono::milliseconds;
using Answer = FakeBackEnd::Answer;

constexpr VirtioFeatures kAcked{VirtioFeature::kVersion1, VirtioFeature::kEventIdx};

size_t OpenFds() {
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

class PeerTest : public testing::Test {
 protected:
  static constexpr int kQueues = 2;

  PeerTest()
      : path_(testing::TempDir() + "peer-" + std::to_string(getpid()) + ".sock"),
        back_end_(std::make_unique<FakeBackEnd>(FakeBackEnd::Options{.path = path_})) {
    options_.socket = path_;
    options_.queues = kQueues;
    options_.config_bytes = 60;
    options_.features = kAcked;
    options_.first_retry = milliseconds(1);
    options_.longest_retry = milliseconds(5);
    options_.request_timeout = std::chrono::seconds(60);
    options_.stop_timeout = std::chrono::seconds(60);
    for (int i = 0; i < kQueues; ++i) {
      rings_.push_back(std::make_unique<DriverRing>(ram_, DriverRing::Options{.size = 16}));
      kicks_.push_back(*EventFd::Create(kernel_));
      calls_.push_back(*EventFd::Create(kernel_));
    }
  }

  void Connect() {
    auto peer = Peer::Create(kernel_, options_);
    ASSERT_TRUE(peer.ok()) << peer.status();
    peer_ = *peer;
    backend_ = std::make_unique<UserBackend>(peer_);
  }
  BackendVring VringOf(int queue, VringBase base = 0) const {
    const size_t i = static_cast<size_t>(queue);
    return {.queue = queue,
            .vring = *Vring::Create(rings_[i]->setup(), VringLayout::kSplit, *ram_.table()),
            .base = base,
            .kick_fd = kicks_[i].get(),
            .call_fd = calls_[i].get()};
  }
  BackendStart StartOf(VringBase base = 0) const {
    return {
        .acked = kAcked, .memory = ram_.table(), .vrings = {VringOf(0, base), VringOf(1, base)}};
  }
  // Words that other threads look at as well.
  static std::atomic_ref<uint16_t> Word(std::byte* at) {
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at));
  }
  // As if the back end had used `count` buffers.
  void Use(int queue, uint16_t count) {
    const VringSetup& setup = rings_[static_cast<size_t>(queue)]->setup();
    Word(ram_.Host(setup.device) + 2).store(count);
  }
  // Until the connection that there is serves both rings.
  void AwaitServing() {
    ASSERT_TRUE(back_end_->AwaitServing(0));
    ASSERT_TRUE(back_end_->AwaitServing(1));
  }

  kernel_abi::Kernel& kernel_ = kernel_abi::LinuxKernel();
  const std::string path_;
  GuestRam ram_{GuestRam::kDefaultBytes, GuestRam::kDefaultStart, /*shared=*/true};
  std::vector<std::unique_ptr<DriverRing>> rings_;
  std::vector<EventFd> kicks_;
  std::vector<EventFd> calls_;
  PeerOptions options_;
  std::unique_ptr<FakeBackEnd> back_end_;
  std::shared_ptr<Peer> peer_;
  std::unique_ptr<UserBackend> backend_;
};

TEST_F(PeerTest, ABackEndIsAskedInTheOrderOfTheKernels) {
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  ASSERT_TRUE(back_end_->Await([](const auto& state) { return state.status == 15; }));
  const std::vector<std::string> expected = {
      "GET_FEATURES", "SET_OWNER", "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES",
      "GET_QUEUE_NUM", "GET_MAX_MEM_SLOTS", "SET_BACKEND_REQ_FD", "GET_CONFIG",
      // DRIVER_OK
      "SET_FEATURES", "SET_MEM_TABLE", "SET_STATUS", "GET_STATUS", "GET_INFLIGHT_FD",
      "SET_INFLIGHT_FD", "SET_VRING_NUM", "SET_VRING_ADDR", "SET_VRING_ERR", "SET_VRING_NUM",
      "SET_VRING_ADDR", "SET_VRING_ERR", "SET_VRING_BASE", "SET_VRING_CALL", "SET_VRING_KICK",
      "SET_VRING_BASE", "SET_VRING_CALL", "SET_VRING_KICK", "SET_VRING_ENABLE", "SET_VRING_ENABLE",
      "SET_STATUS"};
  EXPECT_EQ(back_end_->requests(), expected);
  EXPECT_TRUE(kicks_[0].IsSignalled());
  EXPECT_TRUE(calls_[1].IsSignalled());
  EXPECT_TRUE(back_end_->Await([&](const auto& state) {
    return state.features == (kAcked.low() | uint64_t{1} << kProtocolFeaturesBit) &&
           state.memory.size() == 1 && state.memory[0].guest_address == GuestRam::kDefaultStart &&
           state.memory[0].user_address ==
               reinterpret_cast<uintptr_t>(ram_.Host(GuestAddress{GuestRam::kDefaultStart}));
  }));
}

TEST_F(PeerTest, AStopReturnsWhereTheBackEndStandsAndAStartGoesOnThere) {
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  back_end_->SetBase(0, 7);
  Use(0, 7);
  const std::vector<StoppedVring> stopped = backend_->Stop();
  ASSERT_EQ(stopped.size(), 2U);
  EXPECT_EQ(stopped[0].base, 7U);
  EXPECT_EQ(stopped[1].base, 0U);
  BackendStart again = StartOf();
  again.vrings[0].base = 7;
  ASSERT_TRUE(backend_->Start(again).ok());
  AwaitServing();  // with addresses, which it had forgotten
  EXPECT_TRUE(back_end_->Await([](const auto& state) {
    return state.vrings.at(0).base == 7 && state.vrings.at(0).addresses.has_value();
  }));
}

TEST_F(PeerTest, AQueueStopsAndStartsAlone) {
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  const auto base = backend_->StopVring(1);
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_TRUE(back_end_->Await(
      [](const auto& state) { return state.vrings.at(0).enabled && !state.vrings.at(1).enabled; }));
  EXPECT_FALSE(backend_->StopVring(1).ok());
  ASSERT_TRUE(backend_->StartVring(VringOf(1)).ok());
  AwaitServing();
}

TEST_F(PeerTest, WhatAPeerLeftInFlightIsHandedToTheNext) {
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  Use(0, 3);
  back_end_->Die();
  ASSERT_TRUE(peer_->error_fd(0) >= 0);
  back_end_->Listen();
  AwaitServing();
  EXPECT_TRUE(back_end_->Await([](const auto& state) {
    return state.connections == 2 && state.inflight_made == 1 && state.inflight_given == 2 &&
           state.vrings.at(0).base == 3;
  }));
  // All is as it was, for a driver that noticed nothing.
  EXPECT_EQ(backend_->Stop()[0].base, 3U);
  EXPECT_EQ(peer_->report().connections, 2U);
}

// One that notes nothing, and has used what it took out of order.
TEST_F(PeerTest, WhatAPeerDidNotNoteIsKnownHere) {
  back_end_->Die();
  back_end_ = std::make_unique<FakeBackEnd>(
      FakeBackEnd::Options{.path = path_, .protocol = 0x0'e23f});  // no INFLIGHT_SHMFD
  options_.track_in_flight = true;
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  EXPECT_TRUE(back_end_->Await([](const auto& state) {
    return state.memory.size() == 2 && (state.features & uint64_t{1} << 29) == 0;
  }));
  std::vector<uint16_t> heads;
  for (int i = 0; i < 4; ++i) heads.push_back(rings_[0]->Chain().Readable("request").Publish());
  kicks_[0].Signal();
  // The second of them was used, and no other.
  const VringSetup& setup = rings_[0]->setup();
  const kernel_abi::VirtqUsedElem used{.id = heads[1], .len = 0};
  const auto copied = [&] {
    const GuestAddress event{Value(setup.device) + 4 + 8 * setup.size};
    return Word(ram_.Host(event)).load() == 4;
  };
  while (!copied()) usleep(1000);
  memcpy(ram_.Host(setup.device) + 4, &used, sizeof(used));
  Use(0, 1);
  back_end_->Die();
  back_end_->Listen();
  AwaitServing();
  // The next one begins behind it, and finds the other three.
  uint64_t avail = 0;
  ASSERT_TRUE(back_end_->Await([&](const auto& state) {
    avail = state.vrings.at(0).addresses->avail;
    return state.vrings.at(0).base == 1;
  }));
  auto* ring = reinterpret_cast<std::byte*>(avail);
  EXPECT_NE(ring, ram_.Host(setup.driver));
  const auto word = [&](size_t index) { return Word(ring + 2 * index).load(); };
  EXPECT_EQ(word(1), 4);
  EXPECT_EQ((std::vector<uint16_t>{word(2 + 1), word(2 + 2), word(2 + 3)}),
            (std::vector<uint16_t>{heads[0], heads[2], heads[3]}));
  back_end_->SetBase(0, 1);
  EXPECT_EQ(backend_->Stop()[0].base, 1U);
}

TEST_F(PeerTest, AStartWithoutAPeerIsServedByTheOneThatComes) {
  Connect();
  back_end_->Die();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  EXPECT_TRUE(backend_->Report().running);
  back_end_->Listen();
  AwaitServing();
}

TEST_F(PeerTest, AStopWithoutAPeerReturnsTheUsedIndex) {
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  Use(1, 5);
  back_end_->Die();
  const std::vector<StoppedVring> stopped = backend_->Stop();
  ASSERT_EQ(stopped.size(), 2U);
  EXPECT_EQ(stopped[1].base, 5U);
}

// Whatever a peer does instead of what it should, and at whichever request: it is let go, nothing
// is held, and the next one serves.
TEST_F(PeerTest, APeerThatGoesWrongAtAnyRequestIsLetGo) {
  for (const Answer wrong : {Answer::kClose, Answer::kGarbage, Answer::kAnother}) {
    const size_t before = OpenFds();
    for (int at = 1;; at += 3) {
      bool happened = false;
      Connect();
      const int asked = static_cast<int>(back_end_->requests().size());
      ASSERT_TRUE(backend_->Start(StartOf()).ok());
      AwaitServing();
      // At the `at`-th request from the restart on.
      back_end_->set_answer([&](int number, const std::string&) {
        if (happened || number < asked + at) return Answer::kRight;
        happened = true;
        return wrong;
      });
      back_end_->Disconnect();
      ASSERT_TRUE(back_end_->Await([&](const auto& state) {
        return static_cast<int>(state.requests.size()) > asked + 20 + at;
      }));
      AwaitServing();
      back_end_->set_answer(nullptr);
      EXPECT_EQ(backend_->Stop().size(), 2U);
      backend_.reset();
      peer_.reset();
      if (at >= 28) break;
    }
    back_end_->Disconnect();
    EXPECT_TRUE(back_end_->Await([](const auto& state) { return state.vrings.empty(); }));
    EXPECT_LE(OpenFds(), before + 1);
  }
}

TEST_F(PeerTest, AStalledPeerKeepsNobodyWaiting) {
  options_.stop_timeout = milliseconds(20);
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  Use(0, 2);
  back_end_->set_answer([](int, const std::string&) { return Answer::kNothing; });
  // Would wait for ever (request_timeout is a minute), were they to wait for it.
  peer_->WriteConfig(0, std::vector<std::byte>(1));
  EXPECT_EQ(peer_->config().size(), 60U);
  const std::vector<StoppedVring> stopped = backend_->Stop();
  ASSERT_EQ(stopped.size(), 2U);
  EXPECT_EQ(stopped[0].base, 2U);
  // It is connected to again, and stalls again; a start does not wait either.
  ASSERT_TRUE(backend_->Start(StartOf(2)).ok());
  EXPECT_EQ(backend_->Stop()[0].base, 2U);
  back_end_->set_answer(nullptr);
}

TEST_F(PeerTest, APeerThatKeepsWhatItTookIsCutOff) {
  options_.stop_timeout = milliseconds(20);
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  back_end_->SetBase(0, 4);  // took four, used three
  Use(0, 3);
  EXPECT_EQ(backend_->Stop()[0].base, 3U);
  EXPECT_TRUE(back_end_->Await([](const auto& state) { return state.connections == 2; }));
}

TEST_F(PeerTest, ALossIsTold) {
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  back_end_->Disconnect();
  ASSERT_TRUE(back_end_->Await([](const auto& state) { return state.connections == 2; }));
  AwaitServing();
  EXPECT_FALSE(EventFd::IsEventFdSignalled(peer_->error_fd(0)));  // kWait
  EXPECT_TRUE(EventFd::IsEventFdSignalled(peer_->news_fd()));
  EXPECT_TRUE(peer_->TakeNews().connected.has_value());
}

TEST_F(PeerTest, ALossIsAFailureOfTheRingsWhereThePolicySaysSo) {
  options_.on_loss = OnLoss::kFail;
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  back_end_->Disconnect();
  ASSERT_TRUE(back_end_->Await([](const auto& state) { return state.connections == 2; }));
  EXPECT_TRUE(EventFd::IsEventFdSignalled(backend_->error_fd(0)));
  EXPECT_TRUE(EventFd::IsEventFdSignalled(backend_->error_fd(1)));
}

TEST_F(PeerTest, ANextPeerThatOffersLessIsNotTaken) {
  Connect();
  back_end_->Die();
  back_end_->set_offer(uint64_t{1} << 32 | uint64_t{1} << 30);
  back_end_->Listen();
  ASSERT_TRUE(back_end_->Await([](const auto& state) { return state.connections >= 3; }));
  const Peer::Report report = peer_->report();
  EXPECT_FALSE(report.connected);
  EXPECT_NE(report.why_not.find("VIRTIO_F_EVENT_IDX"), std::string::npos) << report.why_not;
  back_end_->Die();
  back_end_->set_offer(uint64_t{1} << 32 | uint64_t{1} << 30 | 0x3000'0000);
  back_end_->Listen();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
}

TEST_F(PeerTest, TheConfigurationSpaceFollowsTheBackEnds) {
  Connect();
  std::vector<std::byte> config(60);
  config[3] = std::byte{9};
  back_end_->ChangeConfig(config);
  while (!EventFd::IsEventFdSignalled(peer_->news_fd())) usleep(1000);
  EXPECT_TRUE(peer_->TakeNews().config_changed);
  EXPECT_EQ(peer_->config(), config);
  EXPECT_FALSE(EventFd::IsEventFdSignalled(peer_->news_fd()));
  const std::vector<std::byte> written = {std::byte{1}, std::byte{2}};
  peer_->WriteConfig(32, written);
  EXPECT_TRUE(back_end_->Await([](const auto& state) {
    return state.config[32] == std::byte{1} && state.config[33] == std::byte{2};
  }));
}

TEST_F(PeerTest, MoreRegionsThanATableHoldsGoOneByOne) {
  Connect();
  std::vector<MemoryRegion> regions;
  const MemoryRegion whole = ram_.region();
  // Every other page, so that none can be joined.
  constexpr uint64_t kPage = 4096;
  regions.push_back(
      {.start = whole.start, .size = whole.size / 2, .host = whole.host, .memfd = whole.memfd});
  for (uint64_t i = 0; i < 10; ++i) {
    const uint64_t offset = whole.size / 2 + (2 * i + 1) * kPage;
    regions.push_back({.start = GuestAddress{Value(whole.start) + offset},
                       .size = kPage,
                       .host = whole.host + offset,
                       .memfd = whole.memfd,
                       .memfd_offset = offset});
  }
  const auto table = std::make_shared<const MemoryTable>(*MemoryTable::Create(regions));
  BackendStart start = StartOf();
  start.memory = table;
  ASSERT_TRUE(backend_->Start(start).ok());
  AwaitServing();
  EXPECT_TRUE(back_end_->Await([](const auto& state) { return state.memory.size() == 11; }));
  // One goes while the rings run.
  regions.pop_back();
  const auto fewer = std::make_shared<const MemoryTable>(*MemoryTable::Create(regions));
  ASSERT_TRUE(backend_->SetMemory(fewer).ok());
  EXPECT_TRUE(back_end_->Await([](const auto& state) { return state.memory.size() == 10; }));
  ASSERT_TRUE(backend_->SetMemory(ram_.table()).ok());
  EXPECT_TRUE(back_end_->Await([](const auto& state) { return state.memory.size() == 1; }));
}

TEST_F(PeerTest, AnonymousMemoryIsRefusedWithWhatToDo) {
  Connect();
  GuestRam anonymous(GuestRam::kDefaultBytes, GuestRam::kDefaultStart);
  const absl::Status status = backend_->CheckMemory(*anonymous.table());
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("memfd"), absl::string_view::npos);
}

TEST_F(PeerTest, ARefusedMemoryTableEndsTheConnectionAndNotTheDevice) {
  Connect();
  int refusals = 0;
  back_end_->set_answer([&](int, const std::string& request) {
    return request == "SET_MEM_TABLE" && refusals++ == 0 ? Answer::kRefuse : Answer::kRight;
  });
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  AwaitServing();
  EXPECT_TRUE(back_end_->Await([](const auto& state) { return state.connections == 2; }));
  back_end_->set_answer(nullptr);
}

TEST_F(PeerTest, WhatCannotBeIsRefusedBeforeTheGuestRuns) {
  const auto refusal = [&](FakeBackEnd::Options back_end) {
    back_end_->Die();
    back_end.path = path_;
    back_end_ = std::make_unique<FakeBackEnd>(back_end);
    const auto peer = Peer::Create(kernel_, options_);
    return peer.ok() ? std::string("none") : std::string(peer.status().message());
  };
  constexpr uint64_t kProtocol = uint64_t{1} << 30;
  EXPECT_NE(refusal({.features = kProtocol}).find("VIRTIO_F_VERSION_1"), std::string::npos);
  EXPECT_NE(refusal({.queues = 1}).find("serves 1 queues, not 2"), std::string::npos);
  EXPECT_NE(refusal({.protocol = 9}).find("PROTOCOL_F_CONFIG"), std::string::npos);
  EXPECT_EQ(refusal({}), "none");
  back_end_->Die();
  EXPECT_FALSE(Peer::Create(kernel_, options_).ok());  // nobody there
}

TEST_F(PeerTest, ABackEndWithoutProtocolFeaturesServes) {
  back_end_->Die();
  back_end_ = std::make_unique<FakeBackEnd>(
      FakeBackEnd::Options{.path = path_, .features = uint64_t{1} << 32 | 0x2000'0000});
  options_.config_bytes = 0;
  Connect();
  ASSERT_TRUE(backend_->Start(StartOf()).ok());
  ASSERT_TRUE(back_end_->Await([](const auto& state) {
    return state.vrings.size() == 2 && state.vrings.at(1).kick.valid();
  }));
  EXPECT_EQ(std::ranges::count(back_end_->requests(), "SET_VRING_ENABLE"), 0);
  EXPECT_EQ(backend_->Stop().size(), 2U);
}

TEST_F(PeerTest, ABackEndMayConnectToUs) {
  back_end_->Die();
  options_.server = true;
  options_.connect_timeout = milliseconds(1);
  EXPECT_TRUE(absl::IsUnavailable(Peer::Create(kernel_, options_).status()));
}

TEST_F(PeerTest, TheMtuIsToldToANetworkBackEnd) {
  options_.id = DeviceId::kNet;
  options_.config_bytes = 0;
  options_.mtu = 1400;
  Connect();
  EXPECT_TRUE(back_end_->Await([](const auto& state) { return state.mtu == 1400; }));
}

}  // namespace
}  // namespace vhost::user
