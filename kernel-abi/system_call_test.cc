// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Calls and what becomes of their failures; owned descriptors and eventfds; opening nodes.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/node.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/unique_fd.h"
#include "kernel-abi/vhost.h"
#include "tests/fakes/fake_kernel.h"

namespace kernel_abi {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

// ---- Errors ------------------------------------------------------------------------------------

TEST(SystemError, SaysWhatWasAskedOfWhomAndWhatCameOfIt) {
  const absl::Status status = MakeSystemError(
      {.error = EACCES, .subject = "/dev/vhost-net", .call = "open"}, "add the user to group kvm");
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(status.message(),
            "/dev/vhost-net: open: EACCES (Permission denied); add the user to group kvm");
}

TEST(SystemError, CanBeToldApartWithoutReadingTheText) {
  absl::Status status = MakeSystemError(
      {.error = EBUSY, .subject = "tap0", .call = "TUNSETIFF", .arguments = "name=tap0"});
  status = AddAdvice(AddContext(status, "net0"), "pass an fd");
  EXPECT_EQ(status.message(),
            "net0: tap0: TUNSETIFF(name=tap0): EBUSY (Device or resource busy); pass an fd");
  const std::optional<SystemError> error = GetSystemError(status);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->error, EBUSY);
  EXPECT_EQ(error->subject, "tap0");
  EXPECT_EQ(error->call, "TUNSETIFF");
  EXPECT_EQ(error->arguments, "name=tap0");
  EXPECT_EQ(GetErrno(status), EBUSY);
}

TEST(SystemError, IsNotBehindEveryStatus) {
  EXPECT_EQ(GetErrno(absl::OkStatus()), 0);
  EXPECT_EQ(GetErrno(absl::InternalError("other")), 0);
  EXPECT_TRUE(AddContext(absl::OkStatus(), "x").ok());
  EXPECT_TRUE(AddAdvice(absl::OkStatus(), "x").ok());
}

TEST(SystemError, UnknownNumbersKeepTheirNumber) {
  EXPECT_EQ(ErrnoText(524), "errno 524 (unknown error)") << "the kernel's ENOTSUPP leaks at times";
}

TEST(Call, ARefusalIsAStatusWithDecodedArguments) {
  fakes::FakeKernel kernel;
  const UniqueFd fd = *OpenNode(kernel, kVhostNetPath);
  const Subject subject{kernel, fd.get(), kVhostNetPath};
  ASSERT_TRUE(Call(subject, kVhostSetOwner).ok());
  const auto result = Call(subject, kVhostSetVringNum, vhost_vring_state{1, 300});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(result.status().message(),
            "/dev/vhost-net: VHOST_SET_VRING_NUM(index=1 num=300): EINVAL (Invalid argument)");
}

TEST(Call, EveryKindOfArgumentReachesTheKernel) {
  fakes::FakeKernel kernel;
  const UniqueFd vhost = *OpenNode(kernel, kVhostNetPath);
  const UniqueFd tap = *OpenNode(kernel, kTunPath);
  const Subject node{kernel, vhost.get(), "vhost"};
  ASSERT_TRUE(Call(node, kVhostSetOwner).ok()) << "none";
  ASSERT_TRUE(Call(node, kVhostSetMemTable, MemoryTable{{0, 0x1000, 0x10000, 0}}).ok()) << "table";
  EXPECT_EQ(kernel.vhost(vhost.get())->memory().at(0).host, 0x10000u);
  uint64_t features = 0;
  ASSERT_TRUE(Call(node, kVhostGetFeatures, features).ok()) << "written by the kernel";
  EXPECT_NE(features, 0u);
  const Subject queue{kernel, tap.get(), "tap"};
  ASSERT_TRUE(Call(queue, kTunSetIff, InterfaceRequest("tap0", IFF_TAP | IFF_NO_PI)).ok());
  ASSERT_TRUE(Call(queue, kTunSetOffload, Offloads{kTunFCsum}).ok()) << "a number, by value";
  EXPECT_EQ(kernel.interface("tap0")->offloads, kTunFCsum);
}

// ---- Nodes -------------------------------------------------------------------------------------

