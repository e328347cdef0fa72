// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/net_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "tests/fakes/device_rig.h"
#include "tests/fakes/fake_net_port.h"
#include "vhost/device/net_features.h"

namespace vhost {
namespace {

using fakes::DeviceRig;
using fakes::DriverRing;
using fakes::FakeNetPort;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using enum VirtioFeature;

const MacAddress kMac = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

class NetDeviceTest : public ::testing::Test {
 protected:
  void Build(NetDeviceOptions options) {
    if (options.mac == MacAddress{}) options.mac = kMac;
    port_->queue_pairs = std::max(port_->queue_pairs, options.queue_pairs);
    port_->calls = &rig_.state->calls;
    const int queues = 2 * options.queue_pairs;
    auto net = NetDevice::Create(std::make_unique<FakeNetPort>(port_), std::move(options));
    ASSERT_TRUE(net.ok()) << net.status();
    net_ = net->get();
    rig_.Build(*std::move(net), queues);
  }
  static std::string Refusal(NetDeviceOptions options) {
    auto port = std::make_shared<FakeNetPort::State>();
    port->queue_pairs = 2;
    if (options.mac == MacAddress{}) options.mac = kMac;
    return std::string(NetDevice::Create(std::make_unique<FakeNetPort>(port), std::move(options))
                           .status()
                           .message());
  }
  // Sends a command as a driver does; what is answered, or nullopt if nothing is.
  std::optional<uint8_t> Command(int queue, const std::vector<int>& bytes) {
    std::string command;
    for (const int byte : bytes) command.push_back(static_cast<char>(byte));
    DriverRing& ring = *rig_.rings[queue];
    // The header in a descriptor of its own, as Linux does.
    const std::string header = command.substr(0, 2);
    const std::string data = command.substr(2);
    if (data.empty()) {
      ring.Chain().Readable(header).Writable(1).Publish();
    } else {
      ring.Chain().Readable(header).Readable(data).Writable(1).Publish();
    }
    rig_.Kick(queue);
    const auto used = ring.TakeUsed();
    if (!used.has_value() || used->written != 1) return std::nullopt;
    return static_cast<uint8_t>(used->data[0]);
  }
  kernel_abi::VirtioNetConfig Config() const {
    kernel_abi::VirtioNetConfig config{};
    rig_.device->ReadConfig(0, std::as_writable_bytes(std::span(&config, 1)));
    return config;
  }

