// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What any backend of the kernel promises, shown with net and vsock devices on the fake kernel. The
// order of requests is the product here, so some tests look at it; the others look at what the
// kernel holds afterwards.
#include "vhost/kernel/kernel_backend.h"

#include <gmock/gmock.h>

#include <cerrno>

#include "kernel-abi/system_error.h"
#include "vhost/kernel/backend_fixture.h"

namespace vhost {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

class KernelBackendTest : public BackendTest {};

TEST_F(KernelBackendTest, OneQueuePairComesUpWithEighteenRequests) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  EXPECT_THAT(VhostRequests(),
              ElementsAre("VHOST_GET_FEATURES", "VHOST_SET_OWNER", "VHOST_SET_FEATURES",
                          "VHOST_SET_MEM_TABLE",
                          // Receive ring, transmit ring.
                          "VHOST_SET_VRING_NUM", "VHOST_SET_VRING_ADDR", "VHOST_SET_VRING_ERR",
                          "VHOST_SET_VRING_NUM", "VHOST_SET_VRING_ADDR", "VHOST_SET_VRING_ERR",
                          "VHOST_SET_VRING_BASE", "VHOST_SET_VRING_CALL", "VHOST_SET_VRING_KICK",
                          "VHOST_SET_VRING_BASE", "VHOST_SET_VRING_CALL", "VHOST_SET_VRING_KICK",
                          "VHOST_NET_SET_BACKEND", "VHOST_NET_SET_BACKEND"));
}

TEST_F(KernelBackendTest, RestartingTellsOnlyWhatChanged) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  net->Stop();
  kernel_.ClearCalls();
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  // Features, table, error eventfds and the rings' places are what they were.
  EXPECT_THAT(VhostRequests(),
              ElementsAre("VHOST_SET_VRING_BASE", "VHOST_SET_VRING_CALL", "VHOST_SET_VRING_KICK",
                          "VHOST_SET_VRING_BASE", "VHOST_SET_VRING_CALL", "VHOST_SET_VRING_KICK",
                          "VHOST_NET_SET_BACKEND", "VHOST_NET_SET_BACKEND"));
}

TEST_F(KernelBackendTest, ARingThatLiesElsewhereIsToldAnew) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  net->Stop();
  const fakes::DriverRing other(ram_, {.size = 16});
  BackendStart start = AllQueues();
  start.vrings[1].vring = *::vhost::Vring::Create(other.setup(), VringLayout::kSplit, *memory_);
  kernel_.ClearCalls();
  ASSERT_TRUE(net->Start(start).ok());
  EXPECT_THAT(fakes::Names(kernel_.calls(), "VHOST_SET_VRING_NUM"), SizeIs(1));
  EXPECT_THAT(fakes::Names(kernel_.calls(), "VHOST_SET_VRING_ADDR"), SizeIs(1));
  EXPECT_EQ(vhost().vring(0).num, 64u);
  EXPECT_EQ(vhost().vring(1).num, 16u);
  EXPECT_EQ(vhost().vring(1).avail, reinterpret_cast<uintptr_t>(start.vrings[1].vring.driver()));
}

TEST_F(KernelBackendTest, AfterATableThatMovedARingItsPlaceIsLookedAtAgain) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  const BackendStart start = AllQueues();
  ASSERT_TRUE(net->Start(start).ok());
  net->Stop();
  // The same guest addresses, elsewhere in this process.
  fakes::GuestRam other;
  BackendStart moved = start;
  moved.memory = other.table();
  EXPECT_EQ(net->Start(moved).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(net->Start(start).ok());
}

TEST_F(KernelBackendTest, AnErrorOfTheLastStartIsNotOneOfTheNext) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  kernel_abi::EventFd::SignalEventFd(kernel_, net->error_fd(1));
  net->Stop();
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(net->error_fd(1)));
}

