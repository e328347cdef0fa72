// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Contract of what concerns a vhost device as a whole: owner, features, memory table, log, IOTLB.
#include <sys/wait.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "kernel-abi/node.h"
#include "tests/contract/vhost_node.h"

namespace contract {
namespace {

using namespace kernel_abi;  // NOLINT

constexpr uint64_t kUnknownFeature = uint64_t{1} << 62;
constexpr uint64_t kAccessPlatform = uint64_t{1} << 33;
constexpr uint64_t kLogAll = uint64_t{1} << kVhostFLogAll;
constexpr Request<vhost_vring_state> kNoSuchRequest{
    _IOC(_IOC_READ | _IOC_WRITE, VHOST_VIRTIO, 0xee, sizeof(vhost_vring_state)), "no such request"};

// ---- Owner -------------------------------------------------------------------------------------

TEST_P(VhostContract, NothingIsDoneForNobodysDevice) {
  const UniqueFd kick = EventFd();
  EXPECT_EQ(SetTable(), Refused(EPERM));
  EXPECT_EQ(Num(0, 256), Refused(EPERM));
  EXPECT_EQ(Num(99, 256), Refused(EPERM));
  EXPECT_EQ(Base(0, 0), Refused(EPERM));
  EXPECT_EQ(Address(memory_.Ring(0)), Refused(EPERM));
  EXPECT_EQ(Ask(fd(), kVhostGetVringBase, {0, 0}), Refused(EPERM));
  EXPECT_EQ(Ask(fd(), kVhostSetVringKick, {0, kick.get()}), Refused(EPERM));
  EXPECT_EQ(Ask(fd(), kVhostSetVringBusyloopTimeout, {0, 50}), Refused(EPERM));
  EXPECT_EQ(Ask(fd(), kVhostSetLogBase, uint64_t{0}), Refused(EPERM));
  EXPECT_EQ(Ask(fd(), kVhostSetLogFd, -1), Refused(EPERM));
  EXPECT_EQ(Ask(fd(), kNoSuchRequest, {0, 0}), Refused(EPERM));
  EXPECT_EQ(Start(), Refused(EPERM));
}

TEST_P(VhostContract, FeaturesAreAnsweredToAnybody) {
  uint64_t features = 0;
  EXPECT_EQ(Ask(fd(), kVhostGetFeatures, features), Ok());
  EXPECT_EQ(Features(0), Ok());
  EXPECT_EQ(Ask(fd(), kVhostGetBackendFeatures, features), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetBackendFeatures, features), Ok());
}

TEST_P(VhostContract, OwnedOnce) {
  EXPECT_EQ(SetOwner(), Ok());
  EXPECT_EQ(SetOwner(), Refused(EBUSY));
}

TEST_P(VhostContract, AForkedChildIsNotTheOwner) {
  ASSERT_EQ(SetOwner(), Ok());
  const pid_t child = ::fork();
  if (child == 0) ::_exit(static_cast<int>(-Num(0, 256).result));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), EPERM);
  EXPECT_EQ(Num(0, 256), Ok()) << "the parent still is";
}

TEST_P(VhostContract, ResetOwnerIsOfNetAlone) {
  if (node() == Node::kVsock) {
    ASSERT_EQ(SetOwner(), Ok());
    EXPECT_EQ(Ask(fd(), kVhostResetOwner), Refused(EFAULT)) << "unknown here";
    return;
  }
  EXPECT_EQ(Ask(fd(), kVhostResetOwner), Refused(EPERM));
  Prepare();
  ASSERT_EQ(Base(1, 77), Ok());
  ASSERT_EQ(Start(), Ok());
  EXPECT_EQ(Ask(fd(), kVhostResetOwner), Ok()) << "also while running";
  EXPECT_EQ(Num(0, 256), Refused(EPERM));
  EXPECT_EQ(SetOwner(), Ok());
  EXPECT_EQ(GetBase(1), 0u);
  // The memory table is empty now, not absent: there is something to check the rings against.
  EXPECT_EQ(Attach(0, -1), Ok());
}