  DeviceRig rig_{"net0"};
  std::shared_ptr<FakeNetPort::State> port_ = std::make_shared<FakeNetPort::State>();
  NetDevice* net_ = nullptr;
};

constexpr uint8_t kOk = kernel_abi::kNetCtrlOk;
constexpr uint8_t kErr = kernel_abi::kNetCtrlErr;

// ---- What is offered ---------------------------------------------------------------------------

TEST_F(NetDeviceTest, OffersWhatThePortCanDo) {
  port_->to_guest = {.csum = true, .tso4 = true, .tso6 = true};
  port_->from_guest = {.csum = true, .tso4 = true, .uso4 = true};
  Build({});
  const VirtioFeatures offered = rig_.device->offered();
  EXPECT_TRUE(offered.Contains({kNetGuestCsum, kNetGuestTso4, kNetGuestTso6, kNetCsum, kNetHostTso4,
                                kNetMac, kNetStatus, kNetCtrlVq, kNetMrgRxbuf,
                                kNetCtrlGuestOffloads, kVersion1, kRingReset}));
  for (const VirtioFeature absent : {kNetGuestEcn, kNetGuestUfo, kNetGuestUso4, kNetHostTso6,
                                     kNetHostUso, kNetMq, kNetMtu, kAccessPlatform}) {
    EXPECT_FALSE(offered.Has(absent)) << FeatureName(DeviceId::kNet, absent);
  }
}

TEST_F(NetDeviceTest, OffersNothingThatNeedsWhatIsWithheld) {
  Build({.withheld = {kNetGuestCsum, kNetCtrlVq}});
  const VirtioFeatures offered = rig_.device->offered();
  EXPECT_TRUE((offered & AllToGuestFeatures()).empty());
  EXPECT_FALSE(offered.Has(kNetCtrlRx));
  EXPECT_FALSE(offered.Has(kNetCtrlGuestOffloads));
  EXPECT_TRUE(offered.Has(kNetHostTso4));
  EXPECT_EQ(rig_.device->queue_count(), 2);
}

TEST_F(NetDeviceTest, ShowsItsConfiguration) {
  Build({.mtu = 9000, .queue_pairs = 4});
  EXPECT_TRUE(rig_.device->offered().Contains({kNetMtu, kNetMq}));
  EXPECT_EQ(rig_.device->config_size(), 12u);
  const kernel_abi::VirtioNetConfig config = Config();
  EXPECT_EQ(std::memcmp(config.mac, kMac.data(), kMac.size()), 0);
  EXPECT_EQ(config.status, kernel_abi::kNetStatusLinkUp);
  EXPECT_EQ(config.max_virtqueue_pairs, 4);
  EXPECT_EQ(config.mtu, 9000);
  EXPECT_EQ(config.speed, 0u);  // Beyond the end.
  const std::array<std::byte, 6> other{};
  rig_.device->WriteConfig(0, other);
  EXPECT_EQ(std::memcmp(Config().mac, kMac.data(), kMac.size()), 0);
}

TEST_F(NetDeviceTest, RefusesOptionsThatCannotBe) {
  EXPECT_THAT(Refusal({.mac = {0x33, 0x33, 0, 0, 0, 1}}), HasSubstr("33:33:00:00:00:01"));
  EXPECT_THAT(Refusal({.mtu = 67}), HasSubstr("MTU of 67"));
  EXPECT_THAT(Refusal({.queue_pairs = 0}), HasSubstr("0 queue pairs"));
  EXPECT_THAT(Refusal({.queue_pairs = 3}), HasSubstr("3 queue pairs, but the port has 2 queues"));
  EXPECT_THAT(Refusal({.queue_size = 300}), HasSubstr("queue size of 300"));
  EXPECT_THAT(Refusal({.queue_pairs = 2, .withheld = {kNetCtrlVq}}), HasSubstr("CTRL_VQ"));
}

struct FeatureRow {
  const char* name;
  VirtioFeatures acked;  // besides VERSION_1
  const char* problem;   // nullptr: it is fine
};
void PrintTo(const FeatureRow& row, std::ostream* out) { *out << row.name; }

const FeatureRow kFeatureRows[] = {
    {"Nothing", {}, nullptr},
    {"GuestTso4", {kNetGuestCsum, kNetGuestTso4}, nullptr},
    {"GuestTso4Alone", {kNetGuestTso4}, "GUEST_TSO4 was acked without VIRTIO_NET_F_GUEST_CSUM"},
    {"GuestTso6Alone", {kNetGuestTso6}, "GUEST_TSO6"},
    {"GuestUfoAlone", {kNetGuestUfo}, "GUEST_UFO"},
    {"GuestUsoAlone", {kNetGuestUso4}, "GUEST_USO4"},
    {"GuestEcnWithTso6", {kNetGuestCsum, kNetGuestTso6, kNetGuestEcn}, nullptr},
    {"GuestEcnAlone",
     {kNetGuestCsum, kNetGuestEcn},
     "GUEST_ECN was acked without VIRTIO_NET_F_GUEST_TSO4 or VIRTIO_NET_F_GUEST_TSO6"},
    {"HostTso4Alone", {kNetHostTso4}, "HOST_TSO4 was acked without VIRTIO_NET_F_CSUM"},
    {"HostTso6Alone", {kNetHostTso6}, "HOST_TSO6"},
    {"HostUfoAlone", {kNetHostUfo}, "HOST_UFO"},
    {"HostUsoAlone", {kNetHostUso}, "HOST_USO"},
    {"HostEcnAlone", {kNetCsum, kNetHostEcn}, "HOST_ECN"},
    {"ReceiveModesWithoutControl", {kNetCtrlRx}, "CTRL_RX was acked without VIRTIO_NET_F_CTRL_VQ"},
    {"VlanWithoutControl", {kNetCtrlVlan}, "CTRL_VLAN"},
    {"AnnounceWithoutControl", {kNetGuestAnnounce}, "GUEST_ANNOUNCE"},
    {"QueuePairsWithoutControl", {kNetMq}, "VIRTIO_NET_F_MQ"},
    {"MacAddressWithoutControl", {kNetCtrlMacAddr}, "CTRL_MAC_ADDR"},
    {"NotOffered", {kAccessPlatform}, "ACCESS_PLATFORM"},
};

class NetFeatureTest : public NetDeviceTest, public ::testing::WithParamInterface<FeatureRow> {};

TEST_P(NetFeatureTest, IsAcceptedOrRefused) {
  Build({.queue_pairs = 2});
  rig_.Ack(GetParam().acked | VirtioFeatures{kVersion1});
  const bool accepted = (rig_.device->status() & device_status::kFeaturesOk) != 0;
  EXPECT_EQ(accepted, GetParam().problem == nullptr);
  EXPECT_THAT(rig_.Problem(), HasSubstr(accepted ? "" : GetParam().problem));
}

INSTANTIATE_TEST_SUITE_P(, NetFeatureTest, ::testing::ValuesIn(kFeatureRows),
                         [](const ::testing::TestParamInfo<FeatureRow>& row) {
                           return std::string(row.param.name);
                         });

// ---- Bring-up ----------------------------------------------------------------------------------

TEST_F(NetDeviceTest, SetsThePortUpForWhatWasNegotiated) {
  Build({.queue_pairs = 2});
  rig_.BringUp({kVersion1, kNetMq, kNetCtrlVq, kNetGuestCsum, kNetGuestTso4});
  EXPECT_EQ(port_->header_bytes, 12);
  EXPECT_EQ(port_->offloads, (NetOffloads{.csum = true, .tso4 = true}));
  EXPECT_TRUE(port_->attached[0]);
  EXPECT_FALSE(port_->attached[1]);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
}

TEST_F(NetDeviceTest, NeedsResetWhenThePortRefuses) {
  Build({});
  port_->header_error = absl::InternalError("tap0: TUNSETVNETHDRSZ(12): EBADFD");
  rig_.Ack({kVersion1});
  rig_.AddQueue(0);
  rig_.device->WriteStatus(DeviceRig::kRunning);
  EXPECT_NE(rig_.device->status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("tap0: TUNSETVNETHDRSZ"));
  EXPECT_FALSE(rig_.state->running);
}

TEST_F(NetDeviceTest, GivesAnOldDriverItsShortHeader) {
  Build({});
  DriverRing ring(rig_.ram, {});
  ASSERT_TRUE(rig_.device->Activate({.acked = {}, .queues = {{0, ring.setup()}}}).ok());
  EXPECT_EQ(port_->header_bytes, 10);
}

TEST_F(NetDeviceTest, LetsOnlyALegacyDriverWriteItsAddress) {
  Build({});
  const std::array<std::byte, 2> written = {std::byte{0x77}, std::byte{0x78}};
  const auto last_bytes = [&] {
    std::array<std::byte, 3> read{};
    rig_.device->ReadConfig(4, read);
    return read;
  };
  rig_.device->WriteStatus(device_status::kAcknowledge);
  rig_.device->WriteConfig(4, written);
  EXPECT_EQ(last_bytes()[1], std::byte{0x56});
  rig_.device->WriteStatus(0);

  rig_.device->WriteLegacyStatus(device_status::kAcknowledge);
  const std::byte link = last_bytes()[2];
  rig_.device->WriteConfig(5, written);  // and a byte of the link status, which is read-only
  EXPECT_EQ(last_bytes()[1], std::byte{0x77});
  EXPECT_EQ(last_bytes()[2], link);
  EXPECT_EQ(rig_.device->Report().mac, "52:54:00:12:34:77");
  rig_.device->WriteLegacyStatus(0);
  EXPECT_EQ(last_bytes()[1], std::byte{0x56});
}

TEST_F(NetDeviceTest, OffersAnyLayoutToLegacyDriversAlone) {
  Build({});
  EXPECT_FALSE(rig_.device->offered().Has(kAnyLayout));
  EXPECT_TRUE(rig_.device->offered_to_legacy().Has(kAnyLayout));
  EXPECT_FALSE(rig_.device->offered_to_legacy().Has(kVersion1));
}

TEST_F(NetDeviceTest, FindsTheControlQueueBehindTheLastPair) {
  Build({.queue_pairs = 2});
  EXPECT_EQ(rig_.device->queue_count(), 5);
  rig_.BringUp({kVersion1, kNetMq, kNetCtrlVq, kNetCtrlRx});
  EXPECT_EQ(Command(4, {0, 0, 0}), kOk);
  EXPECT_EQ(rig_.device->Report().vrings[4].role, "control");
}

TEST_F(NetDeviceTest, FindsTheControlQueueBehindTheFirstPairWithoutMq) {
  Build({.queue_pairs = 2});
  rig_.BringUp({kVersion1, kNetCtrlVq, kNetCtrlRx}, 3);
  EXPECT_EQ(Command(2, {0, 0, 0}), kOk);
  EXPECT_EQ(rig_.device->Report().vrings[2].role, "control");
  EXPECT_EQ(rig_.device->Report().vrings[4].role, "unused");
  // The next driver has a receive queue there, whose kicks are the backend's alone.
  rig_.device->WriteStatus(0);
  rig_.BringUp({kVersion1, kNetMq, kNetCtrlVq});
  EXPECT_FALSE(rig_.loop.Watches(rig_.device->kick_fd(2)));
  EXPECT_EQ(Command(4, {4, 0, 2, 0}), kOk);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1, 2, 3));
}