TEST_F(KernelBackendTest, PreparingTouchesNoRingAndLeavesLessForTheStart) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  kernel_.ClearCalls();
  ASSERT_TRUE(net->Prepare(AllQueues()).ok());
  EXPECT_THAT(VhostRequests(),
              ElementsAre("VHOST_SET_FEATURES", "VHOST_SET_MEM_TABLE", "VHOST_SET_VRING_NUM",
                          "VHOST_SET_VRING_ADDR", "VHOST_SET_VRING_ERR", "VHOST_SET_VRING_NUM",
                          "VHOST_SET_VRING_ADDR", "VHOST_SET_VRING_ERR"));
  kernel_.ClearCalls();
  ASSERT_TRUE(net->Prepare(AllQueues()).ok());
  EXPECT_THAT(VhostRequests(), IsEmpty());
  ASSERT_TRUE(net->Start(AllQueues(7)).ok());
  EXPECT_THAT(VhostRequests(), Not(Contains("VHOST_SET_FEATURES")));
  EXPECT_THAT(VhostRequests(), Not(Contains("VHOST_SET_MEM_TABLE")));
  EXPECT_THAT(VhostRequests(), Not(Contains("VHOST_SET_VRING_ADDR")));
  EXPECT_EQ(vhost().vring(1).last_avail, 7);
  EXPECT_EQ(net->Prepare(AllQueues()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(KernelBackendTest, PreparingSaysWhatAStartWouldRefuse) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  BackendStart start = AllQueues();
  start.acked.Set(VirtioFeature::kRingPacked);
  EXPECT_THAT(std::string(net->Prepare(start).message()), HasSubstr("VIRTIO_F_RING_PACKED"));
  start = AllQueues();
  start.vrings[1].queue = 9;
  EXPECT_FALSE(net->Prepare(start).ok());
}

TEST_F(KernelBackendTest, EveryPairIsSetUpBeforeTheFirstIsServed) {
  std::unique_ptr<NetBackend> net = MakeNet(3);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  const std::vector<std::string> requests = VhostRequests();
  const auto first_attach = std::find(requests.begin(), requests.end(), "VHOST_NET_SET_BACKEND");
  EXPECT_EQ(requests.end() - first_attach, 6);
  EXPECT_EQ(std::count(first_attach, requests.end(), "VHOST_NET_SET_BACKEND"), 6);
}

TEST_F(KernelBackendTest, StartGivesEachVringOneKickAndOneCall) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  for (const auto& queue : queues_) {
    EXPECT_TRUE(queue->kick.Drain());
    EXPECT_TRUE(queue->call.Drain());
  }
}

TEST_F(KernelBackendTest, TheRingsAreWhereTheDriverPutThem) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues(7)).ok());
  const fakes::FakeVhost::Vring& tx = vhost().vring(1);
  const BackendVring given = Vring(1);
  EXPECT_EQ(tx.num, 64u);
  EXPECT_EQ(tx.last_avail, 7);
  EXPECT_EQ(tx.desc, reinterpret_cast<uint64_t>(given.vring.desc()));
  EXPECT_EQ(tx.avail, reinterpret_cast<uint64_t>(given.vring.driver()));
  EXPECT_EQ(tx.used, reinterpret_cast<uint64_t>(given.vring.device()));
  EXPECT_TRUE(fakes::IsSameEventFd(tx.kick.get(), given.kick_fd));
  EXPECT_TRUE(fakes::IsSameEventFd(tx.call.get(), given.call_fd));
  ASSERT_EQ(vhost().memory().size(), 1u);
  EXPECT_EQ(vhost().memory()[0].start, Value(ram_.region().start));
}

TEST_F(KernelBackendTest, StopReturnsTheBaseTheKernelReached) {
  std::unique_ptr<NetBackend> net = MakeNet(2);
  ASSERT_TRUE(net->Start(AllQueues(3)).ok());
  ASSERT_TRUE(vhost(1).Work(0, 9));
  const std::vector<StoppedVring> stopped = net->Stop();
  ASSERT_EQ(stopped.size(), 4u);
  for (const StoppedVring& vring : stopped) {
    EXPECT_EQ(vring.base, vring.queue == 2 ? 9u : 3u) << vring.queue;
  }
}

TEST_F(KernelBackendTest, WhereTheBaseCannotBeAskedTheUsedIndexStandsIn) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  ASSERT_TRUE(vhost().Work(0, 5));
  kernel_.FailRequest("VHOST_GET_VRING_BASE", EFAULT);
  const std::vector<StoppedVring> stopped = net->Stop();
  ASSERT_EQ(stopped.size(), 2u);
  EXPECT_TRUE(kernel_.FaultMet());
  EXPECT_EQ(stopped[0].base, 5u);
}

