// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/features.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vhost {
namespace {

using enum VirtioFeature;

// What vhost-net of Linux 6.12 offers (observed).
constexpr VhostFeatures kVhostNet612 = VhostFeatures::FromWords(0x1033d008000);

TEST(Features, WordsAndBitsAreTheSameThing) {
  const VirtioFeatures set = {kVersion1, kNetMac, kNetHostUdpTunnelGso};
  EXPECT_EQ(set.low(), (uint64_t{1} << 32) | (1 << 5));
  EXPECT_EQ(set.high(), uint64_t{1} << 3);
  EXPECT_THAT(set.bits(), ::testing::ElementsAre(5, 32, 67));
  EXPECT_TRUE(set.Has(kNetHostUdpTunnelGso));
  EXPECT_FALSE(set.Has(kNetMtu));
  EXPECT_TRUE(set.Contains({kVersion1}));
  EXPECT_FALSE(VirtioFeatures({kVersion1}).Contains(set));
}

TEST(Features, AnyLayoutOfAGuestNeverBecomesVhostsHeaderBit) {
  const VhostFeatures given =
      ToVhost(DeviceId::kNet, {kAnyLayout, kVersion1, kNetMrgRxbuf}, kVhostNet612);
  EXPECT_FALSE(given.Has(VhostFeature::kNetVirtioNetHdr));
  EXPECT_EQ(given.low(), (uint64_t{1} << 32) | (1 << 15));
}

TEST(Features, AccessPlatformNeverSwitchesTheIotlbOn) {
  EXPECT_FALSE(FromVhost(DeviceId::kNet, kVhostNet612, {kAccessPlatform}).Has(kAccessPlatform));
  EXPECT_TRUE(ToVhost(DeviceId::kNet, {kAccessPlatform}, kVhostNet612).empty());
}

TEST(Features, LogAllIsNotAGuestsToAsk) {
  const auto bit26 = static_cast<VirtioFeature>(26);
  EXPECT_FALSE(FromVhost(DeviceId::kNet, kVhostNet612, {bit26}).Has(bit26));
  EXPECT_TRUE(ToVhost(DeviceId::kNet, {bit26}, kVhostNet612).empty());
}

TEST(Features, VhostHasASayInTheRingsOnly) {
  const VirtioFeatures wanted = {kVersion1,  kEventIdx,  kIndirectDesc, kRingPacked, kInOrder,
                                 kNetMac,    kNetCsum,   kNetHostTso4,  kNetMq,      kNetCtrlVq,
                                 kNetStatus, kRingReset, kNetMrgRxbuf,  kNetHostUso};
  EXPECT_EQ(FromVhost(DeviceId::kNet, kVhostNet612, wanted),
            wanted - VirtioFeatures({kRingPacked, kInOrder}));
  // The offloads and the control queue are no business of vhost's.
  EXPECT_EQ(ToVhost(DeviceId::kNet, wanted, kVhostNet612),
            VhostFeatures::FromWords((uint64_t{1} << 32) | (1 << 29) | (1 << 28) | (1 << 15)));
}

TEST(Features, SeqpacketIsOfferedOnlyWhereVhostHasIt) {
  const VirtioFeatures wanted = {kVersion1, kVsockSeqpacket};
  const auto with = VhostFeatures::FromWords((uint64_t{1} << 32) | 2);
  const auto without = VhostFeatures::FromWords(uint64_t{1} << 32);
  EXPECT_EQ(FromVhost(DeviceId::kVsock, with, wanted), wanted);
  EXPECT_EQ(FromVhost(DeviceId::kVsock, without, wanted), VirtioFeatures{kVersion1});
  EXPECT_EQ(ToVhost(DeviceId::kVsock, wanted, with).low(), (uint64_t{1} << 32) | 2);
}

TEST(Features, HaveTheFieldsNames) {
  EXPECT_EQ(FeatureName(DeviceId::kNet, kNetMrgRxbuf), "VIRTIO_NET_F_MRG_RXBUF");
  EXPECT_EQ(FeatureName(DeviceId::kVsock, kVsockSeqpacket), "VIRTIO_VSOCK_F_SEQPACKET");
  EXPECT_EQ(FeatureName(DeviceId::kVsock, kRingReset), "VIRTIO_F_RING_RESET");
  EXPECT_EQ(FeatureName(DeviceId::kNet, VhostFeature::kNetVirtioNetHdr),
            "VHOST_NET_F_VIRTIO_NET_HDR");
  EXPECT_EQ(FeatureName(DeviceId::kVsock, static_cast<VhostFeature>(27)), "VIRTIO_F_ANY_LAYOUT");
  EXPECT_EQ(FeatureName(DeviceId::kNet, static_cast<VirtioFeature>(100)), "bit 100");
  EXPECT_THAT(FeatureNames(DeviceId::kNet, VirtioFeatures{kVersion1, kNetMac}),
              ::testing::ElementsAre("VIRTIO_NET_F_MAC", "VIRTIO_F_VERSION_1"));
}

}  // namespace
}  // namespace vhost