TEST_F(NetDeviceTest, LeavesTheKicksOfAQueueThatComesLateToTheBackend) {
  Build({.queue_pairs = 2});
  rig_.BringUp({kVersion1, kNetCtrlVq, kNetCtrlRx}, 3);
  rig_.device->WriteStatus(0);
  rig_.Ack({kVersion1, kNetMq, kNetCtrlVq});
  for (int queue : {0, 1, 4}) rig_.AddQueue(queue);
  rig_.device->WriteStatus(DeviceRig::kRunning);
  // Queue 2 was the control queue once. It is enabled late, and started by the event loop.
  for (int queue : {2, 3}) rig_.AddQueue(queue);
  EXPECT_EQ(Command(4, {4, 0, 2, 0}), kOk);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1, 2, 3));
  EXPECT_FALSE(rig_.loop.Watches(rig_.device->kick_fd(2)));
}

// ---- Queue pairs -------------------------------------------------------------------------------

class QueuePairTest : public NetDeviceTest {
 protected:
  void SetUp() override {
    Build({.queue_pairs = 3});
    rig_.BringUp({kVersion1, kNetMq, kNetCtrlVq});
    rig_.state->calls.clear();
  }
  std::optional<uint8_t> SetPairs(int pairs) { return Command(6, {4, 0, pairs, 0}); }
};