TEST_P(VhostContract, WorkersAreMadeAsTasksUnlessAskedOtherwiseInTime) {
  ForkMode mode = static_cast<ForkMode>(0xff);
  const Answer known = Ask(fd(), kVhostGetForkFromOwner, mode);
  if (known != Ok()) {
    // A kernel without it answers as to any unknown request of nobody's device.
    EXPECT_EQ(known, Refused(EPERM));
    EXPECT_FALSE(AtLeast(6, 17) && !is_real());
    return;
  }
  EXPECT_EQ(mode, ForkMode::kOwnerTask);
  EXPECT_EQ(Ask(fd(), kVhostSetForkFromOwner, static_cast<ForkMode>(2)), Refused(EINVAL));
  EXPECT_EQ(Ask(fd(), kVhostSetForkFromOwner, ForkMode::kKernelThread), Ok());
  EXPECT_EQ(Ask(fd(), kVhostGetForkFromOwner, mode), Ok());
  EXPECT_EQ(mode, ForkMode::kKernelThread);
  ASSERT_EQ(SetOwner(), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetForkFromOwner, ForkMode::kOwnerTask), Refused(EBUSY));
  if (node() != Node::kNet) return;
  ASSERT_EQ(Ask(fd(), kVhostResetOwner), Ok());
  EXPECT_EQ(Ask(fd(), kVhostGetForkFromOwner, mode), Ok());
  EXPECT_EQ(mode, ForkMode::kOwnerTask);
}

// ---- Features ----------------------------------------------------------------------------------

TEST_P(VhostContract, OffersWhatTheFakeOfItsReleaseOffers) {
  const Release release = RunningRelease();
  fakes::FakeKernelOptions options;
  options.major = is_real() ? release.major : std::get<0>(GetParam()).major;
  options.minor = is_real() ? release.minor : std::get<0>(GetParam()).minor;
  fakes::FakeKernel like(options);
  const UniqueFd other(like.Open(Path(node()), 2));
  for (const Request<uint64_t>* request : {&kVhostGetFeatures, &kVhostGetBackendFeatures}) {
    uint64_t here = 0, there = 0;
    ASSERT_EQ(Ask(fd(), *request, here), Ok());
    ASSERT_EQ(like.Ioctl(other.get(), request->number, reinterpret_cast<uintptr_t>(&there)), 0);
    EXPECT_EQ(request->describe(here), request->describe(there)) << request->name;
  }
}

TEST_P(VhostContract, UnknownFeaturesAreRefused) {
  EXPECT_EQ(Features(kUnknownFeature), Refused(EOPNOTSUPP));
  EXPECT_EQ(Features(uint64_t{1} << 34), Refused(EOPNOTSUPP)) << "no packed rings";
  EXPECT_EQ(Ask(fd(), kVhostSetBackendFeatures, kUnknownFeature), Refused(EOPNOTSUPP));
  EXPECT_EQ(AskNull(fd(), kVhostSetFeatures), Refused(EFAULT));
  EXPECT_EQ(AskNull(fd(), kVhostGetFeatures), Refused(EFAULT));
}

TEST_P(VhostContract, FeatureArraysAreOfNetAlone) {
  FeatureArray features;
  ASSERT_EQ(SetOwner(), Ok());
  const Answer known = Ask(fd(), kVhostGetFeaturesArray, features);
  if (node() == Node::kVsock || !AtLeast(6, 17)) {
    // The count is read as a queue index, and there are but two queues.
    EXPECT_EQ(known, Refused(ENOBUFS));
    return;
  }
  ASSERT_EQ(known, Ok());
  uint64_t word = 0;
  ASSERT_EQ(Ask(fd(), kVhostGetFeatures, word), Ok());
  EXPECT_EQ(features.words[0], word);
  EXPECT_EQ(Ask(fd(), kVhostSetFeaturesArray, features), Ok());
  features.words[1] |= uint64_t{1} << 63;
  EXPECT_EQ(Ask(fd(), kVhostSetFeaturesArray, features), Refused(EOPNOTSUPP));
}

TEST_P(VhostContract, FeaturesMayChangeWhileRunning) {
  Prepare();
  ASSERT_EQ(Start(), Ok());
  EXPECT_EQ(Features(uint64_t{1} << 32), Ok());
  EXPECT_EQ(Features(0), Ok());
}

TEST_P(VhostContract, LoggingIsRefusedWhereTheLogOfARunningRingDoesNotFit) {
  Prepare();
  EXPECT_EQ(Ask(fd(), kVhostSetLogBase, Memory::kKernelAddress), Ok()) << "nothing runs";
  EXPECT_EQ(Features(kLogAll), Ok());
  EXPECT_EQ(Start(), Refused(EFAULT));
  EXPECT_EQ(Ask(fd(), kVhostSetLogBase, memory_.address()), Ok());
  EXPECT_EQ(Start(), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetLogBase, Memory::kKernelAddress), Refused(EFAULT));
  EXPECT_EQ(Features(0), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetLogBase, Memory::kKernelAddress), Ok()) << "no longer looked at";
  EXPECT_EQ(Features(kLogAll), Refused(EFAULT));
}

