// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Runs the VMM of docs/embedding (built in this tree; check-embedding builds it outside of it).
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>

#include <array>
#include <cstring>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/unique_fd.h"

namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

struct Result {
  int exit_code;
  std::string output;  // of stdout and stderr
};

Result RunTinyVmm() {
  FILE* pipe = popen("timeout 60 " TINY_VMM_PATH " 2>&1", "re");
  if (pipe == nullptr) return {-1, "popen"};
  Result result;
  std::array<char, 512> buffer;
  while (const size_t count = fread(buffer.data(), 1, buffer.size(), pipe)) {
    result.output.append(buffer.data(), count);
  }
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

// 0 if the node can be opened, else the errno.
int CannotOpen() {
  const kernel_abi::UniqueFd node(open("/dev/vhost-vsock", O_RDWR | O_CLOEXEC));
  return node.valid() ? 0 : errno;
}

TEST(TinyVmm, PassesTrafficThroughTheKernel) {
  if (const int error = CannotOpen(); error != 0) {
    GTEST_SKIP() << "skipped: /dev/vhost-vsock: " << strerror(error);
  }
  const Result result = RunTinyVmm();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("the host answered with op 3"),
                                   HasSubstr("queue 0 stopped at 1\nqueue 1 stopped at 1\n")));
}

TEST(TinyVmm, SaysPreciselyWhatIsMissing) {
  const int error = CannotOpen();
  if (error == 0) GTEST_SKIP() << "skipped: there is a /dev/vhost-vsock";
  const Result result = RunTinyVmm();
  EXPECT_EQ(result.exit_code, 3) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("tiny_vmm: /dev/vhost-vsock: open"),
                                   AnyOf(HasSubstr("ENOENT"), HasSubstr("EACCES"),
                                         HasSubstr("ENODEV"), HasSubstr("ENXIO"))));
}

}  // namespace
