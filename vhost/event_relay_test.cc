// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/event_relay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/fakes/manual_loop.h"
#include "vhost/epoll_loop.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

DeviceEvent Event(std::string device) {
  return {.device = std::move(device), .kind = EventKind::kStarted, .report = {}, .handover = {}};
}

TEST(EventRelayTest, DeliversInOrderOnTheLoop) {
  fakes::ManualLoop loop;
  std::vector<std::string> heard;
  const auto relay = *EventRelay::Create(
      kernel_abi::LinuxKernel(), loop,
      [&](const DeviceEvent& event, uint64_t) { heard.push_back(event.device); });
  relay->Post(Event("a"));
  relay->Post(Event("b"));
  EXPECT_THAT(heard, SizeIs(0));
  loop.Pump();
  EXPECT_THAT(heard, ElementsAre("a", "b"));
  EXPECT_EQ(loop.Pump(), 0);
}

TEST(EventRelayTest, AnObserverMayCauseEvents) {
  fakes::ManualLoop loop;
  int heard = 0;
  std::unique_ptr<EventRelay> relay =
      *EventRelay::Create(kernel_abi::LinuxKernel(), loop, [&](const DeviceEvent&, uint64_t) {
        if (++heard < 3) relay->Post(Event("again"));
      });
  relay->Post(Event("first"));
  loop.Pump();
  EXPECT_EQ(heard, 3);
}

TEST(EventRelayTest, DropsTheOldestAndSaysHowMany) {
  fakes::ManualLoop loop;
  std::vector<std::pair<std::string, uint64_t>> heard;
  const auto relay = *EventRelay::Create(kernel_abi::LinuxKernel(), loop,
                                         [&](const DeviceEvent& event, uint64_t dropped) {
                                           heard.emplace_back(event.device, dropped);
                                         });
  for (size_t i = 0; i < EventRelay::kMostPending + 5; ++i) relay->Post(Event(absl::StrCat(i)));
  loop.Pump();
  ASSERT_THAT(heard, SizeIs(EventRelay::kMostPending));
  EXPECT_EQ(heard[0], std::make_pair(std::string("5"), uint64_t{5}));
  EXPECT_EQ(heard[1], std::make_pair(std::string("6"), uint64_t{0}));
}

TEST(EventRelayTest, LosesNoneOfManyThreads) {
  std::atomic<int> heard = 0;
  const auto loop = *EpollLoop::Create();
  {
    const auto relay = *EventRelay::Create(
        kernel_abi::LinuxKernel(), *loop,
        [&](const DeviceEvent&, uint64_t dropped) { heard += 1 + static_cast<int>(dropped); });
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int k = 0; k < 200; ++k) relay->Post(Event("x"));
      });
    }
    threads.clear();
    for (int i = 0; i < 1000 && heard < 800; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  EXPECT_EQ(heard, 800);
}

TEST(EventRelayTest, EveryKindHasAName) {
  for (int kind = 0; kind <= static_cast<int>(EventKind::kLinkChanged); ++kind) {
    EXPECT_STRNE(Name(static_cast<EventKind>(kind)), "unknown");
  }
}

}  // namespace
}  // namespace vhost
