// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Contract of /dev/net/tun: attaching queues, and what is set on an interface.
#include "kernel-abi/tun.h"

#include <climits>

#include "tests/contract/vhost_node.h"

namespace contract {
namespace {

using namespace kernel_abi;  // NOLINT

constexpr short kTap = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
constexpr short kMultiQueueTap = kTap | IFF_MULTI_QUEUE;

class TunContract : public KernelUnderTest, public testing::WithParamInterface<Side> {
 protected:
  void SetUp() override {
    Begin(GetParam(), kTunPath);
    if (IsSkipped() || !is_real()) return;
    // Opened by all, but interfaces are made by CAP_NET_ADMIN alone.
    ifreq probe = InterfaceRequest("", kTap);
    const UniqueFd fd = Open(kTunPath);
    if (Ask(fd.get(), kTunSetIff, probe) == Refused(EPERM)) {
      GTEST_SKIP() << "skipped: no CAP_NET_ADMIN";
    }
  }
  Answer Attach(int fd, const char* name, short flags) {
    return Ask(fd, kTunSetIff, InterfaceRequest(name, flags));
  }
  UniqueFd OpenQueue(const char* name, short flags) {
    UniqueFd fd = Open(kTunPath);
    EXPECT_EQ(Attach(fd.get(), name, flags), Ok());
    return fd;
  }
  Answer Offload(int fd, unsigned offloads) { return Ask(fd, kTunSetOffload, Offloads{offloads}); }
};

// ---- Attaching ---------------------------------------------------------------------------------

TEST_P(TunContract, AnUnattachedFdAnswersLittle) {
  const UniqueFd fd = Open(kTunPath);
  unsigned features = 0;
  EXPECT_EQ(Ask(fd.get(), kTunGetFeatures, features), Ok());
  EXPECT_EQ(features & kMultiQueueTap, unsigned{kMultiQueueTap});
  ifreq request = {};
  EXPECT_EQ(Ask(fd.get(), kTunGetIff, request), Refused(EBADFD));
  EXPECT_EQ(Ask(fd.get(), kTunSetVnetHdrSz, 12), Refused(EBADFD));
  EXPECT_EQ(Offload(fd.get(), 0), Refused(EBADFD));
  EXPECT_EQ(Ask(fd.get(), kTunSetSndBuf, 1 << 20), Refused(EBADFD));
  EXPECT_EQ(Ask(fd.get(), kTunSetQueue, InterfaceRequest("", IFF_DETACH_QUEUE)), Refused(EINVAL));
}

TEST_P(TunContract, TheKernelFillsInNumbersAndShowsFlags) {
  const UniqueFd fd = Open(kTunPath);
  ifreq request = InterfaceRequest("ct%d", kTap);
  ASSERT_EQ(Ask(fd.get(), kTunSetIff, request), Ok());
  EXPECT_EQ(InterfaceName(request), "ct0");
  ifreq shown = {};
  EXPECT_EQ(Ask(fd.get(), kTunGetIff, shown), Ok());
  EXPECT_EQ(InterfaceName(shown), "ct0");
  EXPECT_EQ(shown.ifr_flags, kTap);
  const UniqueFd nameless = Open(kTunPath);
  request = InterfaceRequest("", kTap);
  ASSERT_EQ(Ask(nameless.get(), kTunSetIff, request), Ok());
  EXPECT_EQ(InterfaceName(request).substr(0, 3), "tap");
}

TEST_P(TunContract, NeitherTunNorTapIsRefused) {
  const UniqueFd fd = Open(kTunPath);
  EXPECT_EQ(Attach(fd.get(), "ct0", IFF_NO_PI), Refused(EINVAL));
  EXPECT_EQ(Attach(fd.get(), "a/b", kTap), Refused(EINVAL));
  EXPECT_EQ(AskNull(fd.get(), kTunSetIff), Refused(EFAULT));
}

TEST_P(TunContract, OneFdOneInterface) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  EXPECT_EQ(Attach(fd.get(), "ct0", kTap), Refused(EEXIST));
  EXPECT_EQ(Attach(fd.get(), "ct1", kTap), Refused(EEXIST));
}

TEST_P(TunContract, ASingleQueueTapIsBusyUntilItsQueueIsClosed) {
  UniqueFd first = OpenQueue("ct0", kTap);
  const UniqueFd second = Open(kTunPath);
  EXPECT_EQ(Attach(second.get(), "ct0", kTap), Refused(EBUSY));
  EXPECT_EQ(Attach(second.get(), "ct0", kMultiQueueTap), Refused(EINVAL)) << "asked for many";
  EXPECT_EQ(Attach(second.get(), "ct0", kTap | short(IFF_TUN_EXCL)), Refused(EBUSY));
  EXPECT_EQ(Attach(second.get(), "ct0", IFF_TUN), Refused(EINVAL));
  first.Reset();
  EXPECT_EQ(Attach(second.get(), "ct0", kMultiQueueTap), Ok()) << "a new one: the old is gone";
}

TEST_P(TunContract, AMultiQueueTapTakesMoreFds) {
  const UniqueFd first = OpenQueue("ct0", kMultiQueueTap);
  const UniqueFd second = OpenQueue("ct0", kMultiQueueTap);
  const UniqueFd third = Open(kTunPath);
  EXPECT_EQ(Attach(third.get(), "ct0", kTap), Refused(EINVAL)) << "asked for one";
  EXPECT_EQ(Attach(third.get(), "ct0", kMultiQueueTap), Ok());
}

TEST_P(TunContract, QueuesAreDetachedAndAttachedAgain) {
  const UniqueFd first = OpenQueue("ct0", kMultiQueueTap);
  const UniqueFd second = OpenQueue("ct0", kMultiQueueTap);
  const auto set = [&](short flags) {
    return Ask(second.get(), kTunSetQueue, InterfaceRequest("", flags));
  };
  EXPECT_EQ(set(0), Refused(EINVAL));
  EXPECT_EQ(set(IFF_ATTACH_QUEUE), Refused(EINVAL)) << "it is";
  EXPECT_EQ(set(IFF_DETACH_QUEUE), Ok());
  EXPECT_EQ(set(IFF_DETACH_QUEUE), Refused(EINVAL));
  EXPECT_EQ(Ask(second.get(), kTunSetVnetHdrSz, 12), Ok()) << "requests are still answered";
  EXPECT_EQ(Attach(second.get(), "ct0", kMultiQueueTap), Refused(EEXIST));
  EXPECT_EQ(set(IFF_ATTACH_QUEUE), Ok());
  EXPECT_EQ(Ask(second.get(), kTunSetVnetHdrSz, 12), Ok());
}

TEST_P(TunContract, ASingleQueueIsNotDetached) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  EXPECT_EQ(Ask(fd.get(), kTunSetQueue, InterfaceRequest("", IFF_DETACH_QUEUE)), Refused(EINVAL));
}