TEST_F(QueuePairTest, AttachesBeforeTheRingsRunAndDetachesAfterTheyStopped) {
  EXPECT_EQ(SetPairs(2), kOk);
  EXPECT_THAT(rig_.state->calls, ElementsAre("attach 1", "start-vring 2", "start-vring 3"));
  rig_.state->calls.clear();
  EXPECT_EQ(SetPairs(1), kOk);
  EXPECT_THAT(rig_.state->calls, ElementsAre("stop-vring 2", "stop-vring 3", "detach 1"));
}

TEST_F(QueuePairTest, ChangesByManyPairsAtOnce) {
  EXPECT_EQ(SetPairs(3), kOk);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(rig_.device->Report().active_queue_pairs, 3);
  EXPECT_EQ(SetPairs(1), kOk);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(SetPairs(1), kOk);
}

TEST_F(QueuePairTest, GoesOnWhereAStoppedPairStood) {
  EXPECT_EQ(SetPairs(2), kOk);
  rig_.state->reached = {{2, 40}, {3, 50}};
  EXPECT_EQ(SetPairs(1), kOk);
  EXPECT_EQ(SetPairs(2), kOk);
  EXPECT_EQ(rig_.state->vrings.at(2).base, 40u);
  EXPECT_EQ(rig_.state->vrings.at(3).base, 50u);
}

TEST_F(QueuePairTest, LeavesAllAsItWasWhenAQueueCannotBeAttached) {
  port_->attach_errors[2] = absl::ResourceExhaustedError("E2BIG");
  EXPECT_EQ(SetPairs(3), kErr);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_FALSE(port_->attached[1]);
  EXPECT_EQ(SetPairs(2), kOk);
}

