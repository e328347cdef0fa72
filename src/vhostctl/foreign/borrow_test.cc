// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A process may always borrow its own fds: this one plays the foreign one.
#include "src/vhostctl/foreign/borrow.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <filesystem>
#include <iterator>

#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/host/network_namespace_fixture.h"
#include "vhost/host/tap.h"

namespace vhost::ctl {
namespace {

using ::testing::HasSubstr;

ptrdiff_t OpenFds() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

class BorrowTest : public NetworkNamespaceTest {};

TEST_F(BorrowTest, ATapTellsItsHeaderAndItsLimit) {
  const auto tap = Tap::Create(kernel_abi::LinuxKernel(), {.name = "tapborrow"});
  ASSERT_TRUE(tap.ok()) << tap.status();
  ASSERT_TRUE((*tap)->SetHeaderBytes(12).ok());
  const ptrdiff_t before = OpenFds();
  const auto facts = BorrowTap(kernel_abi::LinuxKernel(), getpid(), (*tap)->fd(0));
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_EQ(facts->header_bytes, 12);
  EXPECT_EQ(facts->sndbuf_bytes, kDefaultSndbufBytes);
  EXPECT_EQ(OpenFds(), before);
}

TEST(BorrowedFdTest, AnotherFileIsNotAsked) {
  const kernel_abi::UniqueFd fd(open("/dev/null", O_RDWR | O_CLOEXEC));
  const ptrdiff_t before = OpenFds();
  const auto features =
      BorrowVhostFeatures(kernel_abi::LinuxKernel(), getpid(), fd.get(), "/dev/vhost-net");
  EXPECT_EQ(features.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(features.status().message()), HasSubstr("is /dev/null now"));
  EXPECT_FALSE(
      BorrowVhostFeatures(kernel_abi::LinuxKernel(), getpid(), fd.get(), "/dev/null").ok());
  EXPECT_EQ(OpenFds(), before);
}

TEST(BorrowedFdTest, WhatIsRefusedStaysUnknown) {
  ForeignProcess process = {.pid = INT_MAX, .taps = {{.name = "tap0", .queues = 1, .fd = 3}}};
  ForeignDevice device = {.fd = 3, .node = "/dev/vhost-net", .type = "net"};
  AskTheKernel(kernel_abi::LinuxKernel(), &process, &device);
  EXPECT_FALSE(device.vhost_offered.has_value());
  EXPECT_THAT(device.vhost_offered_unknown, HasSubstr("pidfd_open"));
  EXPECT_FALSE(process.taps[0].header_bytes.has_value());
  const auto unknowns = Unknowns(process, device);
  EXPECT_EQ(unknowns.at(1).what, "offered features");
}

}  // namespace
}  // namespace vhost::ctl
