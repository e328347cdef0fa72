// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What is particular to the net backend of this process, on real TAPs: what it offers, its threads
// and engines, and a TAP that goes. What all net backends promise is in
// tests/integration/net_contract_test.cc.
#include "vhost/inprocess/net_backend.h"

#include <gmock/gmock.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/integration/failing_kernel.h"
#include "vhost/inprocess/net_backend_fixture.h"

namespace vhost::inprocess {
namespace {

using namespace std::chrono_literals;
using enum VirtioFeature;
using testing::HasSubstr;
using testing::SizeIs;

TEST_F(InProcessNetTest, OffersWhatItCanServe) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  const VirtioFeatures own = kModern | kAllToHost | kAllToGuest |
                             VirtioFeatures{kNetMrgRxbuf, kNetMq, kNetCtrlVq, kRingReset};
  EXPECT_EQ(net->Supported(own), own);
  EXPECT_TRUE(net->Supported({kAccessPlatform, kNotifyOnEmpty, kNotificationData, kAdminVq,
                              kNetHostUdpTunnelGso})
                  .empty());
}

// ---- Engines -----------------------------------------------------------------------------------

TEST_F(InProcessNetTest, SaysWhichEngineItUsesAndWhy) {
  const std::pair<IoEngine, const char*> cases[] = {{IoEngine::kAuto, "auto: "},
                                                    {IoEngine::kSyscall, "asked for"}};
  for (const auto& [engine, reason] : cases) {
    io_engine_ = engine;
    auto net = MakeNet();
    ASSERT_NE(net, nullptr);
    EXPECT_EQ(net->Report().io_engine, "syscall");
    EXPECT_THAT(net->Report().io_engine_reason, HasSubstr(reason));
  }
}

TEST_F(InProcessNetTest, WithoutIoUringItWorksAllTheSameAndSaysWhy) {
  MakeTap(1);
  ASSERT_FALSE(HasFatalFailure());
  AddQueue(256);
  AddQueue(256);
  FailingKernel kernel(kernel_);  // Has none: ENOSYS.
  auto net = InProcessNetBackend::Create(
      kernel, InProcessNetOptions{.tap_fds = tap_->fds(), .io_engine = IoEngine::kIoUring});
  ASSERT_TRUE(net.ok()) << net.status();
  const BackendReport report = (*net)->Report();
  EXPECT_EQ(report.io_engine, "syscall");
  EXPECT_THAT(report.io_engine_reason, HasSubstr("io_uring was asked for"));
  EXPECT_THAT(report.io_engine_reason, HasSubstr("ENOSYS"));
  ASSERT_TRUE((*net)->Start(AllQueues(kAcked)).ok());
  ExpectStillSends();
}

TEST_F(InProcessNetTest, TellsWhereItStandsInItsRings) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  EXPECT_FALSE(net->Position(1).has_value());
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  Transmit(1, "one");
  Transmit(1, "two");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "one");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "two");
  EXPECT_TRUE(Wait([&] { return net->Position(1)->returned == 2; }));
  EXPECT_EQ(net->Position(1)->base, 2u);
  EXPECT_FALSE(net->Position(2).has_value());
}

// ---- The TAP -----------------------------------------------------------------------------------

void DeleteLink(int index) {
  const kernel_abi::UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request{};
  request.header = {.nlmsg_len = sizeof(request),
                    .nlmsg_type = RTM_DELLINK,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK};
  request.link.ifi_index = index;
  ASSERT_EQ(::send(socket.get(), &request, sizeof(request), 0),
            static_cast<ssize_t>(sizeof(request)));
  char answer[256];
  ASSERT_GT(::recv(socket.get(), answer, sizeof(answer), 0), 0);
}

TEST_F(InProcessNetTest, ATapThatGoesIsAnErrorOfBothQueuesAndNobodySpins) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  auto links = Links::Open();
  DeleteLink(links->Get("tapvhost")->index);
  for (const int queue : {0, 1}) {
    EXPECT_TRUE(
        Wait([&] { return kernel_abi::EventFd::IsEventFdSignalled(net->error_fd(queue)); }));
    EXPECT_THAT(net->Report().vrings[static_cast<size_t>(queue)].problem,
                HasSubstr("the TAP is gone"));
  }
  const uint64_t before = *net->Report().workers[0].cpu_time_ns;
  for (int i = 0; i < 100; ++i) Kick(1);
  std::this_thread::sleep_for(100ms);
  EXPECT_LT(*net->Report().workers[0].cpu_time_ns - before, 3'000'000u);
  EXPECT_THAT(net->Stop(), SizeIs(2));
}

TEST_F(InProcessNetTest, FramesForAnInterfaceThatIsDownAreDropped) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  auto links = Links::Open();
  ASSERT_TRUE(links->SetUp("tapvhost", false).ok());
  Transmit(1, "to nobody");
  ExpectDrops(*net, 1, NetDrop::kLinkDown, 1);
  EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
  ASSERT_TRUE(links->SetUp("tapvhost", true).ok());
  wire_.emplace(links->Get("tapvhost")->index);  // The old one has an error to tell.
  ExpectStillSends();
}

// ---- Threads -----------------------------------------------------------------------------------

TEST_F(InProcessNetTest, ManyPairsShareAThreadThatWasHandedIn) {
  std::shared_ptr<DataThread> thread = *DataThread::Create(kernel_, {.name = "shared"});
  auto net = MakeNet(3, {.thread = thread});
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  for (int pair = 0; pair < 3; ++pair) {
    Transmit(2 * pair + 1, absl::StrCat("pair ", pair));
    EXPECT_EQ(wire_->Receive(kPatienceMs), absl::StrCat("pair ", pair));
  }
  const BackendReport report = net->Report();
  ASSERT_THAT(report.workers, SizeIs(1));
  EXPECT_EQ(report.workers[0].name, "shared");
  EXPECT_THAT(report.workers[0].queues, testing::ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(report.vrings[1].data_path->packets, 1u);
}

TEST_F(InProcessNetTest, EachPairHasAThreadOfItsOwn) {
  auto net = MakeNet(2, {.thread_options = {.name = "net", .placement = {.cpus = {0}}}});
  ASSERT_NE(net, nullptr);
  const BackendReport report = net->Report();
  ASSERT_THAT(report.workers, SizeIs(2));
  EXPECT_EQ(report.workers[0].name, "net-0");
  EXPECT_EQ(report.workers[1].name, "net-1");
  EXPECT_EQ(report.workers[1].affinity, "0");
}

}  // namespace
}  // namespace vhost::inprocess