TEST_F(QueuePairTest, LeavesAllAsItWasWhenARingCannotStart) {
  rig_.state->start_vring_errors[5] = absl::InternalError("ENOMEM");
  EXPECT_EQ(SetPairs(3), kErr);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_FALSE(port_->attached[1]);
  EXPECT_FALSE(port_->attached[2]);
  EXPECT_EQ(rig_.device->status(), DeviceRig::kRunning);
}

TEST_F(QueuePairTest, NeedsResetWhenARingCannotBeStopped) {
  EXPECT_EQ(SetPairs(2), kOk);
  rig_.state->stop_vring_errors[3] = absl::InternalError("stuck");
  EXPECT_EQ(SetPairs(1), kErr);
  EXPECT_FALSE(rig_.state->running);
  EXPECT_NE(rig_.device->status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("queue 3 (tx1): stuck"));
}

TEST_F(QueuePairTest, KeepsRingsRunningWherePacketsStillArrive) {
  EXPECT_EQ(SetPairs(2), kOk);
  port_->detach_errors[1] = absl::InternalError("EINVAL");
  EXPECT_EQ(SetPairs(1), kErr);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1, 2, 3));
  EXPECT_TRUE(port_->attached[1]);
}

TEST_F(QueuePairTest, BeginsWithOnePairAgainAfterAReset) {
  EXPECT_EQ(SetPairs(3), kOk);
  rig_.device->WriteStatus(0);
  EXPECT_EQ(rig_.device->Report().active_queue_pairs, 1);
  rig_.BringUp({kVersion1, kNetMq, kNetCtrlVq});
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_FALSE(port_->attached[1]);
}

TEST_F(QueuePairTest, RunsOnlyTheRingsOfAPairThatTheDriverHasEnabled) {
  rig_.device->WriteStatus(0);
  rig_.Ack({kVersion1, kNetMq, kNetCtrlVq});
  for (const int queue : {0, 1, 2, 6}) rig_.AddQueue(queue);
  rig_.device->WriteStatus(DeviceRig::kRunning);
  rig_.loop.Pump();
  EXPECT_EQ(SetPairs(2), kOk);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1, 2));
}

// ---- The control queue -------------------------------------------------------------------------

class ControlQueueTest : public NetDeviceTest {
 protected:
  void SetUp() override {
    Build({});
    rig_.BringUp(rig_.device->offered());
  }
};

TEST_F(ControlQueueTest, HandsTheReceiveFilterToThePortAndReportsIt) {
  EXPECT_EQ(Command(2, {0, 0, 0}), kOk);
  EXPECT_EQ(Command(2, {1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1}), kOk);
  EXPECT_FALSE(port_->filter.promiscuous);
  EXPECT_EQ(port_->filter.mac, kMac);
  ASSERT_EQ(port_->filter.multicast.size(), 1u);
  const DeviceReport report = rig_.device->Report();
  ASSERT_TRUE(report.receive_filter.has_value());
  EXPECT_EQ(report.receive_filter->applied_by, "fake");
  EXPECT_THAT(report.receive_filter->multicast, ElementsAre("33:33:00:00:00:01"));
  // A driver that comes after a reset gets everything again.
  rig_.device->WriteStatus(0);
  EXPECT_TRUE(port_->filter.promiscuous);
  EXPECT_TRUE(rig_.device->Report().receive_filter->promiscuous);
}

TEST_F(ControlQueueTest, FiltersNothingForADriverThatCannotTellItsAddress) {
  rig_.device->WriteStatus(0);
  rig_.BringUp({kVersion1, kNetCtrlVq, kNetCtrlRx});
  EXPECT_EQ(Command(2, {0, 0, 0}), kOk);
  EXPECT_TRUE(port_->filter.promiscuous);
  EXPECT_THAT(rig_.device->Report().receive_filter->applied_by, HasSubstr("nobody"));
}

TEST_F(ControlQueueTest, ShowsTheAddressThatTheDriverSetUntilAReset) {
  const uint32_t generation = rig_.device->config_generation();
  EXPECT_EQ(Command(2, {1, 1, 2, 0, 0, 0, 0, 7}), kOk);
  EXPECT_EQ(Config().mac[5], 7);
  EXPECT_NE(rig_.device->config_generation(), generation);
  EXPECT_EQ(rig_.device->Report().mac, "02:00:00:00:00:07");
  EXPECT_EQ(rig_.interrupts.changes, 0);
  rig_.device->WriteStatus(0);
  EXPECT_EQ(Config().mac[5], kMac[5]);
}

