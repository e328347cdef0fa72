// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/vsock_backend.h"

#include <gmock/gmock.h>

#include <cerrno>

#include "kernel-abi/system_error.h"
#include "vhost/kernel/backend_fixture.h"

namespace vhost {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class VsockBackendTest : public BackendTest {};

TEST_F(VsockBackendTest, ComesUpWithEighteenRequestsAndOneAttachesBothRings) {
  std::unique_ptr<VsockBackend> vsock = MakeVsock();
  ASSERT_TRUE(vsock->Start(AllQueues()).ok());
  EXPECT_THAT(
      VhostRequests(),
      ElementsAre("VHOST_GET_FEATURES", "VHOST_SET_OWNER", "VHOST_VSOCK_SET_GUEST_CID",
                  "VHOST_SET_FEATURES", "VHOST_SET_MEM_TABLE", "VHOST_SET_VRING_NUM",
                  "VHOST_SET_VRING_ADDR", "VHOST_SET_VRING_ERR", "VHOST_SET_VRING_NUM",
                  "VHOST_SET_VRING_ADDR", "VHOST_SET_VRING_ERR", "VHOST_SET_VRING_BASE",
                  "VHOST_SET_VRING_CALL", "VHOST_SET_VRING_KICK", "VHOST_SET_VRING_BASE",
                  "VHOST_SET_VRING_CALL", "VHOST_SET_VRING_KICK", "VHOST_VSOCK_SET_RUNNING"));
  EXPECT_TRUE(vhost().vring(0).running);
  EXPECT_TRUE(vhost().vring(1).running);
}

TEST_F(VsockBackendTest, TheCidIsKeptThroughStopsAndGoneWithTheBackend) {
  std::unique_ptr<VsockBackend> vsock = MakeVsock();
  EXPECT_EQ(vsock->guest_cid(), 42u);
  ASSERT_TRUE(vsock->Start(AllQueues()).ok());
  vsock->Stop();
  EXPECT_EQ(vhost().guest_cid(), 42u);
  ASSERT_TRUE(vsock->Start(AllQueues()).ok());
  vsock.reset();
  EXPECT_EQ(kernel_.Survivors(), fakes::OpenState{});
}

TEST_F(VsockBackendTest, ACidThatIsTakenIsExplained) {
  std::unique_ptr<VsockBackend> vsock = MakeVsock();
  const absl::Status status =
      VsockBackend::Create(kernel_, VsockBackendOptions{.cid = 42}).status();
  EXPECT_EQ(kernel_abi::GetErrno(status), EADDRINUSE);
  EXPECT_THAT(status.message(), HasSubstr("another guest of this host has that CID"));
  EXPECT_EQ(kernel_.Survivors().vhost_nodes, 1);
}

TEST_F(VsockBackendTest, AReservedCidIsExplained) {
  const absl::Status status = VsockBackend::Create(kernel_, VsockBackendOptions{.cid = 2}).status();
  EXPECT_EQ(kernel_abi::GetErrno(status), EINVAL);
  EXPECT_THAT(status.message(), HasSubstr("a guest's CID is from 3 to 4294967294"));
}

TEST_F(VsockBackendTest, WithoutACidTheFirstFreeOneIsTaken) {
  kernel_.mutable_options().local_cids = {4};
  auto first = *VsockBackend::Create(kernel_, {});
  auto second = *VsockBackend::Create(kernel_, {});
  EXPECT_EQ(first->guest_cid(), 3u);
  EXPECT_EQ(second->guest_cid(), 5u);
}

TEST_F(VsockBackendTest, ARangeOfCidsIsKeptTo) {
  auto first = *VsockBackend::Create(kernel_, {.first_cid = 100, .last_cid = 100});
  EXPECT_EQ(first->guest_cid(), 100u);
  const absl::Status status =
      VsockBackend::Create(kernel_, {.first_cid = 100, .last_cid = 100}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(VsockBackend::Create(kernel_, {.first_cid = 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(VsockBackendTest, AnFdHandedInWithItsCidKeepsIt) {
  kernel_abi::UniqueFd fd = *kernel_abi::OpenNode(kernel_, kernel_abi::kVhostVsockPath);
  KernelVhostOps helper(kernel_, kernel_abi::UniqueFd(kernel_.Duplicate(fd.get())), "helper");
  ASSERT_TRUE(helper.VsockSetGuestCid(77).ok());
  auto vsock = VsockBackend::Create(kernel_, {.vhost_fd = std::move(fd), .cid = 77});
  ASSERT_TRUE(vsock.ok()) << vsock.status();
  EXPECT_EQ(vhost().guest_cid(), 77u);
}

TEST_F(VsockBackendTest, ARingThatIsResetWaitsForItsReturnTogetherWithTheOther) {
  std::unique_ptr<VsockBackend> vsock = MakeVsock();
  ASSERT_TRUE(vsock->Start(AllQueues()).ok());
  ASSERT_TRUE(vhost().Work(0, 3));
  ASSERT_TRUE(vhost().Work(1, 8));
  const absl::StatusOr<VringBase> base = vsock->StopVring(1);
  ASSERT_TRUE(base.ok());
  EXPECT_EQ(*base, 8u);
  EXPECT_FALSE(vhost().vring(0).running);
  ASSERT_TRUE(vsock->StartVring(Vring(1)).ok());
  EXPECT_TRUE(vhost().vring(0).running);
  EXPECT_EQ(vhost().vring(0).last_avail, 3);
  EXPECT_EQ(vhost().vring(1).last_avail, 0);
}

TEST_F(VsockBackendTest, OneRingAloneWaits) {
  std::unique_ptr<VsockBackend> vsock = MakeVsock();
  BackendStart start = AllQueues();
  start.vrings.erase(start.vrings.begin() + 1, start.vrings.end());
  ASSERT_TRUE(vsock->Start(start).ok());
  EXPECT_FALSE(vhost().vring(0).running);
  ASSERT_TRUE(vsock->StartVring(Vring(1)).ok());
  EXPECT_TRUE(vhost().vring(1).running);
  EXPECT_EQ(vsock->Stop().size(), 2u);
}

TEST_F(VsockBackendTest, SeqpacketPassesWhereVhostOffersIt) {
  std::unique_ptr<VsockBackend> vsock = MakeVsock();
  const VirtioFeatures wanted = kPlainFeatures | VirtioFeatures{VirtioFeature::kVsockSeqpacket};
  EXPECT_EQ(vsock->Supported(wanted), wanted);
}

}  // namespace
}  // namespace vhost
