// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// A running driver goes from one device object to another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/fake_net_port.h"
#include "vhost/control/state_json.h"
#include "vhost/device/echo_model_fixture.h"
#include "vhost/device/net_device.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/vsock_device.h"

namespace vhost {
namespace {

using enum VirtioFeature;
using ::testing::HasSubstr;

// Saves the state of the rig's device as JSON, and has another device take its place.
class DeviceStateTest : public ::testing::Test {
 protected:
  std::string Save() {
    const absl::StatusOr<DeviceState> state = rig_.device->SaveState();
    EXPECT_TRUE(state.ok()) << state.status();
    return state.ok() ? control::ToJson(*state) : "";
  }
  void Replace(const std::function<void()>& build) {
    old_ = std::move(rig_.device);
    rig_.state = std::make_shared<fakes::FakeBackend::State>();
    build();
  }
  absl::Status Restore(const std::string& json) {
    const absl::StatusOr<DeviceState> state = control::DeviceStateFromJson(json);
    return state.ok() ? rig_.device->RestoreState(*state) : state.status();
  }

  fakes::DeviceRig rig_{"dev0"};
  std::unique_ptr<VirtioDevice> old_;
};

TEST_F(DeviceStateTest, ADriverGoesOnWithAnotherDevice) {
  const auto build = [this] { rig_.Build(std::make_unique<EchoModel>(), 4); };
  build();
  rig_.BringUp({kVersion1, kEventIdx});
  fakes::DriverRing& local = *rig_.rings.at(EchoModel::kLocalQueue);
  for (const char* text : {"one", "two"}) {
    local.Chain().Readable(text).Writable(8).Publish();
    rig_.Kick(EchoModel::kLocalQueue);
    EXPECT_EQ(local.TakeUsed()->text(), text);
  }
  rig_.state->reached = {{0, 11}, {1, 22}};
  EXPECT_EQ(rig_.device->SaveState().status().code(), absl::StatusCode::kFailedPrecondition);
  rig_.device->Pause("to move");
  // The driver does not know of it.
  local.Chain().Readable("three").Writable(8).Publish();
  const std::string json = Save();
  Replace(build);
  ASSERT_TRUE(Restore(json).ok());
  EXPECT_EQ(rig_.device->status(), fakes::DeviceRig::kRunning);
  EXPECT_FALSE(rig_.state->running);
  ASSERT_TRUE(rig_.device->Resume().ok());
  EXPECT_EQ(rig_.state->vrings.at(0).base, 11u);
  EXPECT_EQ(rig_.state->vrings.at(1).base, 22u);
  EXPECT_EQ(rig_.state->acked, (VirtioFeatures{kVersion1, kEventIdx}));
  rig_.loop.Pump();
  EXPECT_EQ(local.TakeUsed()->text(), "three");
  local.Chain().Readable("four").Writable(8).Publish();
  rig_.Kick(EchoModel::kLocalQueue);
  EXPECT_EQ(local.TakeUsed()->text(), "four");
  EXPECT_EQ(rig_.interrupts.changes, 0);
  // Saved again it reads the same, but for what has happened since.
  rig_.device->Pause("");
  EXPECT_THAT(Save(), HasSubstr(R"("base":4})"));
}

TEST_F(DeviceStateTest, ANetworkDriverFindsWhatItHadSet) {
  std::shared_ptr<fakes::FakeNetPort::State> port;
  const auto build = [&] {
    port = std::make_shared<fakes::FakeNetPort::State>();
    port->queue_pairs = 2;
    NetDeviceOptions options{.mac = {0x52, 0x54, 0, 0, 0, 1}, .queue_pairs = 2};
    rig_.Build(*NetDevice::Create(std::make_unique<fakes::FakeNetPort>(port), options), 4);
  };
  build();
  rig_.BringUp({kVersion1, kNetMac, kNetCtrlVq, kNetMq, kNetCtrlRx, kNetCtrlMacAddr, kNetGuestCsum,
                kNetGuestTso4, kNetCtrlGuestOffloads, kNetMrgRxbuf});
  const auto command = [&](const std::string& bytes) {
    rig_.rings.at(4)->Chain().Readable(bytes).Writable(1).Publish();
    rig_.Kick(4);
    EXPECT_EQ(rig_.rings.at(4)->TakeUsed()->data.at(0), std::byte{kernel_abi::kNetCtrlOk});
  };
  command(std::string("\x04\x00\x02\x00", 4));                           // two queue pairs
  command(std::string("\x01\x01\x52\x54\x00\x00\x00\x09", 8));           // another MAC
  command(std::string("\x00\x00\x00", 3));                               // not promiscuous
  command(std::string("\x05\x00\x02\x00\x00\x00\x00\x00\x00\x00", 10));  // checksums only
  ASSERT_TRUE(port->offloads.csum);
  ASSERT_FALSE(port->offloads.tso4);
  rig_.device->Pause("");
  const std::string json = Save();
  std::vector<std::byte> config(rig_.device->config_size());
  rig_.device->ReadConfig(0, config);
  const uint32_t generation = rig_.device->config_generation();

  Replace(build);
  ASSERT_TRUE(Restore(json).ok()) << Restore(json);
  ASSERT_TRUE(rig_.device->Resume().ok());
  EXPECT_EQ(rig_.OnBackend().size(), 4u);
  EXPECT_TRUE(port->attached[1]);
  EXPECT_TRUE(port->offloads.csum);
  EXPECT_FALSE(port->offloads.tso4);
  EXPECT_FALSE(port->filter.promiscuous);
  std::vector<std::byte> now(rig_.device->config_size());
  rig_.device->ReadConfig(0, now);
  EXPECT_EQ(now, config);
  EXPECT_EQ(rig_.device->config_generation(), generation);
  rig_.device->Pause("");
  EXPECT_EQ(Save(), json);
}

TEST_F(DeviceStateTest, ASocketDriverLearnsThatItsConnectionsAreGone) {
  uint64_t cid = 3;
  const auto build = [&] { rig_.Build(*VsockDevice::Create({.guest_cid = cid}), 2); };
  build();
  rig_.BringUp({kVersion1});
  rig_.rings.at(2)->Chain().Writable(8).Publish();
  rig_.device->Pause("");
  const std::string json = Save();
  cid = 7;
  Replace(build);
  ASSERT_TRUE(Restore(json).ok());
  ASSERT_TRUE(rig_.device->Resume().ok());
  rig_.loop.Pump();
  EXPECT_TRUE(rig_.rings.at(2)->TakeUsed().has_value());
}

TEST_F(DeviceStateTest, ADeviceWithoutADriverHasAStateToo) {
  const auto build = [this] { rig_.Build(std::make_unique<EchoModel>(), 4); };
  build();
  const std::string json = Save();
  Replace(build);
  ASSERT_TRUE(Restore(json).ok());
  ASSERT_TRUE(rig_.device->Resume().ok());
  rig_.BringUp({kVersion1});
}

// A state that somebody has changed on the way.
struct BadState {
  const char* name;
  std::function<void(DeviceState&)> spoil;
  const char* why;
};
std::ostream& operator<<(std::ostream& out, const BadState& bad) { return out << bad.name; }
class BadStateTest : public DeviceStateTest, public ::testing::WithParamInterface<BadState> {};

TEST_P(BadStateTest, IsRefusedAndLeavesTheDeviceInReset) {
  auto port = std::make_shared<fakes::FakeNetPort::State>();
  const auto build = [&] {
    NetDeviceOptions options{.mac = {0x52, 0x54, 0, 0, 0, 1}};
    rig_.Build(*NetDevice::Create(std::make_unique<fakes::FakeNetPort>(port), options), 2);
  };
  build();
  rig_.BringUp({kVersion1, kNetMac, kNetCtrlVq});
  rig_.device->Pause("");
  absl::StatusOr<DeviceState> state = rig_.device->SaveState();
  ASSERT_TRUE(state.ok());
  GetParam().spoil(*state);
  Replace(build);
  const absl::Status status = rig_.device->RestoreState(*state);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().why));
  EXPECT_EQ(rig_.device->status(), 0);
  EXPECT_FALSE(rig_.device->Report().paused);
  old_.reset();
  rig_.rings.clear();
  rig_.BringUp({kVersion1});
}