TEST_F(ControlQueueTest, ChangesOffloadsWhileItRuns) {
  EXPECT_TRUE(port_->offloads.tso4);
  EXPECT_EQ(Command(2, {5, 0, 2, 0, 0, 0, 0, 0, 0, 0}), kOk);
  EXPECT_EQ(port_->offloads, NetOffloads{.csum = true});
  port_->offload_error = absl::InternalError("EINVAL");
  EXPECT_EQ(Command(2, {5, 0, 0, 0, 0, 0, 0, 0, 0, 0}), kErr);
  EXPECT_EQ(port_->offloads, NetOffloads{.csum = true});
}

TEST_F(ControlQueueTest, AnswersManyCommandsOfOneKick) {
  DriverRing& ring = *rig_.rings[2];
  for (int round = 0; round < 20; ++round) {
    int published = 0;
    for (; published < 5; ++published) {
      ring.Chain().Readable(std::string("\0\1\1", 3)).Writable(1).Publish();
    }
    rig_.Kick(2);
    for (; published > 0; --published) {
      const auto used = ring.TakeUsed();
      ASSERT_TRUE(used.has_value());
      EXPECT_EQ(used->data[0], std::byte{kOk});
    }
  }
  EXPECT_TRUE(kernel_abi::EventFd::IsEventFdSignalled(rig_.device->call_fd(2)));
}

TEST_F(ControlQueueTest, AnswersACommandThatIsTooShortOrTooLong) {
  DriverRing& ring = *rig_.rings[2];
  ring.Chain().Writable(1).Publish();
  ring.Chain().Readable("\1").Writable(1).Publish();
  ring.Chain().Readable(std::string(kMaxNetCommandBytes + 1, '\0')).Writable(4).Publish();
  rig_.Kick(2);
  for (int i = 0; i < 3; ++i) {
    const auto used = ring.TakeUsed();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->written, 1u);
    EXPECT_EQ(used->data[0], std::byte{kErr});
  }
  EXPECT_EQ(rig_.device->status(), DeviceRig::kRunning);
}

TEST_F(ControlQueueTest, NeedsResetWhenACommandHasNoRoomForItsAnswer) {
  rig_.rings[2]->Chain().Readable(std::string("\0\0\1", 3)).Publish();
  rig_.Kick(2);
  EXPECT_NE(rig_.device->status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("queue 2 (control): a command without room"));
  EXPECT_FALSE(rig_.state->running);
}

TEST_F(ControlQueueTest, GivesOthersTheirTurnAgainstADriverThatNeverStops) {
  rig_.device->WriteStatus(0);
  rig_.Ack({kVersion1, kNetCtrlVq, kNetCtrlRx});
  DriverRing& ring = rig_.AddQueue(2, 64);
  rig_.device->WriteStatus(DeviceRig::kRunning);
  for (int i = 0; i < 20; ++i) {
    ring.Chain().Readable(std::string("\0\1\1", 3)).Writable(1).Publish();
  }
  for (const int answered : {8, 16, 20}) {
    rig_.loop.Pump(1);
    EXPECT_EQ(ring.used_index(), answered);
  }
  // And then it sleeps until it is kicked.
  EXPECT_LE(rig_.loop.Pump(), 1);
  ring.Chain().Readable(std::string("\0\1\1", 3)).Writable(1).Publish();
  EXPECT_TRUE(ring.KickWanted());
}

// ---- What the host does ------------------------------------------------------------------------

TEST_F(NetDeviceTest, TellsTheDriverOfTheLink) {
  Build({});
  net_->SetLinkUp(false);
  EXPECT_EQ(rig_.interrupts.changes, 0);
  EXPECT_EQ(Config().status, 0);
  rig_.BringUp({kVersion1, kNetStatus});
  const uint32_t generation = rig_.device->config_generation();
  net_->SetLinkUp(true);
  EXPECT_EQ(rig_.interrupts.changes, 1);
  EXPECT_EQ(Config().status, kernel_abi::kNetStatusLinkUp);
  EXPECT_NE(rig_.device->config_generation(), generation);
  net_->SetLinkUp(true);  // Nothing new.
  EXPECT_EQ(rig_.interrupts.changes, 1);
  // The link is the host's: a reset does not change it.
  net_->SetLinkUp(false);
  rig_.device->WriteStatus(0);
  EXPECT_EQ(Config().status, 0);
}

