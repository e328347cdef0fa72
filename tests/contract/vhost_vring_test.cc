// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Contract of what is asked per vring, stopped and running.
#include "tests/contract/vhost_node.h"

namespace contract {
namespace {

using namespace kernel_abi;  // NOLINT

class VringContract : public VhostContract {
 protected:
  void SetUp() override {
    VhostContract::SetUp();
    if (!IsSkipped()) Prepare();
  }
};

TEST_P(VringContract, NumIsAPowerOfTwoUpTo32768) {
  for (const unsigned num : {1u, 2u, 256u, 32768u}) EXPECT_EQ(Num(0, num), Ok()) << num;
  for (const unsigned num : {0u, 3u, 300u, 65536u, 0x80000000u}) {
    EXPECT_EQ(Num(0, num), Refused(EINVAL)) << num;
  }
  EXPECT_EQ(AskNull(fd(), kVhostSetVringNum), Refused(EFAULT));
}

TEST_P(VringContract, ThereAreTwoRings) {
  EXPECT_EQ(Num(1, 256), Ok());
  EXPECT_EQ(Num(2, 256), Refused(ENOBUFS));
  EXPECT_EQ(Num(~0u, 256), Refused(ENOBUFS));
  EXPECT_EQ(Base(2, 0), Refused(ENOBUFS));
  EXPECT_EQ(Address(memory_.Ring(2)), Refused(ENOBUFS));
}

TEST_P(VringContract, BaseIsKeptAndStartsAtZero) {
  EXPECT_EQ(GetBase(0), 0u);
  EXPECT_EQ(Base(0, 65535), Ok());
  EXPECT_EQ(GetBase(0), 65535u);
  EXPECT_EQ(GetBase(1), 0u);
  EXPECT_EQ(Base(0, 65536), Refused(EINVAL));
  EXPECT_EQ(Base(0, 70000), Refused(EINVAL));
}

TEST_P(VringContract, AddressesAreCheckedForAlignmentAlone) {
  vhost_vring_addr ring = memory_.Ring(0);
  const auto with = [&](auto change) {
    vhost_vring_addr changed = ring;
    change(changed);
    return Address(changed);
  };
  EXPECT_EQ(with([](auto& r) { r.avail_user_addr += 1; }), Refused(EINVAL));
  EXPECT_EQ(with([](auto& r) { r.used_user_addr += 2; }), Refused(EINVAL));
  EXPECT_EQ(with([](auto& r) { r.log_guest_addr += 2; }), Refused(EINVAL));
  EXPECT_EQ(with([](auto& r) { r.flags = 2; }), Refused(EOPNOTSUPP));
  EXPECT_EQ(with([](auto& r) { r.desc_user_addr += 8; }), Ok()) << "desc is not looked at";
  EXPECT_EQ(with([](auto& r) { r.flags = 1; }), Ok());
  EXPECT_EQ(with([](auto& r) { r.desc_user_addr = Memory::kKernelAddress; }), Ok())
      << "nor is anything else, before the start";
  EXPECT_EQ(with([&](auto& r) { r.used_user_addr = memory_.hole(); }), Ok());
}

TEST_P(VringContract, FilesAreEventFdsOrNone) {
  const UniqueFd event = EventFd();
  const UniqueFd null = DevNull();
  for (const Request<vhost_vring_file>* request :
       {&kVhostSetVringKick, &kVhostSetVringCall, &kVhostSetVringErr}) {
    EXPECT_EQ(Ask(fd(), *request, {0, event.get()}), Ok()) << request->name;
    EXPECT_EQ(Ask(fd(), *request, {0, event.get()}), Ok()) << request->name << " again";
    EXPECT_EQ(Ask(fd(), *request, {1, event.get()}), Ok()) << request->name << " shared";
    EXPECT_EQ(Ask(fd(), *request, {0, null.get()}), Refused(EINVAL)) << request->name;
    EXPECT_EQ(Ask(fd(), *request, {0, kBadFd}), Refused(EBADF)) << request->name;
    EXPECT_EQ(Ask(fd(), *request, {0, -1}), Ok()) << request->name;
    EXPECT_EQ(Ask(fd(), *request, {2, event.get()}), Refused(ENOBUFS)) << request->name;
  }
}

TEST_P(VringContract, BusyloopTimeoutIsKept) {
  vhost_vring_state state = {1, 50};
  EXPECT_EQ(Ask(fd(), kVhostSetVringBusyloopTimeout, state), Ok());
  state = {1, 0};
  EXPECT_EQ(Ask(fd(), kVhostGetVringBusyloopTimeout, state), Ok());
  EXPECT_EQ(state.num, 50u);
  state = {0, 99};
  EXPECT_EQ(Ask(fd(), kVhostGetVringBusyloopTimeout, state), Ok());
  EXPECT_EQ(state.num, 0u);
}

TEST_P(VringContract, EndianIsOfKernelsBuiltForIt) {
  vhost_vring_state state = {0, VHOST_VRING_LITTLE_ENDIAN};
  const Answer known = Ask(fd(), kVhostSetVringEndian, state);
  if (known == Refused(ENOTTY)) {
    EXPECT_EQ(Ask(fd(), kVhostGetVringEndian, state), Refused(ENOTTY));
    return;
  }
  EXPECT_EQ(known, Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetVringEndian, {0, 2}), Refused(EINVAL));
}

TEST_P(VringContract, SizeAndBaseAreFixedWhileRunning) {
  ASSERT_EQ(Base(0, 7), Ok());
  ASSERT_EQ(Start(), Ok());
  EXPECT_EQ(Num(0, 128), Refused(EBUSY));
  EXPECT_EQ(Num(1, 256), Refused(EBUSY));
  EXPECT_EQ(Base(0, 0), Refused(EBUSY));
  EXPECT_EQ(GetBase(0), 7u) << "asked at any time";
  ASSERT_EQ(Stop(), Ok());
  EXPECT_EQ(GetBase(0), 7u) << "nothing was made available";
  EXPECT_EQ(Num(0, 128), Ok());
  EXPECT_EQ(Base(0, 0), Ok());
}

TEST_P(VringContract, AddressesAndFilesMayChangeWhileRunning) {
  ASSERT_EQ(Start(), Ok());
  const UniqueFd event = EventFd();
  EXPECT_EQ(Ask(fd(), kVhostSetVringCall, {0, event.get()}), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetVringKick, {0, event.get()}), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetVringErr, {0, event.get()}), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetVringKick, {0, -1}), Ok());
  vhost_vring_addr ring = memory_.Ring(0);
  EXPECT_EQ(Address(ring), Ok());
  ring.desc_user_addr = Memory::kKernelAddress;
  EXPECT_EQ(Address(ring), Refused(EINVAL)) << "now it is looked at";
  ring = memory_.Ring(0);
  ring.avail_user_addr = memory_.hole();
  EXPECT_EQ(Address(ring), Ok()) << "but not whether it is mapped";
}