TEST_F(KernelBackendTest, StopLeavesNothingOfWhatWasGiven) {
  std::unique_ptr<NetBackend> net = MakeNet(2);
  const int held_before = kernel_.Survivors().held_fds;
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  net->Stop();
  EXPECT_EQ(kernel_.Survivors().attached_backends, 0);
  // The error eventfds are the backend's own, and stay for its life.
  EXPECT_EQ(kernel_.Survivors().held_fds - held_before, 4);
  EXPECT_THAT(net->Stop(), IsEmpty());
  net.reset();
  EXPECT_EQ(kernel_.Survivors().vhost_nodes, 0);
  EXPECT_EQ(kernel_.Survivors().held_fds, held_before);
}

TEST_F(KernelBackendTest, ASecondStartIsRefused) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  EXPECT_EQ(net->Start(AllQueues()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(KernelBackendTest, ADeviceThatRefusesToStopIsClosed) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues(4)).ok());
  kernel_.FailRequest("VHOST_NET_SET_BACKEND", EFAULT);
  EXPECT_EQ(net->Stop().size(), 2u);
  EXPECT_EQ(kernel_.Survivors().vhost_nodes, 0);
  EXPECT_EQ(kernel_.Survivors().attached_backends, 0);
  const absl::Status again = net->Start(AllQueues());
  EXPECT_THAT(again.message(), HasSubstr("did not stop and was closed"));
}

TEST_F(KernelBackendTest, AFeatureThatVhostLacksIsRefusedByName) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  BackendStart start = AllQueues();
  start.acked.Set(VirtioFeature::kRingPacked);
  const absl::Status status = net->Start(start);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("VIRTIO_F_RING_PACKED"));
}

TEST_F(KernelBackendTest, BitsThatVhostReadsDifferentlyNeverReachIt) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  BackendStart start = AllQueues();
  start.acked.Set(VirtioFeature::kAnyLayout);  // 27: vhost would add a header of its own.
  start.acked.Set(VirtioFeature::kNetCsum);
  ASSERT_TRUE(net->Start(start).ok());
  EXPECT_EQ(vhost().features(), kPlainFeatures.low());
}

TEST_F(KernelBackendTest, OneVringStopsAndStartsWhileTheOtherGoesOn) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  ASSERT_TRUE(vhost().Work(1, 6));
  const absl::StatusOr<VringBase> base = net->StopVring(1);
  ASSERT_TRUE(base.ok());
  EXPECT_EQ(*base, 6u);
  EXPECT_FALSE(vhost().Work(1, 7));
  EXPECT_TRUE(vhost().Work(0, 1));
  ASSERT_TRUE(net->StartVring(Vring(1, *base)).ok());
  EXPECT_TRUE(vhost().Work(1, 7));
  EXPECT_EQ(net->StopVring(5).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(KernelBackendTest, AStartVringThatFailsLeavesTheOthersServed) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  ASSERT_TRUE(net->StopVring(1).ok());
  const fakes::OpenState before = kernel_.Survivors();
  kernel_.FailRequest("VHOST_NET_SET_BACKEND", ENOTSOCK);
  EXPECT_EQ(kernel_abi::GetErrno(net->StartVring(Vring(1))), ENOTSOCK);
  EXPECT_EQ(kernel_.Survivors(), before);
  EXPECT_TRUE(vhost().Work(0, 1));
  EXPECT_TRUE(net->StartVring(Vring(1)).ok());
}

TEST_F(KernelBackendTest, ASecondQueuePairJoinsLater) {
  std::unique_ptr<NetBackend> net = MakeNet(2);
  BackendStart start = AllQueues();
  start.vrings.erase(start.vrings.begin() + 2, start.vrings.end());
  ASSERT_TRUE(net->Start(start).ok());
  EXPECT_FALSE(vhost(1).has_memory_table());
  ASSERT_TRUE(net->StartVring(Vring(2)).ok());
  ASSERT_TRUE(net->StartVring(Vring(3)).ok());
  EXPECT_TRUE(vhost(1).Work(1, 1));
}

