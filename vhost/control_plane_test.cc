// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control_plane.h"

#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/system_error.h"
#include "tests/fakes/fake_kernel.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/manual_loop.h"

namespace vhost {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ControlPlaneTest : public ::testing::Test {
 protected:
  void SetUp() override { Make(); }
  void TearDown() override {
    plane_.reset();
    EXPECT_EQ(kernel_.Survivors(), fakes::OpenState{}) << kernel_.Survivors().Text();
  }

  void Make(ControlPlaneOptions options = {}) {
    ASSERT_TRUE(memory_.table()->regions().size() == 1 || memory_.Add(ram_.region()).ok());
    options.kernel = &kernel_;
    options.memory = &memory_;
    auto plane = ControlPlane::Create(std::move(options));
    ASSERT_TRUE(plane.ok()) << plane.status();
    plane_ = *std::move(plane);
  }

  static NetOptions Net(const std::string& name, int pairs = 1) {
    NetOptions options;
    options.name = name;
    options.device.queue_pairs = pairs;
    options.tap.name = absl::StrCat("tap-", name);
    return options;
  }
  static VsockOptions Vsock(const std::string& name) {
    VsockOptions options;
    options.name = name;
    return options;
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const DeviceReport& report : plane_->Describe()) names.push_back(report.name);
    return names;
  }

  fakes::FakeKernel kernel_;
  fakes::GuestRam ram_;
  GuestMemory memory_;
  std::unique_ptr<ControlPlane> plane_;
};

TEST_F(ControlPlaneTest, AssemblesANetDevice) {
  const auto device = plane_->AddNet(Net("net0", 2));
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->device_id(), DeviceId::kNet);
  EXPECT_EQ((*device)->queue_count(), 5);
  EXPECT_NE(plane_->FindNet("net0"), nullptr);
  EXPECT_EQ(plane_->FindVsock("net0"), nullptr);
  const auto report = plane_->Describe("net0");
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->policy, "prefer");
  EXPECT_EQ(report->backend->kind, BackendKind::kKernel);
  EXPECT_EQ(report->backend->node, "/dev/vhost-net");
  EXPECT_THAT(report->refusals, IsEmpty());
  ASSERT_EQ(report->taps.size(), 1);
  EXPECT_EQ(report->taps[0].name, "tap-net0");
  EXPECT_EQ(report->taps[0].queues, 2);
  EXPECT_EQ(kernel_.Survivors().vhost_nodes, 2);
  EXPECT_EQ(kernel_.Survivors().tun_queues, 2);
}

TEST_F(ControlPlaneTest, MakesUpAMacThatIsLocallyAdministered) {
  ASSERT_TRUE(plane_->AddNet(Net("net0")).ok());
  ASSERT_TRUE(plane_->AddNet(Net("net1")).ok());
  const std::string mac = *plane_->Describe("net0")->mac;
  EXPECT_NE(mac, *plane_->Describe("net1")->mac);
  EXPECT_EQ((*ParseMacAddress(mac))[0] & 0x03, 0x02);
  NetOptions options = Net("net2");
  options.device.mac = {0x52, 0x54, 0, 1, 2, 3};
  ASSERT_TRUE(plane_->AddNet(std::move(options)).ok());
  EXPECT_EQ(plane_->Describe("net2")->mac, "52:54:00:01:02:03");
}

TEST_F(ControlPlaneTest, AssemblesASocketDeviceWithTheCidThatItGot) {
  VsockOptions options = Vsock("vsock0");
  options.backend.cid = 42;
  ASSERT_TRUE(plane_->AddVsock(std::move(options)).ok());
  ASSERT_TRUE(plane_->AddVsock(Vsock("vsock1")).ok());
  EXPECT_EQ(plane_->Describe("vsock0")->guest_cid, 42);
  EXPECT_EQ(plane_->Describe("vsock1")->guest_cid, 3);
  EXPECT_NE(plane_->FindVsock("vsock1"), nullptr);
}