TEST_F(NetDeviceTest, AsksTheGuestToAnnounceItselfUntilItAnswers) {
  Build({});
  EXPECT_FALSE(net_->Announce());
  rig_.BringUp({kVersion1, kNetStatus, kNetCtrlVq, kNetGuestAnnounce});
  EXPECT_TRUE(net_->Announce());
  EXPECT_EQ(Config().status, kernel_abi::kNetStatusLinkUp | kernel_abi::kNetStatusAnnounce);
  EXPECT_EQ(rig_.interrupts.changes, 1);
  EXPECT_EQ(Command(2, {3, 0}), kOk);
  EXPECT_EQ(Config().status, kernel_abi::kNetStatusLinkUp);
  EXPECT_EQ(rig_.interrupts.changes, 1);
  net_->Announce();
  rig_.device->WriteStatus(0);
  EXPECT_EQ(Config().status, kernel_abi::kNetStatusLinkUp);
}

TEST_F(NetDeviceTest, TellsWhatItIs) {
  Build({.mtu = 1500});
  const DeviceReport report = rig_.device->Report();
  EXPECT_EQ(report.mac, "52:54:00:12:34:56");
  EXPECT_EQ(report.mtu, 1500);
  EXPECT_EQ(report.active_queue_pairs, 1);
  EXPECT_EQ(report.link_up, true);
  ASSERT_EQ(report.taps.size(), 1u);
  EXPECT_EQ(report.taps[0].name, "fake0");
  EXPECT_EQ(report.vrings[0].role, "rx0");
  EXPECT_EQ(report.vrings[1].role, "tx0");
  EXPECT_EQ(report.vrings[2].max_size, 64);
}

TEST(MacAddress, IsReadAndWritten) {
  EXPECT_EQ(Describe(*ParseMacAddress("52:54:00:AB:cd:0f")), "52:54:00:ab:cd:0f");
  for (const char* bad : {"", "52:54:00:ab:cd", "52:54:00:ab:cd:0f:1", "52-54-00-ab-cd-0f",
                          "52:54:00:ab:cd:f", "52:54:00:ab:cd:0x", "52:54:00:ab:cd: f"}) {
    EXPECT_FALSE(ParseMacAddress(bad).ok()) << bad;
  }
}

// ---- What is behind it -------------------------------------------------------------------------

TEST_F(NetDeviceTest, TheDriverSeesTheLinkOfThePortFall) {
  const kernel_abi::EventFd changed = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  port_->link_fd = changed.get();
  port_->link = {.exists = true, .up = false};  // Not brought up yet: that is no news.
  Build({});
  rig_.BringUp({kVersion1, kNetMac, kNetStatus});
  EXPECT_EQ(Config().status, kernel_abi::kNetStatusLinkUp);
  const auto tell = [&](NetPort::Link link) {
    port_->link = link;
    changed.Signal();
    rig_.loop.Pump(1);
    changed.Drain();
    rig_.loop.Pump();
  };
  tell({.exists = true, .up = true});
  EXPECT_EQ(rig_.interrupts.changes, 0);
  tell({.exists = true, .up = false});
  EXPECT_EQ(Config().status, 0);
  EXPECT_EQ(rig_.interrupts.changes, 1);
  tell({.exists = true, .up = true});
  EXPECT_EQ(Config().status, kernel_abi::kNetStatusLinkUp);
  tell({.exists = false, .up = false});
  EXPECT_EQ(Config().status, 0);
  EXPECT_EQ(rig_.interrupts.changes, 3);
  EXPECT_EQ(rig_.device->status(), DeviceRig::kRunning);
  const DeviceReport report = rig_.device->Report();
  EXPECT_FALSE(*report.link_up);
  EXPECT_EQ(report.events.back().what, "port-lost");
  EXPECT_EQ(report.events.back().text, "fake0: is gone");
}

}  // namespace
}  // namespace vhost
