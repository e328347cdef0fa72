// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Fail at step k on the real nodes: whatever fails, the kernel is left as it was. What it holds is
// seen from outside: open fds, workers, the references on eventfds and the TAP, the CID.
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "tests/fakes/fake_kernel.h"
#include "tests/integration/failing_kernel.h"
#include "tests/integration/real_machine.h"
#include "vhost/host/tap.h"
#include "vhost/kernel/net_backend.h"
#include "vhost/kernel/proc_thread.h"
#include "vhost/kernel/vsock_backend.h"

namespace vhost {
namespace {

using testing::HasSubstr;

constexpr VirtioFeatures kAcked = {VirtioFeature::kVersion1};
constexpr uint64_t kCid = 6000;

// Calls without which a bring-up goes on: limits have defaults, and a kick that cannot be given was
// given.
bool IsTolerated(const std::string& call) {
  return absl::StartsWith(call, "open /sys/") || call == "read" || call == "write";
}

class FaultTest : public RealMachineTest {
 protected:
  explicit FaultTest(const char* node = kernel_abi::kVhostNetPath) : RealMachineTest(node) {}

  using Create = std::function<absl::StatusOr<std::unique_ptr<KernelBackend>>()>;

  int Workers() {
    int workers = 0;
    for (pid_t tid : ThreadsOfThisProcess()) {
      workers += absl::StartsWith(ThreadName(tid), "vhost-") ? 1 : 0;
    }
    return workers;
  }

  void FailAtEveryStep(const Create& create, int error) {
    const int fds = fakes::CountOpenFds();
    const int workers = Workers();
    int failed = 0;
    for (int k = 1;; ++k) {
      ASSERT_LT(k, 200);
      failing_.FailCall(k, error);
      absl::StatusOr<std::unique_ptr<KernelBackend>> backend = create();
      absl::Status status = backend.status();
      if (backend.ok()) status = (*backend)->Start(AllQueues(kAcked));
      const std::string met = failing_.met();
      failing_.FailCall(0, 0);
      SCOPED_TRACE(testing::Message() << "step " << k << ": " << met);
      if (met.empty() || IsTolerated(met)) {
        ASSERT_TRUE(status.ok()) << status;
      } else {
        ++failed;
        ASSERT_EQ(kernel_abi::GetErrno(status), error) << status;
        EXPECT_THAT(status.message(), HasSubstr(kernel_abi::GetSystemError(status)->call));
        if (backend.ok()) {
          // Nothing of the failed start is in the way of the next one.
          status = (*backend)->Start(AllQueues(kAcked));
          EXPECT_TRUE(status.ok()) << status;
        }
      }
      if (backend.ok()) backend->reset();
      EXPECT_EQ(fakes::CountOpenFds(), fds);
      // A worker ends a moment after its device.
      EXPECT_TRUE(Wait([&] { return Workers() == workers; }));
      if (met.empty()) break;
    }
    EXPECT_GE(failed, 18);
  }

  FailingKernel failing_{kernel_};
};

TEST_F(FaultTest, NothingOfANetDeviceSurvives) {
  for (int i = 0; i < 2; ++i) AddQueue();
  auto tap = Tap::Create(kernel_, {.name = "tapfault"});
  ASSERT_TRUE(tap.ok()) << tap.status();
  FailAtEveryStep(
      [&] { return NetBackend::Create(failing_, NetBackendOptions{.tap_fds = (*tap)->fds()}); },
      ENOMEM);
  // No device holds the TAP any more: with its last fd it goes, and can be made again.
  tap->reset();
  EXPECT_TRUE(Tap::Create(kernel_, {.name = "tapfault", .queues = 2}).ok());
}

TEST_F(FaultTest, NothingOfANetDeviceOfTwoPairsSurvives) {
  for (int i = 0; i < 4; ++i) AddQueue();
  auto tap = Tap::Create(kernel_, {.name = "tapfault2", .queues = 2});
  ASSERT_TRUE(tap.ok()) << tap.status();
  FailAtEveryStep(
      [&] { return NetBackend::Create(failing_, NetBackendOptions{.tap_fds = (*tap)->fds()}); },
      EMFILE);
}

// The limit of open files as the kernel enforces it, in a child: the limit is the whole process's.
TEST_F(FaultTest, RunningOutOfFdsIsReportedAndLeavesNothing) {
  for (int i = 0; i < 2; ++i) AddQueue();
  auto tap = Tap::Create(kernel_, {.name = "taplimit"});
  ASSERT_TRUE(tap.ok()) << tap.status();
  const auto host = std::make_shared<const HostFacts>(kernel_);  // Holds an fd of its own.
  const auto in_child = [&]() -> std::string {
    const int fds = fakes::CountOpenFds();
    for (int spare = 0; spare < 8; ++spare) {
      // The next fds have the numbers from `fds` on, as none below is free.
      const rlimit limit{.rlim_cur = static_cast<rlim_t>(fds + spare), .rlim_max = 4096};
      const rlimit unlimited{.rlim_cur = 1024, .rlim_max = 4096};
      if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return "setrlimit";
      absl::StatusOr<std::unique_ptr<NetBackend>> net =
          NetBackend::Create(kernel_, NetBackendOptions{.tap_fds = (*tap)->fds(), .host = host});
      absl::Status status = net.status();
      if (net.ok()) status = (*net)->Start(AllQueues(kAcked));
      ::setrlimit(RLIMIT_NOFILE, &unlimited);
      if (net.ok()) net->reset();
      if (!status.ok() && kernel_abi::GetErrno(status) != EMFILE)
        return std::string(status.message());
      if (status.ok() != (spare >= 3)) return absl::StrCat(spare, " fds: ", status.ToString());
      if (fakes::CountOpenFds() != fds) return absl::StrCat("fds are left with ", spare);
    }
    return "";
  };
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Only the child's own fds matter; those that it inherited may have gaps.
    for (int fd = 3; fd < 64; ++fd) ::dup(0);
    const std::string wrong = in_child();
    std::fputs(wrong.c_str(), stderr);
    ::_exit(wrong.empty() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

class VsockFaultTest : public FaultTest {
 protected:
  VsockFaultTest() : FaultTest(kernel_abi::kVhostVsockPath) {}
};

TEST_F(VsockFaultTest, NothingOfAVsockDeviceSurvives) {
  for (int i = 0; i < 2; ++i) AddQueue();
  // With the CID too: it can be taken again each time.
  FailAtEveryStep([&] { return VsockBackend::Create(failing_, {.cid = kCid}); }, EPERM);
}

}  // namespace
}  // namespace vhost