TEST_F(ControlPlaneTest, SaysWhichDeviceAndWhatItLacks) {
  kernel_.mutable_options().vhost_net = false;
  NetOptions options = Net("net0");
  options.policy = OffloadPolicy::kRequire;
  const absl::Status net = plane_->AddNet(std::move(options)).status();
  EXPECT_EQ(kernel_abi::GetErrno(net), ENOENT);
  EXPECT_THAT(std::string(net.message()),
              AllOf(HasSubstr("net0: "), HasSubstr("/dev/vhost-net: open"), HasSubstr("ENOENT")));
  kernel_.mutable_options().open_errors["/dev/vhost-vsock"] = EACCES;
  const absl::Status vsock = plane_->AddVsock(Vsock("vsock0")).status();
  EXPECT_EQ(kernel_abi::GetErrno(vsock), EACCES);
  EXPECT_THAT(std::string(vsock.message()), HasSubstr("vsock0: "));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(ControlPlaneTest, ServesInProcessWhatVhostCannotAndSaysWhy) {
  kernel_.mutable_options().vhost_net = false;
  kernel_.mutable_options().open_errors["/dev/vhost-vsock"] = EACCES;
  ASSERT_TRUE(plane_->AddNet(Net("net0")).ok());
  // A unix socket is what a host reaches such a guest by: without a path there is no candidate.
  const absl::Status nobody = plane_->AddVsock(Vsock("vsock0")).status();
  EXPECT_THAT(std::string(nobody.message()), HasSubstr("EACCES"));
  VsockOptions vsock = Vsock("vsock0");
  const std::string folder = ::testing::TempDir();
  vsock.in_process.host.uds_path = absl::StrCat(folder, "/control-plane-", ::getpid(), ".vsock");
  vsock.backend.cid = 7;
  const auto added = plane_->AddVsock(std::move(vsock));
  ASSERT_TRUE(added.ok()) << added.status();
  EXPECT_EQ(plane_->Describe("vsock0")->guest_cid, 7);
  for (const auto& [name, reason] :
       {std::pair("net0", "/dev/vhost-net: open: ENOENT"), std::pair("vsock0", "EACCES")}) {
    const auto report = plane_->Describe(name);
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->backend->kind, BackendKind::kInProcess);
    ASSERT_EQ(report->refusals.size(), 1) << name;
    EXPECT_THAT(report->refusals[0].reason, HasSubstr(reason));
  }
}

TEST_F(ControlPlaneTest, NeverOpensVhostUnderThePolicyNever) {
  NetOptions options = Net("net0");
  options.policy = OffloadPolicy::kNever;
  ASSERT_TRUE(plane_->AddNet(std::move(options)).ok());
  EXPECT_EQ(plane_->Describe("net0")->backend->kind, BackendKind::kInProcess);
  for (const fakes::LoggedCall& call : kernel_.calls()) {
    EXPECT_THAT(call.Text(), ::testing::Not(HasSubstr("/dev/vhost-net")));
  }
}