TEST_P(VhostContract, ALogThatFitsOneRingAloneIsHalfSet) {
  if (node() == Node::kVsock) return;  // Starts both rings or none.
  Prepare();
  ASSERT_EQ(Ask(fd(), kVhostSetLogBase, memory_.address()), Ok());
  ASSERT_EQ(Features(kLogAll), Ok());
  tap_ = OpenTap();
  ASSERT_EQ(Attach(1, tap_.get()), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetLogBase, Memory::kKernelAddress), Refused(EFAULT));
  EXPECT_EQ(Attach(0, tap_.get()), Refused(EFAULT)) << "the stopped ring took it all the same";
  EXPECT_EQ(Ask(fd(), kVhostSetLogBase, memory_.address()), Ok());
  EXPECT_EQ(Attach(0, tap_.get()), Ok());
}

// ---- Requests that are not known ---------------------------------------------------------------

TEST_P(VhostContract, UnknownRequestsReadAQueueIndexBeforeTheyAreUnknown) {
  ASSERT_EQ(SetOwner(), Ok());
  EXPECT_EQ(AskNull(fd(), kNoSuchRequest), Refused(EFAULT));
  EXPECT_EQ(Ask(fd(), kNoSuchRequest, {99, 0}), Refused(ENOBUFS));
  EXPECT_EQ(Ask(fd(), kNoSuchRequest, {0, 0}), Refused(ENOTTY));
  EXPECT_EQ(Ask(fd(), kVhostNewWorker, WorkerState{0}), Refused(ENOTTY)) << "vhost-scsi's alone";
  EXPECT_EQ(Ask(fd(), kVhostGetVringWorker, VringWorker{0, 0}), Refused(ENOTTY));
}

TEST_P(VhostContract, TheOtherKindsRequestsAreUnknown) {
  ASSERT_EQ(SetOwner(), Ok());
  if (node() == Node::kNet) {
    EXPECT_EQ(Ask(fd(), kVhostVsockSetGuestCid, uint64_t{99}), Refused(ENOBUFS));
    EXPECT_EQ(Ask(fd(), kVhostVsockSetRunning, 1), Refused(ENOTTY));
  } else {
    EXPECT_EQ(Attach(0, -1), Refused(ENOTTY));
  }
}

// ---- Memory table ------------------------------------------------------------------------------

TEST_P(VhostContract, MemoryTableIsCheckedForItsFormAlone) {
  ASSERT_EQ(SetOwner(), Ok());
  const auto set = [&](MemoryTable table) { return Ask(fd(), kVhostSetMemTable, table); };
  const vhost_memory_region good = {0, Memory::kSize, memory_.address(), 0};
  MemoryTable padded{good};
  padded.set_flags(1);
  EXPECT_EQ(set(padded), Refused(EOPNOTSUPP));
  EXPECT_EQ(set(MemoryTable(kVhostDefaultMaxMemRegions + 1)), Refused(E2BIG));
  EXPECT_EQ(set({{uint64_t(-0x1000), 0x2000, memory_.address(), 0}}), Refused(EFAULT)) << "wraps";
  EXPECT_EQ(set({{0x1000, 0, memory_.address(), 0}}), Refused(EFAULT)) << "no bytes";
  EXPECT_EQ(AskNull(fd(), kVhostSetMemTable), Refused(EFAULT));

  EXPECT_EQ(set(MemoryTable()), Ok()) << "no regions";
  EXPECT_EQ(set({{0, 0, memory_.address(), 0}}), Ok()) << "no bytes at 0 means all bytes";
  EXPECT_EQ(set({{0, 0x1000, memory_.hole(), 0}}), Ok()) << "nothing mapped there";
  EXPECT_EQ(set({{0, 0x1000, Memory::kKernelAddress, 0}}), Ok()) << "not the process's";
  EXPECT_EQ(set({{1, 3, memory_.address() + 1, 0}}), Ok()) << "nothing aligned";
  EXPECT_EQ(set({good, good}), Ok()) << "twice the same";
}

TEST_P(VhostContract, MemoryTableMayChangeWhileRunningAndLeaveTheRingsOut) {
  Prepare();
  ASSERT_EQ(Start(), Ok());
  const auto set = [&](const vhost_memory_region& region) {
    return Ask(fd(), kVhostSetMemTable, MemoryTable{region});
  };
  EXPECT_EQ(set({0, 0x1000, memory_.address() + Memory::kSize / 2, 0}), Ok());
  EXPECT_EQ(set({0, 0x1000, memory_.hole(), 0}), Ok());
  EXPECT_EQ(set({0, 0x1000, Memory::kKernelAddress, 0}), Refused(EFAULT));
  EXPECT_EQ(Stop(), Ok());
}

