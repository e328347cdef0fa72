// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Fail at step k: each bring-up is run again and again, with its k-th system call failing, for
// every k that there is. Whatever fails, no fd, registration or attachment may survive, and the
// message must say which request it was, with which arguments, and the errno.
#include <gmock/gmock.h>

#include <cerrno>
#include <functional>

#include "absl/strings/match.h"
#include "kernel-abi/system_error.h"
#include "vhost/kernel/backend_fixture.h"

namespace vhost {
namespace {

using testing::HasSubstr;

struct BringUpCase {
  const char* name;
  int net_pairs;  // 0: vsock
  int error;
};

class BringUpFaultTest : public BackendTest, public testing::WithParamInterface<BringUpCase> {
 protected:
  BringUpFaultTest() {
    if (GetParam().net_pairs > 0) {
      MakeQueues(2 * GetParam().net_pairs);
      MakeTap(GetParam().net_pairs);
    } else {
      MakeQueues(2);
    }
  }

  absl::StatusOr<std::unique_ptr<KernelBackend>> Create() {
    if (GetParam().net_pairs == 0) return VsockBackend::Create(kernel_, {.cid = 42});
    NetBackendOptions options = NetOptions();
    options.busyloop_us = 50;  // With every request that there is.
    return NetBackend::Create(kernel_, std::move(options));
  }

  // A bring-up goes on without these: limits have defaults, and a kick that cannot be given was
  // given (the eventfd is full).
  static bool IsTolerated(const std::string& fault) {
    return absl::StrContains(fault, "/sys/module/vhost") || absl::StartsWith(fault, "read") ||
           absl::StartsWith(fault, "write");
  }

  void ExpectTold(const absl::Status& status) {
    const std::optional<kernel_abi::SystemError> error = kernel_abi::GetSystemError(status);
    ASSERT_TRUE(error.has_value()) << status;
    EXPECT_EQ(error->error, GetParam().error);
    const std::string fault = kernel_.FaultText();  // "VHOST_SET_VRING_NUM(index=1 num=64) = ..."
    EXPECT_THAT(fault, testing::StartsWith(error->call));
    EXPECT_THAT(std::string(status.message()), HasSubstr(error->call));
    EXPECT_THAT(std::string(status.message()), HasSubstr(error->arguments));
    if (absl::StartsWith(error->call, "VHOST_SET_VRING")) {
      EXPECT_FALSE(error->arguments.empty());
    }
    EXPECT_THAT(std::string(status.message()), HasSubstr(kernel_abi::ErrnoText(GetParam().error)));
  }
};

TEST_P(BringUpFaultTest, NothingSurvivesAFailureAtAnyStep) {
  const fakes::OpenState before = kernel_.Survivors();
  const int fds_before = fakes::CountOpenFds();
  int failed = 0;
  for (int k = 1;; ++k) {
    ASSERT_LT(k, 500) << "the bring-up does not end";
    kernel_.ClearCalls();
    kernel_.FailCall(k, GetParam().error);
    absl::StatusOr<std::unique_ptr<KernelBackend>> backend = Create();
    absl::Status status = backend.status();
    fakes::OpenState created;
    if (backend.ok()) {
      created = kernel_.Survivors();
      status = (*backend)->Start(AllQueues());
    }
    if (!kernel_.FaultMet()) {
      EXPECT_TRUE(status.ok()) << status;
      break;
    }
    SCOPED_TRACE(testing::Message() << "step " << k << ": " << kernel_.FaultText());
    if (IsTolerated(kernel_.FaultText())) {
      EXPECT_TRUE(status.ok()) << status;
      backend->reset();
    } else {
      ++failed;
      ASSERT_FALSE(status.ok());
      ExpectTold(status);
      if (backend.ok()) {
        // Stopped, and nothing held but its own error eventfds ...
        const fakes::OpenState after = kernel_.Survivors();
        EXPECT_EQ(after.attached_backends, 0);
        EXPECT_LE(after.held_fds, created.held_fds + static_cast<int>(queues_.size()));
        for (fakes::FakeVhost* vhost : kernel_.vhosts()) {
          for (unsigned i = 0; i < fakes::FakeVhost::kVrings; ++i) {
            EXPECT_FALSE(vhost->vring(i).kick.valid());
            EXPECT_FALSE(vhost->vring(i).call.valid());
          }
        }
        EXPECT_TRUE((*backend)->Stop().empty());
        // ... and it comes up when it is tried again.
        EXPECT_TRUE((*backend)->Start(AllQueues()).ok());
        backend->reset();
      }
    }
    EXPECT_EQ(kernel_.Survivors(), before);
    EXPECT_EQ(fakes::CountOpenFds(), fds_before);
  }
  EXPECT_GE(failed, 18);
}

// Nothing is to be done about a request that fails while stopping; but whatever fails, the rings
// are stopped and nothing survives the backend.
TEST_P(BringUpFaultTest, NothingIsServedAfterAStopThatFailsAtAnyStep) {
  const fakes::OpenState before = kernel_.Survivors();
  for (int k = 1;; ++k) {
    ASSERT_LT(k, 100);
    absl::StatusOr<std::unique_ptr<KernelBackend>> backend = Create();
    ASSERT_TRUE(backend.ok()) << backend.status();
    ASSERT_TRUE((*backend)->Start(AllQueues(5)).ok());
    kernel_.FailCall(k, GetParam().error);
    const std::vector<StoppedVring> stopped = (*backend)->Stop();
    EXPECT_EQ(stopped.size(), queues_.size());
    EXPECT_EQ(kernel_.Survivors().attached_backends, 0) << kernel_.FaultText();
    const bool met = kernel_.FaultMet();
    backend->reset();
    EXPECT_EQ(kernel_.Survivors(), before) << kernel_.FaultText();
    if (!met) break;
  }
}

INSTANTIATE_TEST_SUITE_P(All, BringUpFaultTest,
                         testing::Values(BringUpCase{"Net1Emfile", 1, EMFILE},
                                         BringUpCase{"Net1Efault", 1, EFAULT},
                                         BringUpCase{"Net2Enomem", 2, ENOMEM},
                                         BringUpCase{"VsockEperm", 0, EPERM},
                                         BringUpCase{"VsockEinval", 0, EINVAL}),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace vhost
