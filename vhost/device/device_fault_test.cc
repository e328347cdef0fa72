// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Fail at step k, for whole devices: TAP, kernel backend, device and a driver that brings it up,
// changes its queue pairs and resets it. Whatever system call fails, the driver is told or can go
// on, a reset mends it (but where the kernel will not let go of a ring), and nothing survives the
// device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "kernel-abi/system_error.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/fake_kernel.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/manual_loop.h"
#include "vhost/device/net_device.h"
#include "vhost/device/tap_port.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/vsock_device.h"
#include "vhost/kernel/net_backend.h"
#include "vhost/kernel/vsock_backend.h"

namespace vhost {
namespace {

using fakes::DriverRing;
using ::testing::HasSubstr;
using enum VirtioFeature;

constexpr uint8_t kAgreed =
    device_status::kAcknowledge | device_status::kDriver | device_status::kFeaturesOk;
constexpr uint8_t kRunning = kAgreed | device_status::kDriverOk;

struct FaultCase {
  const char* name;
  bool net;
  int error;
};
void PrintTo(const FaultCase& row, std::ostream* out) { *out << row.name; }

class DeviceFaultTest : public ::testing::TestWithParam<FaultCase> {
 protected:
  DeviceFaultTest() {
    EXPECT_TRUE(memory_.Add(ram_.region()).ok());
    const int queues = GetParam().net ? 5 : 3;
    for (int queue = 0; queue < queues; ++queue) {
      rings_.push_back(std::make_unique<DriverRing>(ram_, DriverRing::Options{}));
    }
  }

  absl::StatusOr<std::unique_ptr<VirtioDevice>> Create() {
    std::vector<BackendCandidate> candidates;
    std::unique_ptr<DeviceModel> model;
    if (GetParam().net) {
      auto tap = Tap::Create(kernel_, {.name = "tap0", .queues = 2});
      if (!tap.ok()) return tap.status();
      NetBackendOptions options;
      options.tap_fds = (*tap)->fds();
      candidates.push_back({BackendKind::kKernel, NetBackend::Create(kernel_, std::move(options))});
      auto net = NetDevice::Create(std::make_unique<TapPort>(*std::move(tap)),
                                   {.mac = {0x52, 0x54, 0, 0, 0, 1}, .queue_pairs = 2});
      if (!net.ok()) return net.status();
      model = *std::move(net);
    } else {
      candidates.push_back({BackendKind::kKernel, VsockBackend::Create(kernel_, {.cid = 42})});
      auto vsock = VsockDevice::Create({.guest_cid = 42});
      if (!vsock.ok()) return vsock.status();
      model = *std::move(vsock);
    }
    auto backends = BackendSelector::Create(OffloadPolicy::kRequire, std::move(candidates));
    if (!backends.ok()) return backends.status();
    return VirtioDevice::Create({.name = "dev0",
                                 .kernel = &kernel_,
                                 .memory = &memory_,
                                 .loop = &loop_,
                                 .model = std::move(model),
                                 .backends = *std::move(backends)});
  }

  // As a driver does. True if the device runs at the end.
  bool BringUp(VirtioDevice& device) {
    VirtioFeatures features = {kVersion1};
    if (GetParam().net) features = features | VirtioFeatures{kNetMq, kNetCtrlVq, kNetGuestCsum};
    device.WriteStatus(device_status::kAcknowledge | device_status::kDriver);
    for (uint32_t word = 0; word < 2; ++word) {
      device.WriteDriverFeatures(word, static_cast<uint32_t>(features.low() >> (32 * word)));
    }
    device.WriteStatus(kAgreed);
    for (size_t queue = 0; queue < rings_.size(); ++queue) {
      rings_[queue]->Forget();
      device.WriteQueueSetup(static_cast<int>(queue), rings_[queue]->setup());
      device.EnableQueue(static_cast<int>(queue));
    }
    device.WriteStatus(kRunning);
    loop_.Pump();
    return device.status() == kRunning;
  }
  // Asks for `pairs` queue pairs. What is answered; nullopt if nothing is.
  std::optional<uint8_t> SetPairs(VirtioDevice& device, char pairs) {
    DriverRing& control = *rings_[4];
    control.Chain().Readable(std::string("\4\0", 2) + pairs + '\0').Writable(1).Publish();
    device.Notify(4);
    loop_.Pump();
    const auto used = control.TakeUsed();
    if (!used.has_value() || used->written != 1) return std::nullopt;
    return static_cast<uint8_t>(used->data[0]);
  }
  // All that a driver does with a device; true if nothing failed.
  bool Live(VirtioDevice& device) {
    if (!BringUp(device)) {
      // A fault that did not stop the start cannot be the reason, so this is one that was told.
      EXPECT_NE(device.status() & device_status::kNeedsReset, 0);
      const std::string call = kernel_.FaultText().substr(0, kernel_.FaultText().find('('));
      EXPECT_THAT(device.Report().problem, HasSubstr(call));
      EXPECT_THAT(device.Report().problem, HasSubstr(kernel_abi::ErrnoText(GetParam().error)));
      EXPECT_EQ(kernel_.Survivors().attached_backends, 0);
      return false;
    }
    if (!GetParam().net) return true;
    const std::optional<uint8_t> more = SetPairs(device, 2);
    const std::optional<uint8_t> fewer = SetPairs(device, 1);
    // Refused or lost, the device goes on with what it had, unless nobody knows what that is.
    if (!WouldNotStop(kernel_.FaultText())) {
      EXPECT_EQ(device.status(), kRunning) << device.Report().problem;
    }
    return more == 0 && fewer == 0;
  }