TEST_F(KernelBackendTest, AMemoryTableIsSentOncePerChange) {
  std::unique_ptr<NetBackend> net = MakeNet(2);
  ASSERT_TRUE(net->SetMemory(memory_).ok());  // Not running: the start brings it.
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  kernel_.ClearCalls();
  ASSERT_TRUE(net->SetMemory(ram_.table()).ok());  // Another object, the same memory.
  EXPECT_THAT(VhostRequests(), IsEmpty());
  fakes::GuestRam more(1 << 16, 0x4000'0000);
  auto larger =
      std::make_shared<const MemoryTable>(*MemoryTable::Create({ram_.region(), more.region()}));
  ASSERT_TRUE(net->SetMemory(larger).ok());
  EXPECT_THAT(VhostRequests(), ElementsAre("VHOST_SET_MEM_TABLE", "VHOST_SET_MEM_TABLE"));
  EXPECT_EQ(vhost(0).memory().size(), 2u);
  EXPECT_EQ(vhost(1).memory().size(), 2u);
  EXPECT_EQ(net->Report().memory_updates, 4u);
}

TEST_F(KernelBackendTest, ATableThatLosesARunningRingIsRefusedBeforeTheKernelTakesIt) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  kernel_.ClearCalls();
  fakes::GuestRam elsewhere;  // The same guest addresses on other memory.
  EXPECT_EQ(net->SetMemory(elsewhere.table()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(net->SetMemory(std::make_shared<const MemoryTable>()).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(VhostRequests(), IsEmpty());
}

TEST_F(KernelBackendTest, ATableThatOneNodeRefusesIsTakenBackFromTheOthers) {
  std::unique_ptr<NetBackend> net = MakeNet(2);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  fakes::GuestRam more(1 << 16, 0x4000'0000);
  auto larger =
      std::make_shared<const MemoryTable>(*MemoryTable::Create({ram_.region(), more.region()}));
  kernel_.FailRequest("VHOST_SET_MEM_TABLE", ENOMEM, 1);
  const absl::Status status = net->SetMemory(larger);
  EXPECT_EQ(kernel_abi::GetErrno(status), ENOMEM);
  EXPECT_EQ(vhost(0).memory().size(), 1u);
  EXPECT_EQ(vhost(1).memory().size(), 1u);
}

TEST_F(KernelBackendTest, ARingOfAnotherMemoryTableIsRefused) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  BackendStart start = AllQueues();
  fakes::GuestRam elsewhere;
  start.memory = elsewhere.table();
  const absl::Status status = net->Start(start);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("/dev/vhost-net: vring 0"));
}

TEST_F(KernelBackendTest, AnotherCallEventfdIsTakenWhileRunning) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  const kernel_abi::EventFd other = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  ASSERT_TRUE(net->SetCall(1, other.get()).ok());
  EXPECT_TRUE(vhost().Work(1, 1));
  EXPECT_TRUE(other.Drain());
  ASSERT_TRUE(net->SetCall(1, -1).ok());
  EXPECT_FALSE(vhost().vring(1).call.valid());
}

TEST_F(KernelBackendTest, AnErrorOfTheRingShowsOnItsEventfdAndIsCounted) {
  std::unique_ptr<NetBackend> net = MakeNet(1);
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  ASSERT_TRUE(vhost().RaiseError(1));
  EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(net->error_fd(0)));
  EXPECT_TRUE(kernel_abi::EventFd::DrainEventFd(kernel_abi::LinuxKernel(), net->error_fd(1)));
  net->CountError(1);
  EXPECT_EQ(net->Report().vrings[1].errors, 1u);
  // What was raised before a restart says nothing of the rings after it.
  ASSERT_TRUE(vhost().RaiseError(0));
  net->Stop();
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(net->error_fd(0)));
}

TEST_F(KernelBackendTest, ReportTellsWhereEachRingStands) {
  std::unique_ptr<NetBackend> net = MakeNet(2);
  BackendReport report = net->Report();
  EXPECT_FALSE(report.running);
  EXPECT_EQ(report.node, "/dev/vhost-net");
  EXPECT_EQ(report.max_memory_regions, 64u);
  EXPECT_FALSE(report.vrings[0].last_avail.has_value());
  ASSERT_TRUE(net->Start(AllQueues()).ok());
  ASSERT_TRUE(vhost(1).Work(1, 11));
  report = net->Report();
  EXPECT_TRUE(report.running);
  ASSERT_EQ(report.vrings.size(), 4u);
  EXPECT_EQ(report.vrings[3].queue, 3);
  EXPECT_EQ(report.vrings[3].vhost_index, 1u);
  EXPECT_EQ(report.vrings[3].last_avail, 11);
  ASSERT_EQ(report.workers.size(), 2u);
  EXPECT_THAT(report.workers[1].queues, ElementsAre(2, 3));
  EXPECT_THAT(report.workers[1].unknown_because, Not(IsEmpty()));  // The fake has none.
}

