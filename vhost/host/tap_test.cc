// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// TapTest is about what this library does with a TAP, on the fake kernel; RealTapTest shows that
// Linux is as the fake has it, where it matters most.
#include "vhost/host/tap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "kernel-abi/node.h"
#include "kernel-abi/system_error.h"
#include "tests/fakes/fake_kernel.h"
#include "vhost/host/network_namespace_fixture.h"

namespace vhost {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr unsigned kTapFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
constexpr unsigned kSegmentation =
    kernel_abi::kTunFCsum | kernel_abi::kTunFTso4 | kernel_abi::kTunFTso6 | kernel_abi::kTunFTsoEcn;
constexpr unsigned kUso = kernel_abi::kTunFUso4 | kernel_abi::kTunFUso6;

class TapTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Tap>> Create(TapOptions options) {
    return Tap::Create(kernel_, std::move(options));
  }
  absl::Status Refusal(TapOptions options) { return Create(std::move(options)).status(); }

  fakes::FakeKernel kernel_;
};

TEST_F(TapTest, IsMadeAndGoesAway) {
  auto tap = Create({.name = "tap7"});
  ASSERT_TRUE(tap.ok()) << tap.status();
  EXPECT_EQ((*tap)->name(), "tap7");
  EXPECT_FALSE((*tap)->was_there_before());
  EXPECT_THAT((*tap)->fds(), SizeIs(1));
  tap->reset();
  EXPECT_EQ(kernel_.Survivors(), fakes::OpenState{});
}

TEST_F(TapTest, WithoutANameTheKernelChoosesOne) {
  auto first = Create({});
  auto second = Create({.name = "vm%d"});
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ((*first)->name(), "tap0");
  EXPECT_EQ((*second)->name(), "vm0");
}

TEST_F(TapTest, HasTheHeaderOfAModernDriverAndAFiniteSndbuf) {
  auto tap = Create({.name = "tap0"});
  EXPECT_EQ(kernel_.interface("tap0")->vnet_header_bytes, 12);
  EXPECT_EQ(kernel_.interface("tap0")->sndbuf, kDefaultSndbufBytes);
  EXPECT_EQ(kernel_.interface("tap0")->offloads, 0u);
  ASSERT_TRUE((*tap)->SetHeaderBytes(10).ok());
  EXPECT_EQ(kernel_.interface("tap0")->vnet_header_bytes, 10);
}

