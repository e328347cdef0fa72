// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/tap_port.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "kernel-abi/tun.h"
#include "tests/fakes/fake_kernel.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const MacAddress kMac = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
const MacAddress kOther = {0x52, 0x54, 0, 0, 0, 2};
const MacAddress kGroup = {0x33, 0x33, 0, 0, 0, 1};
const MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

class TapPortTest : public ::testing::Test {
 protected:
  void Build(TapOptions options = {.name = "tap0"}) {
    auto tap = Tap::Create(kernel_, std::move(options));
    ASSERT_TRUE(tap.ok()) << tap.status();
    port_ = std::make_unique<TapPort>(*std::move(tap));
  }
  static ReceiveFilter Filter() {
    ReceiveFilter filter;
    filter.promiscuous = false;
    filter.mac = kMac;
    return filter;
  }
  const fakes::FakeInterface& Interface() { return *kernel_.interface("tap0"); }

  fakes::FakeKernel kernel_;
  std::unique_ptr<TapPort> port_;
};

TEST_F(TapPortTest, OffersWhatTheTapHas) {
  Build({.name = "tap0", .queues = 2});
  EXPECT_EQ(port_->queue_pairs(), 2);
  EXPECT_EQ(port_->to_guest(), (NetOffloads{.csum = true,
                                            .tso4 = true,
                                            .tso6 = true,
                                            .ecn = true,
                                            .ufo = false,
                                            .uso4 = true,
                                            .uso6 = true}));
  EXPECT_TRUE(port_->from_guest().uso4);
}

TEST_F(TapPortTest, OffersNoUsoOnAKernelWithoutIt) {
  kernel_.mutable_options().minor = 1;
  Build();
  EXPECT_TRUE(port_->to_guest().tso6);
  EXPECT_FALSE(port_->to_guest().uso4);
  EXPECT_FALSE(port_->from_guest().uso6);
}

TEST_F(TapPortTest, TurnsOnWhatWasAgreedAndUsoOnlyWhole) {
  Build();
  ASSERT_TRUE(port_->SetOffloads({.csum = true, .tso4 = true, .uso4 = true, .uso6 = true}).ok());
  EXPECT_EQ(Interface().offloads, kernel_abi::kTunFCsum | kernel_abi::kTunFTso4 |
                                      kernel_abi::kTunFUso4 | kernel_abi::kTunFUso6);
  ASSERT_TRUE(port_->SetOffloads({.csum = true, .uso4 = true}).ok());
  EXPECT_EQ(Interface().offloads, kernel_abi::kTunFCsum);
}

TEST_F(TapPortTest, FiltersByTheGuestsAddresses) {
  Build();
  ReceiveFilter filter = Filter();
  filter.unicast = {kOther};
  filter.multicast = {kGroup};
  EXPECT_THAT(port_->SetReceiveFilter(filter), HasSubstr("tap"));
  EXPECT_THAT(Interface().filter, ElementsAre(kMac, kOther, kBroadcast, kGroup));
  EXPECT_FALSE(Interface().filter_all_multicast);
  filter.no_broadcast = true;
  filter.all_multicast = true;
  port_->SetReceiveFilter(filter);
  EXPECT_THAT(Interface().filter, ElementsAre(kMac, kOther, kGroup));
  EXPECT_TRUE(Interface().filter_all_multicast);
}

TEST_F(TapPortTest, TakesTheFilterOffForADriverThatWantsEverything) {
  Build();
  port_->SetReceiveFilter(Filter());
  EXPECT_THAT(Interface().filter, SizeIs(2));
  EXPECT_THAT(port_->SetReceiveFilter(ReceiveFilter()), HasSubstr("nobody"));
  EXPECT_THAT(Interface().filter, IsEmpty());
}

TEST_F(TapPortTest, FiltersNothingThatTheKernelCannotTellApart) {
  Build();
  ReceiveFilter filter = Filter();
  for (uint8_t i = 0; i < 7; ++i) filter.unicast.push_back({0x52, 0x54, 1, 0, 0, i});
  EXPECT_EQ(port_->SetReceiveFilter(filter), "tap");  // Eight with its own.
  filter.unicast.push_back({0x52, 0x54, 1, 0, 0, 9});
  EXPECT_THAT(port_->SetReceiveFilter(filter), HasSubstr("nobody"));
  EXPECT_THAT(Interface().filter, IsEmpty());
  filter.unicast.clear();
  filter.unicast_overflow = true;
  EXPECT_THAT(port_->SetReceiveFilter(filter), HasSubstr("nobody"));
  // Any number of groups: those beyond are hashed.
  filter.unicast_overflow = false;
  for (uint8_t i = 0; i < 60; ++i) filter.multicast.push_back({0x33, 0x33, 0, 0, 1, i});
  EXPECT_THAT(port_->SetReceiveFilter(filter), HasSubstr("tap"));
  EXPECT_THAT(Interface().filter, SizeIs(62));
  // What a driver puts into the wrong table does not switch the filter off.
  filter.multicast = {kOther, kGroup};
  port_->SetReceiveFilter(filter);
  EXPECT_THAT(Interface().filter, ElementsAre(kMac, kBroadcast, kGroup));
}

TEST_F(TapPortTest, LeavesNoFilterBehindOnATapThatStays) {
  kernel_.AddInterface("tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
  Build();
  EXPECT_EQ(port_->SetReceiveFilter(Filter()), "tap");
  EXPECT_THAT(Interface().filter, SizeIs(2));
  port_.reset();
  EXPECT_THAT(Interface().filter, IsEmpty());
}

TEST_F(TapPortTest, SaysWhyAFilterCouldNotBeSet) {
  Build();
  kernel_.FailRequest("TUNSETTXFILTER", EINVAL);
  EXPECT_THAT(port_->SetReceiveFilter(Filter()), HasSubstr("nobody: tap0: TUNSETTXFILTER"));
}

}  // namespace
}  // namespace vhost