TEST_P(VringContract, NoStartWithAnUnreachableRing) {
  vhost_vring_addr ring = memory_.Ring(1);
  ring.desc_user_addr = Memory::kKernelAddress;
  ASSERT_EQ(Address(ring), Ok());
  EXPECT_EQ(Start(), Refused(EFAULT));
  EXPECT_EQ(Num(1, 256), Ok()) << "not running";
  ring = memory_.Ring(1);
  ring.used_user_addr = memory_.hole();
  ASSERT_EQ(Address(ring), Ok());
  EXPECT_EQ(Start(), Refused(EFAULT)) << "used->flags is written at the start";
  ASSERT_EQ(Address(memory_.Ring(1)), Ok());
  EXPECT_EQ(Start(), Ok());
}

TEST_P(VringContract, AStartWritesUsedFlagsAndReadsNothingElse) {
  const auto ring = memory_.Ring(0);
  auto* used = reinterpret_cast<uint16_t*>(ring.used_user_addr);
  used[0] = 0x5555;
  used[1] = 9;  // used->idx: a device that comes back finds where it was
  ASSERT_EQ(Start(), Ok());
  EXPECT_NE(used[0], 0x5555);
  EXPECT_EQ(used[1], 9);
  EXPECT_EQ(GetBase(0), 0u) << "the base is not taken from there";
  ASSERT_EQ(Stop(), Ok());
}

INSTANTIATE_TEST_SUITE_P(Kernels, VringContract, AllNodes(), NodeName);

}  // namespace
}  // namespace contract
