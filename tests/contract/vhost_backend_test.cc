// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Contract of starting and stopping: the TAP behind vhost-net, the CID and the running state of
// vhost-vsock.
#include "tests/contract/vhost_node.h"

namespace contract {
namespace {

using namespace kernel_abi;  // NOLINT

class NetBackendContract : public VhostNode, public testing::WithParamInterface<Side> {
 protected:
  void SetUp() override { Begin(GetParam(), Node::kNet); }
};

TEST_P(NetBackendContract, IsCheckedOwnerThenIndexThenRingsThenFile) {
  tap_ = OpenTap();
  EXPECT_EQ(Attach(9, kBadFd), Refused(EPERM));
  ASSERT_EQ(SetOwner(), Ok());
  EXPECT_EQ(Attach(2, kBadFd), Refused(ENOBUFS));
  EXPECT_EQ(Attach(0, kBadFd), Refused(EFAULT)) << "no memory table";
  EXPECT_EQ(Attach(0, -1), Refused(EFAULT)) << "not even to detach";
  ASSERT_EQ(SetTable(), Ok());
  EXPECT_EQ(Attach(0, -1), Ok());
  EXPECT_EQ(Attach(0, kBadFd), Refused(ENOTSOCK)) << "not EBADF";
  EXPECT_EQ(Attach(0, DevNull().get()), Refused(ENOTSOCK));
  EXPECT_EQ(Attach(0, EventFd().get()), Refused(ENOTSOCK));
  EXPECT_EQ(Attach(0, tap_.get()), Refused(EFAULT)) << "no ring at address 0";
}

TEST_P(NetBackendContract, AnUnattachedTunFdIsRefused) {
  Prepare();
  const UniqueFd tun = Open(kTunPath);
  EXPECT_EQ(Attach(0, tun.get()), Refused(EINVAL));
  EXPECT_EQ(Num(0, 256), Ok()) << "not running";
}

TEST_P(NetBackendContract, AttachingTwiceIsNothingNew) {
  Prepare();
  ASSERT_EQ(Start(), Ok());
  EXPECT_EQ(Start(), Ok());
  EXPECT_EQ(Stop(), Ok());
  EXPECT_EQ(Stop(), Ok());
}

TEST_P(NetBackendContract, ARingKeepsItsPlaceWhileItIsDetached) {
  Prepare();
  ASSERT_EQ(Start(), Ok());
  ASSERT_EQ(Stop(), Ok());
  EXPECT_EQ(Start(), Ok()) << "with neither size nor addresses told again";
}

TEST_P(NetBackendContract, AFailedAttachLeavesTheOldBackend) {
  Prepare();
  ASSERT_EQ(Start(), Ok());
  EXPECT_EQ(Attach(0, kBadFd), Refused(ENOTSOCK));
  EXPECT_EQ(Num(0, 256), Refused(EBUSY)) << "running as before";
  const UniqueFd other = OpenTap();
  EXPECT_EQ(Attach(0, other.get()), Ok()) << "and can be exchanged";
}

TEST_P(NetBackendContract, TheTapStaysBusyUntilItIsDetached) {
  Prepare();
  tap_ = OpenTap();
  ifreq name = {};
  ASSERT_EQ(Ask(tap_.get(), kTunGetIff, name), Ok());
  name.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  ASSERT_EQ(Start(), Ok());
  ASSERT_EQ(Ask(tap_.get(), kTunSetPersist, ByValue<int>{1}), Ok());
  tap_.Reset();
  const UniqueFd other = Open(kTunPath);
  EXPECT_EQ(Ask(other.get(), kTunSetIff, name), Refused(EBUSY)) << "vhost has it";
  ASSERT_EQ(Stop(), Ok());
  EXPECT_EQ(Ask(other.get(), kTunSetIff, name), Ok());
  EXPECT_EQ(Ask(other.get(), kTunSetPersist, ByValue<int>{0}), Ok());
}

TEST_P(NetBackendContract, ClosingTheNodeLetsTheTapGo) {
  Prepare();
  tap_ = OpenTap();
  ifreq name = {};
  ASSERT_EQ(Ask(tap_.get(), kTunGetIff, name), Ok());
  name.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  ASSERT_EQ(Start(), Ok());
  tap_.Reset();
  fd_.Reset();
  const UniqueFd other = Open(kTunPath);
  EXPECT_EQ(Ask(other.get(), kTunSetIff, name), Ok());
}

INSTANTIATE_TEST_SUITE_P(Kernels, NetBackendContract, testing::ValuesIn(AllSides()), SideName);

class VsockBackendContract : public VhostNode, public testing::WithParamInterface<Side> {
 protected:
  void SetUp() override { Begin(GetParam(), Node::kVsock); }
  Answer Cid(int fd, uint64_t cid) { return Ask(fd, kVhostVsockSetGuestCid, cid); }
  static constexpr uint64_t kCid = 0x5eed0001;
};

TEST_P(VsockBackendContract, ReservedCidsAreRefused) {
  for (const uint64_t cid : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{0xffffffff},
                             uint64_t{1} << 32, ~uint64_t{0}}) {
    EXPECT_EQ(Cid(fd(), cid), Refused(EINVAL)) << cid;
  }
  EXPECT_EQ(Cid(fd(), 0xfffffffe), Ok()) << "the largest, and nobody owns the device";
  EXPECT_EQ(AskNull(fd(), kVhostVsockSetGuestCid), Refused(EFAULT));
}

TEST_P(VsockBackendContract, ACidIsTakenUntilItsNodeIsClosedOrMoves) {
  UniqueFd other = Open(kVhostVsockPath);
  ASSERT_EQ(Cid(fd(), kCid), Ok());
  EXPECT_EQ(Cid(fd(), kCid), Ok()) << "the same again";
  EXPECT_EQ(Cid(other.get(), kCid), Refused(EADDRINUSE));
  ASSERT_EQ(Cid(fd(), kCid + 1), Ok()) << "moves";
  EXPECT_EQ(Cid(other.get(), kCid), Ok());
  other.Reset();
  EXPECT_EQ(Cid(fd(), kCid), Ok());
}

TEST_P(VsockBackendContract, RunsWithRingsAloneAndStopsAtAnyTime) {
  EXPECT_EQ(Running(1), Refused(EPERM));
  EXPECT_EQ(Running(0), Refused(EPERM));
  ASSERT_EQ(SetOwner(), Ok());
  EXPECT_EQ(Running(0), Ok());
  EXPECT_EQ(Running(1), Refused(EFAULT)) << "no memory table";
  ASSERT_EQ(SetTable(), Ok());
  EXPECT_EQ(Running(1), Refused(EFAULT)) << "no rings";
  ASSERT_EQ(Num(0, 256), Ok());
  ASSERT_EQ(Address(memory_.Ring(0)), Ok());
  EXPECT_EQ(Running(1), Refused(EFAULT)) << "one ring";
  EXPECT_EQ(Num(0, 256), Ok()) << "which was stopped again";
  ASSERT_EQ(Num(1, 256), Ok());
  ASSERT_EQ(Address(memory_.Ring(1)), Ok());
  EXPECT_EQ(Running(1), Ok()) << "without a CID";
  EXPECT_EQ(Running(1), Ok());
  EXPECT_EQ(Running(7), Ok()) << "anything but 0";
  EXPECT_EQ(Cid(fd(), kCid), Ok()) << "also while running";
  EXPECT_EQ(Running(0), Ok());
  EXPECT_EQ(Running(0), Ok());
}

INSTANTIATE_TEST_SUITE_P(Kernels, VsockBackendContract, testing::ValuesIn(AllSides()), SideName);

}  // namespace
}  // namespace contract