TEST_F(ControlPlaneTest, NamesAreTakenOnce) {
  ASSERT_TRUE(plane_->AddNet(Net("a")).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(plane_->AddVsock(Vsock("a")).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(plane_->AddVsock(Vsock("")).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(plane_->AddVsock(Vsock("a/b")).status()));
  ASSERT_TRUE(plane_->Remove("a").ok());
  EXPECT_TRUE(plane_->AddVsock(Vsock("a")).ok());
}

TEST_F(ControlPlaneTest, RemoveLeavesNothingOfADevice) {
  ASSERT_TRUE(plane_->AddNet(Net("net0", 2)).ok());
  ASSERT_TRUE(plane_->AddVsock(Vsock("vsock0")).ok());
  const absl::Status unknown = plane_->Remove("net9");
  EXPECT_TRUE(absl::IsNotFound(unknown));
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("there are net0, vsock0"));
  ASSERT_TRUE(plane_->Remove("net0").ok());
  EXPECT_THAT(Names(), ElementsAre("vsock0"));
  EXPECT_EQ(kernel_.Survivors().tun_queues, 0);
  EXPECT_EQ(kernel_.Survivors().vhost_nodes, 1);
  ASSERT_TRUE(plane_->Remove("vsock0").ok());
  EXPECT_EQ(kernel_.Survivors(), fakes::OpenState{}) << kernel_.Survivors().Text();
}

// Every call of an assembly fails once. Some failures are survived (a module parameter that cannot
// be read); what is not survived leaves nothing.
TEST_F(ControlPlaneTest, AFailureAtAnyStepLeavesNothing) {
  int refused = 0;
  for (int k = 1;; ++k) {
    kernel_.FailCall(k, EMFILE);
    const auto net = plane_->AddNet(Net("net0", 2));
    const auto vsock = plane_->AddVsock(Vsock("vsock0"));
    if (!kernel_.FaultMet()) {
      kernel_.FailCall(1'000'000, EMFILE);  // beyond all that follow
      break;
    }
    for (const auto* device : {&net, &vsock}) {
      if (device->ok()) continue;
      ++refused;
      EXPECT_THAT(std::string(device->status().message()),
                  ::testing::AnyOf(HasSubstr("net0: "), HasSubstr("vsock0: ")))
          << kernel_.FaultText();
    }
    EXPECT_EQ(plane_->Remove("net0").ok(), net.ok());
    EXPECT_EQ(plane_->Remove("vsock0").ok(), vsock.ok());
    ASSERT_EQ(kernel_.Survivors(), fakes::OpenState{}) << k << ": " << kernel_.FaultText() << "\n"
                                                       << kernel_.Survivors().Text();
    EXPECT_THAT(Names(), IsEmpty());
  }
  EXPECT_GT(refused, 20);
  plane_.reset();
}

TEST_F(ControlPlaneTest, RefusesMoreMemoryRegionsThanVhostTakes) {
  kernel_.mutable_options().max_mem_regions = 2;
  const fakes::GuestRam second(1 << 16, 0x40'0000);
  const fakes::GuestRam third(1 << 16, 0x80'0000);
  ASSERT_TRUE(memory_.Add(second.region()).ok());
  ASSERT_TRUE(memory_.Add(third.region()).ok());
  NetOptions options = Net("net0");
  options.policy = OffloadPolicy::kRequire;
  const absl::Status status = plane_->AddNet(std::move(options)).status();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("net0"), HasSubstr("max_mem_regions")));
}

TEST_F(ControlPlaneTest, SaysWhenTooFewFdsAreLeft) {
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  rlimit tight = before;
  tight.rlim_cur = 70;
  setrlimit(RLIMIT_NOFILE, &tight);
  const absl::Status status = plane_->AddNet(Net("net0", 16)).status();
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("net0: needs 137 file descriptors"), HasSubstr("LimitNOFILE=")));
}

TEST_F(ControlPlaneTest, AReportSourceStandsForTheDevicesReport) {
  VirtioDevice* device = *plane_->AddNet(Net("net0"));
  ASSERT_TRUE(plane_
                  ->SetReportSource("net0",
                                    [device] {
                                      DeviceReport report = device->Report();
                                      report.wiring.push_back({.what = "notify 0"});
                                      return report;
                                    })
                  .ok());
  EXPECT_EQ(plane_->Describe("net0")->wiring.size(), 1);
  EXPECT_EQ(plane_->Describe()[0].wiring.size(), 1);
  ASSERT_TRUE(plane_->SetReportSource("net0", nullptr).ok());
  EXPECT_THAT(plane_->Describe("net0")->wiring, IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(plane_->SetReportSource("net1", nullptr)));
}

TEST_F(ControlPlaneTest, DevicesComeAndGoWhileOthersLook) {
  std::atomic<bool> done = false;
  std::thread looker([&] {
    while (!done) plane_->Describe();
  });
  std::thread other([&] {
    for (int i = 0; i < 50; ++i) {
      EXPECT_TRUE(plane_->AddVsock(Vsock("vsock0")).ok());
      EXPECT_TRUE(plane_->Remove("vsock0").ok());
    }
  });
  for (int i = 0; i < 50; ++i) {
    const auto device = plane_->AddNet(Net("net0"));
    ASSERT_TRUE(device.ok()) << device.status();
    ASSERT_TRUE(plane_->SetReportSource("net0", [&] { return (*device)->Report(); }).ok());
    EXPECT_TRUE(plane_->Remove("net0").ok());
  }
  other.join();
  done = true;
  looker.join();
}

