// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/host/link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <cerrno>
#include <cstdlib>

#include "kernel-abi/kernel.h"
#include "kernel-abi/system_error.h"
#include "vhost/host/network_namespace_fixture.h"
#include "vhost/host/tap.h"

namespace vhost {
namespace {

using testing::HasSubstr;

class LinkTest : public NetworkNamespaceTest {
 protected:
  void SetUp() override {
    NetworkNamespaceTest::SetUp();
    if (IsSkipped()) return;
    links_.emplace(*Links::Open());
    auto tap = Tap::Create(kernel_abi::LinuxKernel(), {.name = "taplink"});
    ASSERT_TRUE(tap.ok()) << tap.status();
    tap_ = *std::move(tap);
  }
  static bool Readable(const LinkWatch& watch) {
    pollfd poll_fd{.fd = watch.fd(), .events = POLLIN, .revents = 0};
    return ::poll(&poll_fd, 1, 5000) == 1;
  }
  // Only the kernel's own modules may be missing for it.
  bool MakeBridge(const char* name) {
    return std::system((std::string("ip link add ") + name + " type bridge 2>/dev/null").c_str()) ==
           0;
  }

  std::optional<Links> links_;
  std::unique_ptr<Tap> tap_;
};

TEST_F(LinkTest, TellsAndChangesStateAndMtu) {
  absl::StatusOr<LinkState> state = links_->Get("taplink");
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_FALSE(state->up);
  EXPECT_EQ(state->mtu, 1500);
  ASSERT_TRUE(links_->SetUp("taplink", true).ok());
  ASSERT_TRUE(links_->SetMtu("taplink", 9000).ok());
  state = links_->Get(state->index);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_TRUE(state->up);
  EXPECT_EQ(state->mtu, 9000);
  EXPECT_EQ(state->name, "taplink");
  ASSERT_TRUE(links_->SetUp("taplink", false).ok());
  EXPECT_FALSE(links_->Get("taplink")->up);
}

TEST_F(LinkTest, AnInterfaceThatIsNotThereIsNamed) {
  const absl::Status status = links_->Get("nosuch").status();
  EXPECT_EQ(kernel_abi::GetErrno(status), ENODEV);
  EXPECT_THAT(status.message(), HasSubstr("nosuch: RTM_GETLINK"));
  EXPECT_THAT(status.message(), HasSubstr("there is no such interface"));
  EXPECT_FALSE(links_->SetMtu("taplink", 1).ok());
}

TEST_F(LinkTest, JoinsAndLeavesABridge) {
  if (!MakeBridge("br0")) GTEST_SKIP() << "skipped: no bridge module";
  EXPECT_THAT(links_->SetBridge("taplink", "lo").message(), HasSubstr("lo: is not a bridge"));
  ASSERT_TRUE(links_->SetBridge("taplink", "br0").ok());
  EXPECT_EQ(links_->Get("taplink")->master, links_->Get("br0")->index);
  ASSERT_TRUE(links_->SetBridge("taplink", "").ok());
  EXPECT_EQ(links_->Get("taplink")->master, 0);
}

TEST_F(LinkTest, AWatchTellsOfChangesAndOfTheEnd) {
  auto watch = LinkWatch::Create("taplink");
  ASSERT_TRUE(watch.ok()) << watch.status();
  EXPECT_FALSE((*watch)->Read());
  ASSERT_TRUE(links_->SetUp("taplink", true).ok());
  ASSERT_TRUE(Readable(**watch));
  EXPECT_TRUE((*watch)->Read());
  ASSERT_TRUE((*watch)->state().has_value());
  EXPECT_TRUE((*watch)->state()->up);
  tap_.reset();
  ASSERT_TRUE(Readable(**watch));
  EXPECT_TRUE((*watch)->Read());
  EXPECT_FALSE((*watch)->state().has_value());
  EXPECT_EQ(LinkWatch::Create("taplink").status().code(), links_->Get("taplink").status().code());
}

}  // namespace
}  // namespace vhost