TEST_P(TunContract, APersistentTapOutlivesItsQueueWithWhatWasSet) {
  UniqueFd fd = OpenQueue("ct0", kTap);
  ASSERT_EQ(Ask(fd.get(), kTunSetPersist, ByValue<int>{1}), Ok());
  ASSERT_EQ(Ask(fd.get(), kTunSetVnetHdrSz, 12), Ok());
  fd.Reset();
  fd = Open(kTunPath);
  EXPECT_EQ(Attach(fd.get(), "ct0", kMultiQueueTap), Refused(EINVAL)) << "still single-queue";
  EXPECT_EQ(Attach(fd.get(), "ct0", kTap), Ok());
  int size = 0;
  EXPECT_EQ(Ask(fd.get(), kTunGetVnetHdrSz, size), Ok());
  EXPECT_EQ(size, 12);
  ifreq shown = {};
  EXPECT_EQ(Ask(fd.get(), kTunGetIff, shown), Ok());
  EXPECT_EQ(shown.ifr_flags, kTap | IFF_PERSIST);
  EXPECT_EQ(Ask(fd.get(), kTunSetPersist, ByValue<int>{0}), Ok());
}

// ---- What is set -------------------------------------------------------------------------------

TEST_P(TunContract, VnetHeaderSizeIsTenAtFirstAndNeverLess) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  int size = 0;
  EXPECT_EQ(Ask(fd.get(), kTunGetVnetHdrSz, size), Ok());
  EXPECT_EQ(size, 10);
  EXPECT_EQ(Ask(fd.get(), kTunSetVnetHdrSz, 12), Ok());
  EXPECT_EQ(Ask(fd.get(), kTunGetVnetHdrSz, size), Ok());
  EXPECT_EQ(size, 12);
  EXPECT_EQ(Ask(fd.get(), kTunSetVnetHdrSz, 9), Refused(EINVAL));
  EXPECT_EQ(Ask(fd.get(), kTunSetVnetHdrSz, -1), Refused(EINVAL));
}

TEST_P(TunContract, VnetHeaderSizeAndOffloadsAreOfTheWholeInterface) {
  const UniqueFd first = OpenQueue("ct0", kMultiQueueTap);
  const UniqueFd second = OpenQueue("ct0", kMultiQueueTap);
  ASSERT_EQ(Ask(first.get(), kTunSetVnetHdrSz, 12), Ok());
  int size = 0;
  EXPECT_EQ(Ask(second.get(), kTunGetVnetHdrSz, size), Ok());
  EXPECT_EQ(size, 12);
}

