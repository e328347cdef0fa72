// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Queues that stand still, on real vhost and in this process, and what an operator is told of them:
// a TAP behind which nothing is taken away any more, and a guest that gives no receive buffers.
#include <gmock/gmock.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "src/vhostctl/verb.h"
#include "tests/integration/plane_machine.h"
#include "vhost/inprocess/net_backend.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

bool Shell(const std::string& command) {
  return system(absl::StrCat("{ ", command, "; } >/dev/null 2>&1").c_str()) == 0;
}

class StallTest : public PlaneMachineTest, public testing::WithParamInterface<BackendKind> {
 protected:
  StallTest()
      : PlaneMachineTest(GetParam() == BackendKind::kKernel ? kernel_abi::kVhostNetPath
                                                            : kernel_abi::kTunPath) {}
  void SetUp() override {
    PlaneMachineTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    char name[] = "/tmp/vhost-stall-test-XXXXXX";
    directory_ = mkdtemp(name);
    BringUp({.control_socket = ControlSocketOptions{.path = Socket()},
             .watchdog = {.period_ms = 100, .stall_ms = 300}},
            {.name = "net0",
             .policy = GetParam() == BackendKind::kKernel ? OffloadPolicy::kRequire
                                                          : OffloadPolicy::kNever,
             .tap = {.name = "tapstall", .sndbuf_bytes = 65536}});
  }
  void TearDown() override {
    plane_.reset();
    Shell("ip link delete brstall; ip link delete dummystall");
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }
  std::string Socket() const { return directory_ + "/control.sock"; }

  // Frames that come out of the TAP stay where they are until nobody may send any more.
  bool DamBehindTap() const {
    return Shell("ip link add brstall type bridge") && Shell("ip link add dummystall type dummy") &&
           Shell("ip link set tapstall master brstall") &&
           Shell("ip link set dummystall master brstall") && Shell("ip link set brstall up") &&
           Shell("ip link set dummystall up") &&
           Shell("tc qdisc add dev dummystall root tbf rate 8bit burst 2000 limit 100000000");
  }
  void Fill() {
    std::vector<std::byte> bytes(kHeader);
    std::vector<std::byte> frame = Wire::Frame(std::string(1000, 'x'));
    frame[0] = std::byte{0x02};  // to one station, which the bridge does not know: never copied
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    for (int i = 0; i < 200; ++i) ring(kTransmitQueue).Chain().Readable(bytes).Publish();
    device_->Notify(kTransmitQueue);
  }

  // What `vhostctl VERB` writes, until `enough` says so.
  std::string Ctl(const std::vector<const char*>& arguments,
                  const std::function<bool(const std::string&)>& enough) const {
    std::string text;
    ctl::Invocation invocation;
    EXPECT_TRUE(ctl::ParseCommandLine(arguments, &invocation).ok());
    invocation.socket = Socket();
    invocation.write = [&](absl::string_view more) {
      absl::StrAppend(&text, more);
      return !enough(text);
    };
    const ctl::Outcome outcome = ctl::Run(invocation);
    EXPECT_EQ(outcome.code, ctl::kOk) << outcome.err;
    return text;
  }
  // Looks twice, half a second apart, and again and again until it says `what`.
  std::string TopUntil(const std::string& what) const {
    return Ctl({"top", "--batch", "--interval", "0.5", "-n", "100"},
               [&](const std::string& text) { return absl::StrContains(text, what); });
  }

  std::string directory_;
};

TEST_P(StallTest, AFilledTapIsNamedByEventsAndTop) {
  if (!DamBehindTap()) GTEST_SKIP() << "skipped: no bridge, dummy and tbf here";
  std::string told;
  std::atomic<bool> listens = false;
  std::thread listener([&] {
    told = Ctl({"events", "net0"}, [&](const std::string& text) {
      listens = true;
      return absl::StrContains(text, " stall queue 1");
    });
  });
  // Nobody knows when it listens: what is told again and again is heard then.
  while (!listens) {
    EXPECT_TRUE(plane_->Pause("net0", "test").ok());
    EXPECT_TRUE(plane_->Resume("net0").ok());
    absl::SleepFor(absl::Milliseconds(20));
  }
  Fill();
  EXPECT_THAT(TopUntil("net0 tx0 STALLED"),
              HasSubstr(absl::StrCat("the ", Name(GetParam()), " backend has not got on with it")));
  listener.join();
  EXPECT_THAT(told, HasSubstr("/net0 stall queue 1: "));
}

TEST_P(StallTest, AGuestThatGivesNoBuffersIsNamedByTop) {
  EXPECT_THAT(TopUntil("net0 rx0 no buffers"),
              HasSubstr("the guest's driver has put no buffers into it"));
}

INSTANTIATE_TEST_SUITE_P(Backends, StallTest,
                         testing::Values(BackendKind::kKernel, BackendKind::kInProcess),
                         [](const testing::TestParamInfo<BackendKind>& backend) {
                           return backend.param == BackendKind::kKernel ? "Kernel" : "InProcess";
                         });

}  // namespace
}  // namespace vhost