TEST_F(ControlPlaneTest, AnswersOnItsControlSocket) {
  char directory[] = "/tmp/vhost-plane-test-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  plane_.reset();
  setenv("XDG_RUNTIME_DIR", directory, 1);
  Make({.vm_name = "web", .control_socket = ControlSocketOptions{}});
  EXPECT_EQ(plane_->control_socket_path(),
            absl::StrCat(directory, "/libvhost/web-", getpid(), ".sock"));
  EXPECT_TRUE(std::filesystem::is_socket(plane_->control_socket_path()));
  const std::string path = plane_->control_socket_path();
  plane_.reset();
  EXPECT_FALSE(std::filesystem::exists(path));
  const auto bad_name = ControlPlane::Create({.kernel = &kernel_,
                                              .memory = &memory_,
                                              .vm_name = "a/b",
                                              .control_socket = ControlSocketOptions{}});
  EXPECT_TRUE(absl::IsInvalidArgument(bad_name.status()));
  Make({.control_socket = ControlSocketOptions{.path = absl::StrCat(directory, "/x")}});
  EXPECT_EQ(plane_->control_socket_path(), absl::StrCat(directory, "/x"));
  plane_.reset();
  std::filesystem::remove_all(directory);
}

TEST_F(ControlPlaneTest, UsesTheLoopOfAVmmThatHasOne) {
  plane_.reset();
  fakes::ManualLoop loop;
  Make({.loop = &loop});
  EXPECT_EQ(&plane_->loop(), &loop);
  EXPECT_TRUE(plane_->AddNet(Net("net0")).ok());
  plane_.reset();
}

TEST_F(ControlPlaneTest, AsksForAKernelBackendAgainWhenItIsWanted) {
  kernel_.mutable_options().vhost_net = false;
  ASSERT_TRUE(plane_->AddNet(Net("net0")).ok());
  EXPECT_EQ(kernel_abi::GetErrno(plane_->Handover("net0", BackendKind::kKernel, "").status()),
            ENOENT);
  kernel_.mutable_options().vhost_net = true;
  ASSERT_TRUE(plane_->Handover("net0", BackendKind::kKernel, "it is there now").ok());
  EXPECT_EQ(plane_->Describe("net0")->backend->kind, BackendKind::kKernel);
  EXPECT_THAT(plane_->Describe("net0")->refusals, IsEmpty());
  ASSERT_TRUE(plane_->Handover("net0", BackendKind::kInProcess, "to look").ok());
  EXPECT_EQ(plane_->Describe("net0")->backend->kind, BackendKind::kInProcess);
  EXPECT_THAT(plane_->Describe("net0")->refusals.at(0).reason, HasSubstr("to look"));
  EXPECT_TRUE(absl::IsNotFound(plane_->Handover("net1", BackendKind::kKernel, "").status()));
}

TEST_F(ControlPlaneTest, OpensTheSocketsOfAGuestOnlyWhenItServesThem) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/on-demand-", ::getpid());
  VsockOptions options = Vsock("vsock0");
  options.in_process.host.uds_path = path;
  ASSERT_TRUE(plane_->AddVsock(std::move(options)).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(plane_->Handover("vsock0", BackendKind::kInProcess, "").ok());
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_EQ(plane_->Describe("vsock0")->guest_cid, 3);
}

TEST_F(ControlPlaneTest, TellsWhatHappensToDevices) {
  plane_.reset();
  fakes::ManualLoop loop;
  std::vector<std::string> heard;
  Make({.loop = &loop, .on_event = [&](const DeviceEvent& event, uint64_t) {
          heard.push_back(absl::StrCat(event.device, " ", event.report.what));
          // It holds no lock.
          EXPECT_TRUE(plane_->Describe("net0").ok());
        }});
  ASSERT_TRUE(plane_->AddNet(Net("net0")).ok());
  ASSERT_TRUE(plane_->Pause("net0", "snapshot").ok());
  EXPECT_TRUE(plane_->Describe("net0")->paused);
  ASSERT_TRUE(plane_->Resume("net0").ok());
  loop.Pump();
  EXPECT_THAT(heard, ElementsAre("net0 paused", "net0 resumed"));
  EXPECT_TRUE(absl::IsNotFound(plane_->Pause("net1", "")));
  EXPECT_TRUE(plane_->Describe("net0")->watchdog.has_value());
  plane_.reset();
  Make({.loop = &loop, .watchdog = {.period_ms = 0}});
  ASSERT_TRUE(plane_->AddNet(Net("net0")).ok());
  EXPECT_FALSE(plane_->Describe("net0")->watchdog.has_value());
  plane_.reset();
}

TEST(ControlPlane, NeedsMemory) {
  EXPECT_TRUE(absl::IsInvalidArgument(ControlPlane::Create({}).status()));
}

}  // namespace
}  // namespace vhost