TEST_F(KernelBackendTest, ReleasedFdsAreTheNodes) {
  std::unique_ptr<NetBackend> net = MakeNet(2);
  std::vector<kernel_abi::UniqueFd> fds = net->ReleaseFds();
  EXPECT_EQ(fds.size(), 2u);
  net.reset();
  EXPECT_EQ(kernel_.Survivors().vhost_nodes, 2);
  kernel_abi::CloseInParallel(std::move(fds));
  EXPECT_EQ(kernel_.Survivors().vhost_nodes, 0);
}

TEST_F(KernelBackendTest, AnFdHandedInWithoutOwnerIsOwned) {
  MakeQueues(2);
  MakeTap(1);
  NetBackendOptions options = NetOptions();
  options.vhost_fds.push_back(*kernel_abi::OpenNode(kernel_, options.node));
  absl::StatusOr<std::unique_ptr<NetBackend>> net = NetBackend::Create(kernel_, std::move(options));
  ASSERT_TRUE(net.ok()) << net.status();
  EXPECT_TRUE((*net)->Start(AllQueues()).ok());
  EXPECT_EQ((*net)->Report().node, "/dev/vhost-net (fd handed in)");
}

TEST_F(KernelBackendTest, AnFdHandedInWithUsAsOwnerIsTaken) {
  MakeQueues(2);
  MakeTap(1);
  NetBackendOptions options = NetOptions();
  options.vhost_fds.push_back(*kernel_abi::OpenNode(kernel_, options.node));
  KernelVhostOps before(
      kernel_, kernel_abi::UniqueFd(kernel_.Duplicate(options.vhost_fds[0].get())), "before");
  ASSERT_TRUE(before.SetOwner().ok());
  absl::StatusOr<std::unique_ptr<NetBackend>> net = NetBackend::Create(kernel_, std::move(options));
  ASSERT_TRUE(net.ok()) << net.status();
  EXPECT_TRUE((*net)->Start(AllQueues()).ok());
}

TEST_F(KernelBackendTest, AnFdOwnedBySomebodyElseIsRefused) {
  MakeTap(1);
  NetBackendOptions options = NetOptions();
  options.vhost_fds.push_back(*kernel_abi::OpenNode(kernel_, options.node));
  vhost().MakeForeign();
  const absl::Status status = NetBackend::Create(kernel_, std::move(options)).status();
  EXPECT_EQ(kernel_abi::GetErrno(status), EBUSY);
  EXPECT_THAT(status.message(), HasSubstr("hand the fd in before VHOST_SET_OWNER"));
}

TEST_F(KernelBackendTest, AMissingModuleIsNamed) {
  kernel_.mutable_options().vhost_net = false;
  MakeTap(1);
  const absl::Status status = NetBackend::Create(kernel_, NetOptions()).status();
  EXPECT_EQ(kernel_abi::GetErrno(status), ENOENT);
  EXPECT_THAT(status.message(), HasSubstr("modprobe vhost_net"));
}

TEST_F(KernelBackendTest, AWorkerThatCannotStartPointsToTheLimits) {
  kernel_.mutable_options().worker_can_start = false;
  MakeTap(1);
  const absl::Status status = NetBackend::Create(kernel_, NetOptions()).status();
  EXPECT_EQ(kernel_abi::GetErrno(status), ENOMEM);
  EXPECT_THAT(status.message(), HasSubstr("pids.max"));
}

TEST_F(KernelBackendTest, ForkModeNeedsANewKernel) {
  kernel_.mutable_options().minor = 1;
  MakeTap(1);
  NetBackendOptions options = NetOptions();
  options.fork_mode = kernel_abi::ForkMode::kKernelThread;
  const absl::Status status = NetBackend::Create(kernel_, std::move(options)).status();
  EXPECT_THAT(status.message(), HasSubstr("needs Linux 6.17"));
  EXPECT_EQ(kernel_.Survivors().vhost_nodes, 0);
  kernel_.mutable_options().major = 7;
  options = NetOptions();
  options.fork_mode = kernel_abi::ForkMode::kKernelThread;
  ASSERT_TRUE(NetBackend::Create(kernel_, std::move(options)).ok());
  EXPECT_THAT(VhostRequests(), Contains("VHOST_SET_FORK_FROM_OWNER"));
}

}  // namespace
}  // namespace vhost