INSTANTIATE_TEST_SUITE_P(
    , BadStateTest,
    ::testing::Values(
        BadState{"Version", [](DeviceState& s) { s.version = 2; }, "version 2"},
        BadState{"Type", [](DeviceState& s) { s.id = DeviceId::kVsock; }, "of a vsock device"},
        BadState{"Features", [](DeviceState& s) { s.acked.Set(kAccessPlatform); },
                 "VIRTIO_F_ACCESS_PLATFORM"},
        BadState{"ContradictoryFeatures", [](DeviceState& s) { s.acked.Set(kNetHostTso4); },
                 "VIRTIO_NET_F_HOST_TSO4"},
        BadState{"NotAgreed", [](DeviceState& s) { s.status = 4; }, "without FEATURES_OK"},
        BadState{"QueueBeyond", [](DeviceState& s) { s.queues[1].queue = 9; }, "queue 9"},
        BadState{"QueueTwice", [](DeviceState& s) { s.queues[1].queue = 0; }, "queue 0"},
        BadState{"QueueSize", [](DeviceState& s) { s.queues[0].setup.size = 4096; }, "4096"},
        BadState{"RingOutsideMemory",
                 [](DeviceState& s) { s.queues[0].setup.desc = GuestAddress{1ull << 40}; },
                 "queue 0 (rx0)"},
        BadState{"NoNet", [](DeviceState& s) { s.net.reset(); }, "without its net part"},
        BadState{"Mac", [](DeviceState& s) { s.net->mac = "52:54"; }, "52:54"},
        BadState{"Pairs", [](DeviceState& s) { s.net->active_queue_pairs = 2; },
                 "2 active queue pairs of 1"},
        BadState{"Offloads", [](DeviceState& s) { s.net->guest_offloads.Set(kNetGuestTso4); },
                 "did not ack"},
        BadState{"Vlan", [](DeviceState& s) { s.net->receive_filter.vlans = {4096}; }, "VLAN 4096"},
        BadState{
            "Table",
            [](DeviceState& s) { s.net->receive_filter.unicast.assign(65, "52:54:00:00:00:01"); },
            "65 addresses"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(DeviceStateTest, OnlyADeviceInResetTakesAState) {
  rig_.Build(std::make_unique<EchoModel>(), 4);
  const std::string json = Save();
  rig_.BringUp({kVersion1});
  EXPECT_EQ(Restore(json).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(rig_.device->status(), fakes::DeviceRig::kRunning);
  EXPECT_THAT(std::string(Restore("{").message()), HasSubstr("not JSON"));
  EXPECT_THAT(std::string(Restore("{}").message()), HasSubstr("version 0"));
  EXPECT_THAT(std::string(Restore(R"({"version":1,"status":"x"})").message()),
              HasSubstr("status: expected"));
}

}  // namespace
}  // namespace vhost