TEST_F(TapTest, SndbufCanBeUnlimited) {
  auto tap = Create({.name = "tap0", .sndbuf_bytes = kUnlimitedSndbuf});
  EXPECT_EQ(kernel_.interface("tap0")->sndbuf, kUnlimitedSndbuf);
  EXPECT_EQ((*tap)->Report().sndbuf_bytes, kUnlimitedSndbuf);
  EXPECT_EQ(Refusal({.name = "tap1", .sndbuf_bytes = 0}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(TapTest, OffloadsAreThoseThatTheKernelHas) {
  kernel_.mutable_options().minor = 1;
  auto old = Create({.name = "tap0"});
  EXPECT_EQ((*old)->supported_offloads(), kSegmentation);
  EXPECT_FALSE((*old)->takes_uso());
  kernel_.mutable_options().minor = 12;
  auto newer = Create({.name = "tap1"});
  EXPECT_EQ((*newer)->supported_offloads(), kSegmentation | kUso);
  EXPECT_TRUE((*newer)->takes_uso());
  EXPECT_THAT((*old)->SetOffloads(kernel_abi::kTunFCsum | kUso).message(),
              HasSubstr("tap0: has no USO4 USO6 to offer"));
}

TEST_F(TapTest, ReportTellsWhatIsSet) {
  auto tap = Create({.name = "tap0", .queues = 3});
  ASSERT_TRUE((*tap)->SetOffloads(kernel_abi::kTunFCsum | kernel_abi::kTunFTso4).ok());
  ASSERT_TRUE((*tap)->SetQueueAttached(2, false).ok());
  TapReport report = (*tap)->Report();
  EXPECT_EQ(report.queues, 3);
  EXPECT_EQ(report.active_queues, 2);
  EXPECT_THAT(report.offloads, ElementsAre("CSUM", "TSO4"));
  EXPECT_FALSE(report.mtu.has_value());
  ASSERT_TRUE((*tap)->SetOffloads(0).ok());
  EXPECT_THAT((*tap)->Report().offloads, IsEmpty());
}

TEST_F(TapTest, QueuesAreDetachedAndAttached) {
  auto tap = Create({.name = "tap0", .queues = 2});
  ASSERT_TRUE((*tap)->SetQueueAttached(0, false).ok());
  ASSERT_TRUE((*tap)->SetQueueAttached(0, false).ok());
  EXPECT_EQ(kernel_.interface("tap0")->queues, 1);
  // The interface is asked through a queue that is still attached.
  EXPECT_TRUE((*tap)->SetOffloads(kernel_abi::kTunFCsum).ok());
  ASSERT_TRUE((*tap)->SetQueueAttached(0, true).ok());
  EXPECT_EQ(kernel_.interface("tap0")->queues, 2);
  EXPECT_EQ((*tap)->SetQueueAttached(2, true).code(), absl::StatusCode::kInvalidArgument);
  auto single = Create({.name = "tap1"});
  EXPECT_TRUE((*single)->SetQueueAttached(0, false).ok());
  EXPECT_EQ((*single)->Report().active_queues, 1);
}

TEST_F(TapTest, ATapThatWasThereStaysAsFound) {
  kernel_.AddInterface("tap0", kTapFlags);
  {
    auto tap = Create({.name = "tap0", .sndbuf_bytes = 4096, .owner = 1000});
    ASSERT_TRUE(tap.ok()) << tap.status();
    EXPECT_TRUE((*tap)->was_there_before());
    ASSERT_TRUE((*tap)->SetOffloads(kSegmentation).ok());
    EXPECT_EQ(kernel_.interface("tap0")->vnet_header_bytes, 12);
  }
  const fakes::FakeInterface* after = kernel_.interface("tap0");
  ASSERT_NE(after, nullptr);
  EXPECT_EQ(after->vnet_header_bytes, 10);
  EXPECT_EQ(after->sndbuf, kUnlimitedSndbuf);
  EXPECT_EQ(after->offloads, 0u);
  EXPECT_EQ(after->owner, -1);
}

TEST_F(TapTest, OneMadeToStayStaysWithItsOwner) {
  {
    auto tap = Create({.name = "tap0", .owner = 1000, .group = 36, .persist = true});
    ASSERT_TRUE(tap.ok()) << tap.status();
  }
  const fakes::FakeInterface* after = kernel_.interface("tap0");
  ASSERT_NE(after, nullptr);
  EXPECT_EQ(after->owner, 1000);
  EXPECT_EQ(after->group, 36);
}

TEST_F(TapTest, FdsHandedInAreTakenOver) {
  auto original = Create({.name = "tap0", .queues = 2});
  TapOptions options;
  for (int queue = 0; queue < 2; ++queue) {
    options.fds.push_back(kernel_abi::UniqueFd(kernel_.Duplicate((*original)->fd(queue))));
  }
  auto tap = Create(std::move(options));
  ASSERT_TRUE(tap.ok()) << tap.status();
  EXPECT_EQ((*tap)->name(), "tap0");
  EXPECT_EQ((*tap)->queues(), 2);
  EXPECT_TRUE((*tap)->was_there_before());
}

TEST_F(TapTest, FdsOfTwoTapsAreRefused) {
  auto a = Create({.name = "tap0"});
  auto b = Create({.name = "tap1"});
  TapOptions options;
  options.fds.push_back(kernel_abi::UniqueFd(kernel_.Duplicate((*a)->fd(0))));
  options.fds.push_back(kernel_abi::UniqueFd(kernel_.Duplicate((*b)->fd(0))));
  EXPECT_THAT(Refusal(std::move(options)).message(),
              HasSubstr("is a queue of tap1, the one before it of tap0"));
}

TEST_F(TapTest, AnFdWithoutInterfaceSaysWhatIsMissing) {
  TapOptions options;
  options.fds.push_back(*kernel_abi::OpenNode(kernel_, kernel_abi::kTunPath));
  EXPECT_THAT(Refusal(std::move(options)).message(),
              HasSubstr("the fd is not attached to an interface (TUNSETIFF)"));
}

TEST_F(TapTest, ABusyTapIsCalledBusy) {
  auto tap = Create({.name = "tap0"});
  const absl::Status status = Refusal({.name = "tap0"});
  EXPECT_EQ(kernel_abi::GetErrno(status), EBUSY);
  EXPECT_THAT(status.message(), HasSubstr("tap0: TUNSETIFF"));
  EXPECT_THAT(status.message(), HasSubstr("somebody else has it open"));
}

TEST_F(TapTest, ManyQueuesOfASingleQueueTapAreExplained) {
  kernel_.AddInterface("tap0", kTapFlags);
  const absl::Status status = Refusal({.name = "tap0", .queues = 4});
  EXPECT_EQ(kernel_abi::GetErrno(status), EINVAL);
  EXPECT_THAT(status.message(),
              HasSubstr("it has one queue and 4 were asked for: make it with ip tuntap add dev "
                        "tap0 mode tap user $USER multi_queue"));
  EXPECT_EQ(kernel_.Survivors().tun_queues, 0);
}

TEST_F(TapTest, OneQueueOfAMultiQueueTapWillDo) {
  kernel_.AddInterface("tap0", kTapFlags | IFF_MULTI_QUEUE);
  EXPECT_TRUE(Create({.name = "tap0"}).ok());
}

TEST_F(TapTest, ATunIsCalledATun) {
  kernel_.AddInterface("tun0", IFF_TUN | IFF_NO_PI);
  EXPECT_THAT(Refusal({.name = "tun0"}).message(), HasSubstr("it is a TUN"));
}

TEST_F(TapTest, ANameTooLongIsRefusedByItsRule) {
  EXPECT_EQ(Refusal({.name = "a-name-that-is-too-long"}).message(),
            "`a-name-that-is-too-long` is no interface name: 1 to 15 characters, without `/` and "
            "spaces");
  EXPECT_THAT(Refusal({.name = "tap0", .queues = 300}).message(), HasSubstr("1 to 256"));
}

TEST_F(TapTest, AMissingPermissionSaysHowToHaveTheTapMade) {
  kernel_.mutable_options().cap_net_admin = false;
  const absl::Status status = Refusal({.name = "tap0", .queues = 2});
  EXPECT_EQ(kernel_abi::GetErrno(status), EPERM);
  EXPECT_THAT(status.message(),
              HasSubstr("ip tuntap add dev tap0 mode tap user $USER multi_queue"));
}

TEST_F(TapTest, AMissingModuleIsNamed) {
  kernel_.mutable_options().tun = false;
  EXPECT_THAT(Refusal({.name = "tap0"}).message(), HasSubstr("modprobe tun"));
}

TEST_F(TapTest, NothingSurvivesAFailureAtAnyStep) {
  for (int k = 1;; ++k) {
    ASSERT_LT(k, 100);
    kernel_.FailCall(k, ENOMEM);
    auto tap = Create({.name = "tap0", .queues = 2, .owner = 1000, .persist = true});
    if (!kernel_.FaultMet()) break;
    SCOPED_TRACE(kernel_.FaultText());
    if (tap.ok()) {
      // An offload probe that failed for another reason than that the kernel lacks the offload.
      EXPECT_THAT(kernel_.FaultText(), HasSubstr("TUNSETOFFLOAD"));
      tap->reset();
      kernel_.DeleteInterface("tap0");
    } else {
      EXPECT_EQ(kernel_abi::GetErrno(tap.status()), ENOMEM) << tap.status();
    }
    EXPECT_EQ(kernel_.Survivors(), fakes::OpenState{});
  }
}

class RealTapTest : public NetworkNamespaceTest {
 protected:
  kernel_abi::Kernel& kernel_ = kernel_abi::LinuxKernel();
};

TEST_F(RealTapTest, IsMadeWithQueuesAndOffloads) {
  auto tap = Tap::Create(kernel_, {.name = "tapreal", .queues = 2});
  ASSERT_TRUE(tap.ok()) << tap.status();
  EXPECT_EQ((*tap)->supported_offloads() & kSegmentation, kSegmentation);
  EXPECT_TRUE((*tap)->SetOffloads((*tap)->supported_offloads()).ok());
  EXPECT_TRUE((*tap)->SetQueueAttached(1, false).ok());
  EXPECT_TRUE((*tap)->SetHeaderBytes(10).ok());
  EXPECT_TRUE((*tap)->SetFilter(kernel_abi::MacFilter({{0x52, 0x54, 0, 0, 0, 1}}, true)).ok());
  auto links = Links::Open();
  ASSERT_TRUE(links.ok()) << links.status();
  const TapReport report = (*tap)->Report(&*links);
  EXPECT_EQ(report.active_queues, 1);
  EXPECT_EQ(report.mtu, 1500);
  EXPECT_EQ(report.link_up, false);
}

TEST_F(RealTapTest, RefusalsAreExplained) {
  auto tap = Tap::Create(kernel_, {.name = "tapbusy", .persist = true});
  ASSERT_TRUE(tap.ok()) << tap.status();
  EXPECT_THAT(Tap::Create(kernel_, {.name = "tapbusy"}).status().message(),
              HasSubstr("somebody else has it open"));
  tap->reset();
  EXPECT_THAT(Tap::Create(kernel_, {.name = "tapbusy", .queues = 2}).status().message(),
              HasSubstr("it has one queue and 2 were asked for"));
  EXPECT_THAT(Tap::Create(kernel_, {.name = "lo"}).status().message(),
              HasSubstr("an interface of that name is there which is no TAP"));
  // It is there again, as it was.
  auto again = Tap::Create(kernel_, {.name = "tapbusy"});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE((*again)->was_there_before());
}

}  // namespace
}  // namespace vhost