  // Those that everything goes on without: limits have defaults, a link's state is left out of
  // reports, and an eventfd that cannot be signalled is full.
  static bool IsTolerated(const std::string& fault) {
    return absl::StrContains(fault, "/sys/module") || absl::StrContains(fault, "/proc/") ||
           absl::StartsWith(fault, "read") || absl::StartsWith(fault, "write") ||
           absl::StartsWith(fault, "TUNSETOFFLOAD");  // Tried with fewer.
  }

  // One of the requests by which a ring is taken from the kernel.
  static bool WouldNotStop(const std::string& fault) {
    return absl::StartsWith(fault, "VHOST_VSOCK_SET_RUNNING(0)") ||
           absl::StrContains(fault, "fd=-1");
  }

  fakes::FakeKernel kernel_;
  fakes::GuestRam ram_{16 << 20};
  GuestMemory memory_;
  fakes::ManualLoop loop_;
  std::vector<std::unique_ptr<DriverRing>> rings_;
};

TEST_P(DeviceFaultTest, AResetMendsAFailureAtAnyStepAndNothingSurvivesTheDevice) {
  const fakes::OpenState before = kernel_.Survivors();
  const int fds_before = fakes::CountOpenFds();
  int failed_starts = 0;
  for (int k = 1;; ++k) {
    ASSERT_LT(k, 1000) << "the life of a device does not end";
    kernel_.FailCall(k, GetParam().error);
    auto device = Create();
    bool good = device.ok();
    if (!good && !IsTolerated(kernel_.FaultText())) {
      EXPECT_EQ(kernel_abi::GetErrno(device.status()), GetParam().error) << device.status();
    }
    if (good) {
      good = Live(**device);
      if (!good) ++failed_starts;
    }
    const bool met = kernel_.FaultMet();
    SCOPED_TRACE(::testing::Message() << "step " << k << ": " << kernel_.FaultText());
    EXPECT_TRUE(good || met) << device.status();
    if (device.ok()) {
      (*device)->WriteStatus(0);
      EXPECT_EQ((*device)->status(), 0);
      EXPECT_EQ(kernel_.Survivors().attached_backends, 0);
      // The fault may have come with the reset itself. Either way the next life is as the first,
      // but for a node that would not stop: it was closed, so that it serves no more, and the
      // device has to be made anew, which its driver is told.
      if (WouldNotStop(kernel_.FaultText())) {
        EXPECT_FALSE(BringUp(**device));
        EXPECT_THAT((*device)->Report().problem, HasSubstr("make the device anew"));
      } else {
        EXPECT_TRUE(Live(**device)) << (*device)->Report().problem;
      }
      device->reset();
    }
    EXPECT_EQ(kernel_.Survivors(), before);
    EXPECT_EQ(fakes::CountOpenFds(), fds_before);
    EXPECT_EQ(loop_.watches(), 0u);
    if (!met || ::testing::Test::HasFailure()) break;
  }
  EXPECT_GE(failed_starts, 8);
}

INSTANTIATE_TEST_SUITE_P(, DeviceFaultTest,
                         ::testing::Values(FaultCase{"NetEnomem", true, ENOMEM},
                                           FaultCase{"NetEfault", true, EFAULT},
                                           FaultCase{"VsockEnomem", false, ENOMEM}),
                         [](const ::testing::TestParamInfo<FaultCase>& row) {
                           return std::string(row.param.name);
                         });

}  // namespace
}  // namespace vhost