TEST(OpenNode, SaysWhatAPersonCanDo) {
  const struct {
    const char* path;
    int error;
    const char* advice;
  } cases[] = {
      {kVhostNetPath, ENOENT, "modprobe vhost_net"},
      {kVhostVsockPath, ENOENT, "modprobe vhost_vsock"},
      {kTunPath, ENODEV, "modprobe tun"},
      {"/dev/kvm", ENOENT, "modprobe kvm_intel or kvm_amd"},
      {kVhostNetPath, EACCES, "pass an fd"},
      {kTunPath, EACCES, "chmod 0666"},
      {kVhostNetPath, EPERM, "device cgroup"},
      {kVhostNetPath, EBUSY, "open for itself alone"},
      {kVhostNetPath, EMFILE, "ulimit -n"},
      {kVhostNetPath, ENFILE, "fs.file-max"},
  };
  for (const auto& row : cases) {
    fakes::FakeKernelOptions options;
    options.open_errors[row.path] = row.error;
    fakes::FakeKernel kernel(options);
    const absl::Status status = OpenNode(kernel, row.path).status();
    EXPECT_EQ(GetErrno(status), row.error);
    EXPECT_THAT(std::string(status.message()), StartsWith(std::string(row.path) + ": open: "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.advice));
  }
}

TEST(OpenNode, GivesNoAdviceWhereThereIsNone) {
  EXPECT_THAT(std::string(OpenNode(LinuxKernel(), "/nowhere/at/all").status().message()),
              EndsWith("(No such file or directory)"));
}

TEST(ReadNumber, ReadsOneOrSaysWhyNot) {
  fakes::FakeKernel kernel;
  EXPECT_EQ(*ReadNumber(kernel, kVhostMaxMemRegionsPath), 64);
  EXPECT_EQ(GetErrno(ReadNumber(kernel, "/nowhere/at/all").status()), ENOENT);
  EXPECT_EQ(ReadNumber(kernel, "/dev/null").status().code(), absl::StatusCode::kInvalidArgument);
}

// ---- Descriptors -------------------------------------------------------------------------------

TEST(UniqueFd, ClosesWhatItHolds) {
  const int before = fakes::CountOpenFds();
  {
    UniqueFd a(::eventfd(0, 0));
    UniqueFd b(std::move(a));
    EXPECT_FALSE(a.valid());  // NOLINT: that a moved-from one is empty is its contract
    a = std::move(b);
    a.Reset(::eventfd(0, 0));
    EXPECT_TRUE(a.valid());
    const UniqueFd released(a.Release());
    EXPECT_FALSE(a.valid());
  }
  EXPECT_EQ(fakes::CountOpenFds(), before);
}

TEST(CloseInParallel, ClosesAllOfThem) {
  const int before = fakes::CountOpenFds();
  for (const int count : {0, 1, 2, 100}) {
    std::vector<UniqueFd> fds;
    for (int i = 0; i < count; ++i) fds.emplace_back(::eventfd(0, EFD_CLOEXEC));
    if (count > 1) fds.emplace_back();  // An empty one is nothing to trip over.
    CloseInParallel(std::move(fds));
    EXPECT_EQ(fakes::CountOpenFds(), before) << count;
  }
}

// ---- Eventfds ----------------------------------------------------------------------------------

TEST(EventFd, CountsAndDrains) {
  const EventFd event = *EventFd::Create(LinuxKernel());
  EXPECT_FALSE(event.IsSignalled());
  EXPECT_FALSE(event.Drain());
  event.Signal();
  event.Signal();
  EXPECT_TRUE(event.IsSignalled());
  EXPECT_TRUE(event.Drain());
  EXPECT_FALSE(event.IsSignalled());
}

TEST(EventFd, ABlockingOneDoesNotBlockItsDrain) {
  const EventFd event(LinuxKernel(), UniqueFd(::eventfd(0, 0)));
  EXPECT_FALSE(event.Drain());
}

TEST(EventFd, AFullCounterStaysSignalled) {
  const EventFd event = *EventFd::Create(LinuxKernel());
  const uint64_t almost_full = ~uint64_t{0} - 1;
  ASSERT_EQ(::write(event.get(), &almost_full, sizeof(almost_full)), 8);
  event.Signal();
  EXPECT_TRUE(event.IsSignalled());
}

TEST(EventFd, SaysWhatToDoWithoutDescriptors) {
  fakes::FakeKernel kernel;
  kernel.FailCall(1, EMFILE);
  EXPECT_EQ(EventFd::Create(kernel).status().message(),
            "eventfd: eventfd: EMFILE (Too many open files); raise the limit of open files");
}

}  // namespace
}  // namespace kernel_abi
