// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/net_backend.h"

#include <gmock/gmock.h>

#include <cerrno>

#include "kernel-abi/system_error.h"
#include "vhost/kernel/backend_fixture.h"

namespace vhost {
namespace {

using testing::HasSubstr;

class NetBackendTest : public BackendTest {};

TEST_F(NetBackendTest, HeaderSizeFollowsTheFeatures) {
  using enum VirtioFeature;
  EXPECT_EQ(NetBackend::HeaderBytes({}), 10);
  EXPECT_EQ(NetBackend::HeaderBytes({kNetMrgRxbuf}), 12);
  EXPECT_EQ(NetBackend::HeaderBytes({kVersion1}), 12);
  EXPECT_EQ(NetBackend::HeaderBytes({kVersion1, kNetHostUdpTunnelGso}), 24);
}

TEST_F(NetBackendTest, ATapWithAnotherHeaderIsRefusedBeforeItDropsEverything) {
  MakeQueues(2);
  MakeTap(1, /*header_bytes=*/10);
  auto net = *NetBackend::Create(kernel_, NetOptions());
  const absl::Status status = net->Start(AllQueues());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "tap0: its packet header has 10 bytes, and the features acked want 12: set it "
            "(TUNSETVNETHDRSZ) before the start");
}

TEST_F(NetBackendTest, ATapWithoutHeaderIsServedWithoutOffloads) {
  MakeQueues(2);
  MakeTap(1, 0, IFF_TAP | IFF_NO_PI);
  auto net = *NetBackend::Create(kernel_, NetOptions());
  BackendStart start = AllQueues();
  start.acked.Set(VirtioFeature::kNetGuestTso4);
  EXPECT_THAT(net->Start(start).message(),
              HasSubstr("without IFF_VNET_HDR, so it cannot tell of VIRTIO_NET_F_GUEST_TSO4"));
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  EXPECT_TRUE(VhostFeatures::FromWords(vhost().features()).Has(VhostFeature::kNetVirtioNetHdr));
}

TEST_F(NetBackendTest, ATunIsRefused) {
  MakeQueues(2);
  MakeTap(1, 0, IFF_TUN | IFF_NO_PI);
  auto net = *NetBackend::Create(kernel_, NetOptions());
  EXPECT_THAT(net->Start(AllQueues()).message(), HasSubstr("tap0: is a TUN"));
}

TEST_F(NetBackendTest, AnFdThatIsNoTapIsRefusedWithItsNumber) {
  MakeQueues(2);
  NetBackendOptions options;
  options.tap_fds = {queues_[0]->kick.get()};
  auto net = *NetBackend::Create(kernel_, std::move(options));
  const absl::Status status = net->Start(AllQueues());
  EXPECT_THAT(status.message(), HasSubstr(" of queue pair 0 is not a TAP's"));
}

TEST_F(NetBackendTest, ATapFdWithoutInterfaceSaysSo) {
  MakeQueues(2);
  taps_.push_back(*kernel_abi::OpenNode(kernel_, kernel_abi::kTunPath));
  auto net = *NetBackend::Create(kernel_, NetOptions());
  const absl::Status status = net->Start(AllQueues());
  EXPECT_EQ(kernel_abi::GetErrno(status), EBADFD);
  EXPECT_THAT(status.message(), HasSubstr("is not attached to an interface (TUNSETIFF)"));
}

TEST_F(NetBackendTest, VhostFdsMustMatchTheTapQueues) {
  MakeTap(2);
  NetBackendOptions options = NetOptions();
  options.vhost_fds.push_back(*kernel_abi::OpenNode(kernel_, options.node));
  EXPECT_THAT(NetBackend::Create(kernel_, std::move(options)).status().message(),
              HasSubstr("1 vhost fds were handed in for 2 TAP queues"));
}

TEST_F(NetBackendTest, BusyPollingIsSetOncePerRing) {
  MakeQueues(2);
  MakeTap(1);
  NetBackendOptions options = NetOptions();
  options.busyloop_us = 50;
  auto net = *NetBackend::Create(kernel_, std::move(options));
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  EXPECT_EQ(vhost().vring(0).busyloop_us, 50u);
  EXPECT_EQ(vhost().vring(1).busyloop_us, 50u);
  EXPECT_EQ(net->Report().vrings[1].busyloop_us, 50u);
}

TEST_F(NetBackendTest, WideFeaturesAreAskedWhereTheKernelHasThem) {
  kernel_.mutable_options().major = 7;
  MakeQueues(2);
  MakeTap(1, 24);
  NetBackendOptions options = NetOptions();
  options.wide_features = true;
  auto net = *NetBackend::Create(kernel_, std::move(options));
  const VirtioFeatures tunnel = {VirtioFeature::kNetHostUdpTunnelGso};
  ASSERT_EQ(net->Supported(tunnel), tunnel);
  BackendStart start = AllQueues();
  start.acked = start.acked | tunnel;
  ASSERT_TRUE(net->Start(start).ok());
  EXPECT_EQ(vhost().features_high(), tunnel.high());
}

TEST_F(NetBackendTest, WideFeaturesOfAnOldKernelAreNone) {
  MakeTap(1);
  NetBackendOptions options = NetOptions();
  options.wide_features = true;
  auto net = *NetBackend::Create(kernel_, std::move(options));
  EXPECT_TRUE(net->Supported({VirtioFeature::kNetHostUdpTunnelGso}).empty());
  EXPECT_EQ(net->Supported(kPlainFeatures), kPlainFeatures);
}

TEST_F(NetBackendTest, LentTapsStayOpen) {
  std::unique_ptr<NetBackend> net = MakeNet(2);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  net.reset();
  EXPECT_EQ(kernel_.Survivors().tun_queues, 2);
}

}  // namespace
}  // namespace vhost