TEST_P(TunContract, SendBufferIsUnlimitedAtFirst) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  int bytes = 0;
  EXPECT_EQ(Ask(fd.get(), kTunGetSndBuf, bytes), Ok());
  EXPECT_EQ(bytes, INT_MAX);
  EXPECT_EQ(Ask(fd.get(), kTunSetSndBuf, 1 << 20), Ok());
  EXPECT_EQ(Ask(fd.get(), kTunGetSndBuf, bytes), Ok());
  EXPECT_EQ(bytes, 1 << 20);
  EXPECT_EQ(Ask(fd.get(), kTunSetSndBuf, 0), Refused(EINVAL));
  EXPECT_EQ(Ask(fd.get(), kTunSetSndBuf, -5), Refused(EINVAL));
}

TEST_P(TunContract, OffloadsNeedChecksumsAndEachOther) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  EXPECT_EQ(Offload(fd.get(), 0), Ok());
  EXPECT_EQ(Offload(fd.get(), kTunFCsum), Ok());
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFTso4 | kTunFTso6 | kTunFTsoEcn), Ok());
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFUfo), Ok());
  EXPECT_EQ(Offload(fd.get(), kTunFTso4), Refused(EINVAL));
  EXPECT_EQ(Offload(fd.get(), kTunFUfo), Refused(EINVAL));
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFTsoEcn), Refused(EINVAL)) << "of no TSO";
  EXPECT_EQ(Offload(fd.get(), 1u << 30), Refused(EINVAL));
}

TEST_P(TunContract, UdpSegmentationIsOfBothFamiliesOrNone) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  const Answer both = AtLeast(6, 2) ? Ok() : Refused(EINVAL);
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFUso4 | kTunFUso6), both);
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFUso4), Refused(EINVAL));
  EXPECT_EQ(Offload(fd.get(), kTunFUso4 | kTunFUso6), Refused(EINVAL));
}

TEST_P(TunContract, TunnelOffloadsNeedSegmentationInsideAndTheTunnelBitFirst) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  const Answer good = AtLeast(6, 17) ? Ok() : Refused(EINVAL);
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFTso4 | kTunFUdpTunnelGso), good);
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFTso6 | kTunFUdpTunnelGso | kTunFUdpTunnelGsoCsum),
            good);
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFUso4 | kTunFUso6 | kTunFUdpTunnelGso), good);
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFUdpTunnelGso), Refused(EINVAL));
  EXPECT_EQ(Offload(fd.get(), kTunFCsum | kTunFTso4 | kTunFUdpTunnelGsoCsum), Refused(EINVAL));
}

TEST_P(TunContract, RingEndianIsKept) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  int little = -1;
  EXPECT_EQ(Ask(fd.get(), kTunGetVnetLe, little), Ok());
  EXPECT_EQ(little, 0);
  EXPECT_EQ(Ask(fd.get(), kTunSetVnetLe, 1), Ok());
  EXPECT_EQ(Ask(fd.get(), kTunGetVnetLe, little), Ok());
  EXPECT_EQ(little, 1);
}

TEST_P(TunContract, OwnerCarrierAndFilterAreTaken) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  EXPECT_EQ(Ask(fd.get(), kTunSetOwner, ByValue<unsigned>{1000}), Ok());
  EXPECT_EQ(Ask(fd.get(), kTunSetGroup, ByValue<unsigned>{1000}), Ok());
  EXPECT_EQ(Ask(fd.get(), kTunSetCarrier, 0), Ok());
  EXPECT_EQ(Ask(fd.get(), kTunSetCarrier, 1), Ok());
  EXPECT_EQ(Ask(fd.get(), kTunSetLink, ByValue<int>{1}), Ok()) << "it is down";
  EXPECT_EQ(Ask(fd.get(), kTunSetTxFilter, MacFilter({}, false)), Ok());
  EXPECT_EQ(
      Ask(fd.get(), kTunSetTxFilter, MacFilter({{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}, true)),
      Answer(2))
      << "how many it compares exactly";
}

TEST_P(TunContract, TheMacAddressIsReadAndSet) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  ifreq request = {};
  ASSERT_EQ(Ask(fd.get(), kTunGetHardwareAddress, request), Ok());
  request.ifr_hwaddr.sa_data[0] = 0x52;
  request.ifr_hwaddr.sa_data[5] = 0x77;
  EXPECT_EQ(Ask(fd.get(), kTunSetHardwareAddress, request), Ok());
  ifreq shown = {};
  EXPECT_EQ(Ask(fd.get(), kTunGetHardwareAddress, shown), Ok());
  EXPECT_EQ(shown.ifr_hwaddr.sa_data[5], 0x77);
}

TEST_P(TunContract, WhatItDoesNotKnowIsInvalid) {
  const UniqueFd fd = OpenQueue("ct0", kTap);
  const Request<int> unknown{_IOC(_IOC_WRITE, 'T', 250, sizeof(int)), "unknown"};
  EXPECT_EQ(Ask(fd.get(), unknown, 0), Refused(EINVAL));
}

INSTANTIATE_TEST_SUITE_P(Kernels, TunContract, testing::ValuesIn(AllSides()), SideName);

}  // namespace
}  // namespace contract
