// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/backend_selector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "kernel-abi/system_error.h"
#include "tests/fakes/fake_backend.h"

namespace vhost {
namespace {

using fakes::FakeBackend;
using ::testing::HasSubstr;

class BackendSelectorTest : public ::testing::Test {
 protected:
  BackendCandidate Kernel() {
    return {BackendKind::kKernel, std::make_unique<FakeBackend>(kernel_)};
  }
  BackendCandidate InProcess() {
    return {BackendKind::kInProcess,
            std::make_unique<FakeBackend>(process_, BackendKind::kInProcess)};
  }
  static BackendCandidate NoKernel() {
    return {BackendKind::kKernel,
            kernel_abi::MakeSystemError(
                {.error = EACCES, .subject = "/dev/vhost-net", .call = "open"}, "pass an fd")};
  }
  template <typename... Candidates>
  static absl::StatusOr<BackendSelector> Select(OffloadPolicy policy, Candidates... candidates) {
    std::vector<BackendCandidate> all;
    (all.push_back(std::move(candidates)), ...);
    return BackendSelector::Create(policy, std::move(all));
  }
  BackendStart Start() const { return {.acked = {}, .memory = memory_, .vrings = {}}; }
  static std::string Message(const absl::Status& status) { return std::string(status.message()); }

  std::shared_ptr<FakeBackend::State> kernel_ = std::make_shared<FakeBackend::State>();
  std::shared_ptr<FakeBackend::State> process_ = std::make_shared<FakeBackend::State>();
  std::shared_ptr<const MemoryTable> memory_ = std::make_shared<const MemoryTable>();
};

TEST_F(BackendSelectorTest, RequireFailsWithTheKernelsOwnReason) {
  const auto selector = Select(OffloadPolicy::kRequire, NoKernel(), InProcess());
  ASSERT_FALSE(selector.ok());
  EXPECT_EQ(kernel_abi::GetErrno(selector.status()), EACCES);
  EXPECT_THAT(Message(selector.status()), HasSubstr("offload policy require: /dev/vhost-net"));
  EXPECT_THAT(Message(selector.status()), HasSubstr("pass an fd"));
}

TEST_F(BackendSelectorTest, PreferFallsBackAndKeepsTheReason) {
  auto selector = Select(OffloadPolicy::kPrefer, NoKernel(), InProcess());
  ASSERT_TRUE(selector.ok()) << selector.status();
  EXPECT_EQ(selector->current().kind(), BackendKind::kInProcess);
  ASSERT_EQ(selector->refusals().size(), 1u);
  EXPECT_EQ(selector->refusals()[0].kind, BackendKind::kKernel);
  EXPECT_THAT(selector->refusals()[0].reason, HasSubstr("EACCES"));
}

TEST_F(BackendSelectorTest, PreferWithNothingToFallBackToSaysSo) {
  const auto selector = Select(OffloadPolicy::kPrefer, NoKernel());
  ASSERT_FALSE(selector.ok());
  EXPECT_EQ(kernel_abi::GetErrno(selector.status()), EACCES);
  EXPECT_THAT(Message(selector.status()), HasSubstr("no in-process backend was given"));
}

TEST_F(BackendSelectorTest, NeverDoesNotTouchTheKernel) {
  EXPECT_THAT(Message(Select(OffloadPolicy::kNever, Kernel()).status()),
              HasSubstr("no in-process backend was given"));
  const auto selector = Select(OffloadPolicy::kNever, Kernel(), InProcess());
  ASSERT_TRUE(selector.ok());
  EXPECT_EQ(selector->current().kind(), BackendKind::kInProcess);
  EXPECT_TRUE(selector->refusals().empty());
}

TEST_F(BackendSelectorTest, OffersOnlyWhatEveryCandidateCanServe) {
  kernel_->cannot = VirtioFeatures{VirtioFeature::kRingPacked};
  process_->cannot = VirtioFeatures{VirtioFeature::kInOrder};
  const auto selector = Select(OffloadPolicy::kPrefer, Kernel(), InProcess());
  const VirtioFeatures all = {VirtioFeature::kRingPacked, VirtioFeature::kInOrder,
                              VirtioFeature::kVersion1};
  EXPECT_EQ(selector->Supported(all), VirtioFeatures{VirtioFeature::kVersion1});
}

TEST_F(BackendSelectorTest, StartsTheFirstThatCan) {
  auto selector = Select(OffloadPolicy::kPrefer, Kernel(), InProcess());
  ASSERT_TRUE(selector->Start(Start()).ok());
  EXPECT_TRUE(kernel_->running);
  EXPECT_FALSE(process_->running);
  selector->Stop();
  kernel_->start_error = absl::ResourceExhaustedError("too many regions");
  ASSERT_TRUE(selector->Start(Start()).ok());
  EXPECT_FALSE(kernel_->running);
  EXPECT_TRUE(process_->running);
  ASSERT_EQ(selector->refusals().size(), 1u);
  EXPECT_EQ(selector->refusals()[0].reason, "too many regions");
  selector->Stop();
  EXPECT_FALSE(process_->running);
  // The next start asks the kernel first again, and forgets the old reason.
  kernel_->start_error = absl::OkStatus();
  ASSERT_TRUE(selector->Start(Start()).ok());
  EXPECT_TRUE(kernel_->running);
  EXPECT_TRUE(selector->refusals().empty());
}

TEST_F(BackendSelectorTest, NamesEveryReasonWhenNobodyStarts) {
  auto selector = Select(OffloadPolicy::kPrefer, Kernel(), InProcess());
  kernel_->start_error = absl::ResourceExhaustedError("too many regions");
  process_->start_error = absl::InternalError("no threads");
  const absl::Status status = selector->Start(Start());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("kernel backend: too many regions"));
  EXPECT_THAT(Message(status), HasSubstr("in-process backend: no threads"));
  EXPECT_EQ(selector->running(), nullptr);
}

TEST_F(BackendSelectorTest, ChecksMemoryWithWhoeverCouldServe) {
  auto selector = Select(OffloadPolicy::kPrefer, Kernel(), InProcess());
  kernel_->memory_error = absl::ResourceExhaustedError("65 regions");
  EXPECT_TRUE(selector->CheckMemory(*memory_).ok());  // The other one could take it.
  ASSERT_TRUE(selector->Start(Start()).ok());
  EXPECT_TRUE(selector->CheckMemory(*memory_).ok());  // It would be moved there.
  process_->memory_error = absl::ResourceExhaustedError("none");
  EXPECT_THAT(Message(selector->CheckMemory(*memory_)), HasSubstr("65 regions"));
  selector->Stop();
  EXPECT_THAT(Message(selector->CheckMemory(*memory_)), HasSubstr("65 regions"));
}

}  // namespace
}  // namespace vhost