// ---- Log ---------------------------------------------------------------------------------------

TEST_P(VhostContract, LogFdIsAnEventFdOrNone) {
  ASSERT_EQ(SetOwner(), Ok());
  const UniqueFd event = EventFd();
  EXPECT_EQ(Ask(fd(), kVhostSetLogFd, event.get()), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetLogFd, -1), Ok());
  EXPECT_EQ(Ask(fd(), kVhostSetLogFd, DevNull().get()), Refused(EINVAL));
  EXPECT_EQ(Ask(fd(), kVhostSetLogFd, int{kBadFd}), Refused(EBADF));
}

// ---- IOTLB -------------------------------------------------------------------------------------

TEST_P(VhostContract, MessagesNeedAnIotlb) {
  vhost_msg_v2 message = {};
  message.type = VHOST_IOTLB_MSG_V2;
  message.iotlb = {.iova = 0x1000,
                   .size = 0x1000,
                   .uaddr = memory_.address(),
                   .perm = VHOST_ACCESS_RW,
                   .type = VHOST_IOTLB_UPDATE};
  ASSERT_EQ(SetOwner(), Ok());
  EXPECT_EQ(kernel().Read(fd(), &message, sizeof(int)), 0) << "no room for one";
  EXPECT_EQ(kernel().Read(fd(), &message, sizeof(message)), -EBADFD);
  EXPECT_EQ(kernel().Write(fd(), &message, sizeof(message)), -EFAULT);
  ASSERT_EQ(Features(kAccessPlatform), Ok());
  EXPECT_EQ(kernel().Write(fd(), &message, sizeof(message)), static_cast<ssize_t>(sizeof(message)));
  message.iotlb.size = 0;
  EXPECT_EQ(kernel().Write(fd(), &message, sizeof(message)), -EINVAL);
  message.iotlb.size = 0x1000;
  message.iotlb.uaddr = Memory::kKernelAddress;
  EXPECT_EQ(kernel().Write(fd(), &message, sizeof(message)), -EFAULT);
  message.iotlb.type = VHOST_IOTLB_INVALIDATE;
  EXPECT_EQ(kernel().Write(fd(), &message, sizeof(message)), static_cast<ssize_t>(sizeof(message)));
  message.type = 77;
  EXPECT_EQ(kernel().Write(fd(), &message, sizeof(message)), -EINVAL);
}

TEST_P(VhostContract, TheIotlbIsNewWithEachSetFeatures) {
  vhost_msg message = {};
  message.type = VHOST_IOTLB_MSG;
  message.iotlb = {.iova = 0,
                   .size = Memory::kSize,
                   .uaddr = memory_.address(),
                   .perm = VHOST_ACCESS_RW,
                   .type = VHOST_IOTLB_UPDATE};
  const auto map_all = [&] { return kernel().Write(fd(), &message, sizeof(message)); };
  Prepare();
  // Ring addresses are I/O addresses from here on: those of the process, less its base.
  for (unsigned index = 0; index < 2; ++index) {
    vhost_vring_addr ring = memory_.Ring(index);
    for (__u64* address : {&ring.desc_user_addr, &ring.avail_user_addr, &ring.used_user_addr}) {
      *address -= memory_.address();
    }
    ASSERT_EQ(Address(ring), Ok());
  }
  ASSERT_EQ(Features(kAccessPlatform), Ok());
  EXPECT_EQ(Start(), Refused(EFAULT)) << "nothing is mapped";
  ASSERT_EQ(map_all(), static_cast<ssize_t>(sizeof(message)));
  EXPECT_EQ(Start(), Ok());
  ASSERT_EQ(Stop(), Ok());
  ASSERT_EQ(Features(kAccessPlatform), Ok());
  EXPECT_EQ(Start(), Refused(EFAULT)) << "nothing is mapped any more";
  ASSERT_EQ(Features(0), Ok());
  // Without the bit it goes away in 6.12.117 and 7.3.4; 6.1 stays with I/O addresses until
  // RESET_OWNER or the last close, as kernels in between may.
  const ssize_t taken = sizeof(message);
  if (AtLeast(6, 2)) {
    EXPECT_THAT(map_all(), testing::AnyOf(taken, -EFAULT));
  } else {
    EXPECT_EQ(map_all(), taken);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, VhostContract, AllNodes(), NodeName);

}  // namespace
}  // namespace contract
