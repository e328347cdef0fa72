// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Runs the device of docs/backend as the process of its own that it is, with a driver at its ring.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "tests/fakes/vhost_user_front_end.h"
#include "vhost/host/unix_socket.h"

namespace {

using FrontEnd = fakes::VhostUserFrontEnd;
using vhost::user::FrontEndRequest;

class RngBackend : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "rng-" + std::to_string(getpid()) + ".sock";
    Start();
  }
  void TearDown() override {
    kill(pid_, SIGTERM);
    int status = 0;
    ASSERT_EQ(waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_NE(access(path_.c_str(), F_OK), 0) << "its socket is left";
  }
  void Start() {
    const char* const argv[] = {RNG_BACKEND_PATH, path_.c_str(), nullptr};
    ASSERT_EQ(
        posix_spawn(&pid_, argv[0], nullptr, nullptr, const_cast<char* const*>(argv), environ), 0);
  }
  std::unique_ptr<FrontEnd> Connect() {
    for (int i = 0; i < 6000; ++i) {
      auto socket = vhost::ConnectUnix(path_);
      if (socket.ok()) return std::make_unique<FrontEnd>(*std::move(socket));
      usleep(10'000);
    }
    return nullptr;
  }

  std::string path_;
  pid_t pid_ = -1;
};

TEST_F(RngBackend, FillsBuffersAlsoAfterItWasKilled) {
  fakes::GuestRam ram(1 << 20, fakes::GuestRam::kDefaultStart, true);
  FrontEnd::Ring ring(ram, {.size = 8});
  std::set<std::string> seen;
  const auto fill = [&](FrontEnd& front_end) {
    ring.driver.Chain().Writable(64).Publish();
    front_end.Kick(ring);
    const auto used = front_end.WaitForUsed(ring);
    ASSERT_TRUE(used.has_value());
    ASSERT_EQ(used->written, 64U);
    EXPECT_TRUE(seen.insert(used->text()).second) << "the same 64 bytes twice";
  };
  constexpr uint64_t kVersion1 = uint64_t{1} << 32;
  auto front_end = Connect();
  ASSERT_NE(front_end, nullptr);
  ASSERT_TRUE(front_end->Negotiate(kVersion1, {}));
  ASSERT_TRUE(front_end->ShareMemory(ram));
  ASSERT_TRUE(front_end->SetUp(ram, 0, ring) && front_end->Enable(0));
  for (int i = 0; i < 10; ++i) ASSERT_NO_FATAL_FAILURE(fill(*front_end));

  kill(pid_, SIGKILL);
  ASSERT_EQ(waitpid(pid_, nullptr, 0), pid_);
  // The driver does not know, and asks for more meanwhile.
  ring.driver.Chain().Writable(32).Publish();
  Start();
  front_end = Connect();
  ASSERT_NE(front_end, nullptr);
  ASSERT_TRUE(front_end->Negotiate(kVersion1, {}));
  ASSERT_TRUE(front_end->ShareMemory(ram));
  // On from the used index, which is what a front end has then.
  ASSERT_TRUE(front_end->SetUp(ram, 0, ring, 10) && front_end->Enable(0));
  const auto used = front_end->WaitForUsed(ring);
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->written, 32U);
  ASSERT_NO_FATAL_FAILURE(fill(*front_end));
}

}  // namespace
