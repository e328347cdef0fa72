// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/virtio_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernel-abi/event_fd.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/fake_backend.h"
#include "tests/fakes/manual_loop.h"

namespace vhost {
namespace {

using fakes::DriverRing;
using fakes::FakeBackend;
using fakes::GuestRam;
using fakes::ManualLoop;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint8_t kAgreed =
    device_status::kAcknowledge | device_status::kDriver | device_status::kFeaturesOk;
constexpr uint8_t kRunning = kAgreed | device_status::kDriverOk;
constexpr int kLocalQueue = 4;

// Two queue pairs for the backend, of which the second can be switched on and off, and a queue of
// its own that answers each chain with the bytes in it.
class EchoModel final : public DeviceModel {
 public:
  DeviceId id() const override { return DeviceId::kNet; }
  int queue_count() const override { return 5; }
  uint16_t queue_max_size(int) const override { return 64; }
  QueueRole role(int queue, VirtioFeatures) const override {
    return {absl::StrCat("q", queue), queue == kLocalQueue};
  }
  VirtioFeatures features() const override {
    return {VirtioFeature::kVersion1, VirtioFeature::kEventIdx, VirtioFeature::kRingReset,
            VirtioFeature::kNetMrgRxbuf, VirtioFeature::kNetCsum,
            VirtioFeature::kNetGuestUdpTunnelGso};
  }
  absl::Status CheckFeatures(VirtioFeatures acked) const override {
    return acked.Has(VirtioFeature::kNetCsum) && !acked.Has(VirtioFeature::kNetMrgRxbuf)
               ? absl::InvalidArgumentError("CSUM without MRG_RXBUF")
               : absl::OkStatus();
  }
  std::vector<std::byte> config() const override {
    return {config_bytes.begin(), config_bytes.end()};
  }
  void WriteConfig(uint32_t offset, std::span<const std::byte> from) override {
    std::copy(from.begin(), from.end(), config_bytes.begin() + offset);
  }
  absl::Status Prepare(VirtioFeatures acked) override {
    prepared = acked;
    return prepare_error;
  }
  bool is_active(int queue) const override { return queue < 2 || second_pair; }
  absl::StatusOr<bool> Serve(int, inprocess::SplitQueue& ring) override {
    ++served;
    do {
      ring.DisableKicks();
      while (true) {
        auto chain = ring.Take();
        if (!chain.ok()) return chain.status();
        if (!chain->has_value()) break;
        std::vector<std::byte> bytes((*chain)->readable_bytes());
        if (!(*chain)->Read(0, bytes).ok()) return absl::InternalError("read");
        if (!(*chain)->Write(0, bytes).ok()) return absl::InvalidArgumentError("no room to answer");
        (*chain)->Return(static_cast<uint32_t>(bytes.size()));
      }
      ring.SignalUsed();
    } while (ring.EnableKicks());
    return false;
  }
  void Reset() override {
    second_pair = false;
    config_bytes = {};
    prepared.reset();
  }
  void Describe(DeviceReport& report) const override { report.guest_cid = 42; }

  absl::Status SetSecondPair(bool on) {
    absl::Status status;
    Locked([&] {
      const bool before = std::exchange(second_pair, on);
      status = host()->ApplyActiveQueues();
      if (!status.ok()) second_pair = before;
    });
    return status;
  }
  void ChangeConfig() {
    Locked([&] {
      config_bytes[0] = std::byte{9};
      host()->ConfigChanged();
    });
  }

  std::array<std::byte, 8> config_bytes{};
  std::optional<VirtioFeatures> prepared;
  absl::Status prepare_error;
  bool second_pair = false;
  int served = 0;
};

class CountingInterrupter final : public Interrupter {
 public:
  void ConfigChanged() override { ++changes; }
  int changes = 0;
};

class VirtioDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(memory_.Add(ram_.region()).ok());
    Build();
  }
  void Build() {
    auto backend = std::make_unique<FakeBackend>(backend_, BackendKind::kKernel, 4);
    fake_ = backend.get();
    std::vector<BackendCandidate> candidates;
    candidates.push_back({BackendKind::kKernel, std::move(backend)});
    auto selector = BackendSelector::Create(OffloadPolicy::kRequire, std::move(candidates));
    ASSERT_TRUE(selector.ok());
    auto model = std::make_unique<EchoModel>();
    model_ = model.get();
    auto device = VirtioDevice::Create({.name = "echo0",
                                        .kernel = &kernel_abi::LinuxKernel(),
                                        .memory = &memory_,
                                        .loop = &loop_,
                                        .model = std::move(model),
                                        .backends = *std::move(selector)});
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    device_->SetInterrupter(&interrupter_, "test");
  }

  static VirtioFeatures Plain() { return {VirtioFeature::kVersion1, VirtioFeature::kRingReset}; }
  void Ack(VirtioFeatures features) {
    device_->WriteStatus(device_status::kAcknowledge);
    device_->WriteStatus(device_status::kAcknowledge | device_status::kDriver);
    device_->WriteDriverFeatures(0, static_cast<uint32_t>(features.low()));
    device_->WriteDriverFeatures(1, static_cast<uint32_t>(features.low() >> 32));
    device_->WriteDriverFeatures(2, static_cast<uint32_t>(features.high()));
    device_->WriteStatus(kAgreed);
  }
  DriverRing& AddQueue(int queue, uint16_t size = 16) {
    rings_[queue] = std::make_unique<DriverRing>(ram_, DriverRing::Options{.size = size});
    device_->WriteQueueSetup(queue, rings_[queue]->setup());
    device_->EnableQueue(queue);
    return *rings_[queue];
  }
  // As a driver with all five queues does.
  void BringUp() {
    Ack(Plain());
    for (int queue = 0; queue < device_->queue_count(); ++queue) AddQueue(queue);
    device_->WriteStatus(kRunning);
    ASSERT_EQ(device_->status(), kRunning) << device_->Report().problem;
    loop_.Pump();
  }
  std::vector<int> OnBackend() const {
    std::vector<int> queues;
    for (const auto& [queue, vring] : backend_->vrings) queues.push_back(queue);
    return queues;
  }
  std::string Problem() const { return device_->Report().problem; }

  GuestRam ram_;
  GuestMemory memory_;
  ManualLoop loop_;
  std::shared_ptr<FakeBackend::State> backend_ = std::make_shared<FakeBackend::State>();
  FakeBackend* fake_ = nullptr;
  EchoModel* model_ = nullptr;
  CountingInterrupter interrupter_;
  std::unique_ptr<VirtioDevice> device_;
  std::map<int, std::unique_ptr<DriverRing>> rings_;
};

// ---- Negotiation -------------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, OffersWhatItsBackendSupports) {
  EXPECT_EQ(device_->offered(), model_->features());
  backend_->cannot = VirtioFeatures{VirtioFeature::kNetGuestUdpTunnelGso};
  device_.reset();
  Build();
  EXPECT_EQ(device_->offered(),
            model_->features() - VirtioFeatures{VirtioFeature::kNetGuestUdpTunnelGso});
}

TEST_F(VirtioDeviceTest, TakesFeaturesInAnyWordUntilTheyAreAgreed) {
  const VirtioFeatures features =
      Plain() | VirtioFeatures{VirtioFeature::kNetGuestUdpTunnelGso, VirtioFeature::kNetMrgRxbuf};
  Ack(features);
  EXPECT_EQ(device_->status(), kAgreed);
  EXPECT_EQ(device_->acked(), features);
  device_->WriteDriverFeatures(0, 0xffff'ffff);
  device_->WriteDriverFeatures(4, 0xffff'ffff);
  EXPECT_EQ(device_->acked(), features);
}

TEST_F(VirtioDeviceTest, RefusesFeaturesThatWereNotOfferedAndNamesThem) {
  Ack(Plain() | VirtioFeatures{VirtioFeature::kRingPacked});
  EXPECT_EQ(device_->status() & device_status::kFeaturesOk, 0);
  EXPECT_THAT(Problem(), HasSubstr("VIRTIO_F_RING_PACKED"));
}

TEST_F(VirtioDeviceTest, RefusesALegacyDriver) {
  Ack({});
  EXPECT_EQ(device_->status() & device_status::kFeaturesOk, 0);
  EXPECT_THAT(Problem(), HasSubstr("VIRTIO_F_VERSION_1"));
}

TEST_F(VirtioDeviceTest, RefusesWhatItsTypeCannotCombineUntilTheDriverChangesItsMind) {
  Ack(Plain() | VirtioFeatures{VirtioFeature::kNetCsum});
  EXPECT_EQ(device_->status() & device_status::kFeaturesOk, 0);
  EXPECT_THAT(Problem(), HasSubstr("CSUM without MRG_RXBUF"));
  Ack(Plain());
  EXPECT_EQ(device_->status(), kAgreed);
  EXPECT_THAT(Problem(), IsEmpty());
}

TEST_F(VirtioDeviceTest, ClearsNoStatusBitButByReset) {
  Ack(Plain());
  device_->WriteStatus(device_status::kAcknowledge);
  EXPECT_EQ(device_->status(), kAgreed);
  device_->WriteStatus(0);
  EXPECT_EQ(device_->status(), 0);
}

TEST_F(VirtioDeviceTest, LetsNoDriverSetNeedsReset) {
  device_->WriteStatus(device_status::kNeedsReset | device_status::kAcknowledge);
  EXPECT_EQ(device_->status(), device_status::kAcknowledge);
}

// ---- Start -------------------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, ServesNothingBeforeDriverOk) {
  Ack(Plain());
  for (int queue = 0; queue < 5; ++queue) AddQueue(queue);
  device_->Notify(0);
  device_->Notify(kLocalQueue);
  loop_.Pump();
  EXPECT_FALSE(backend_->running);
  EXPECT_EQ(model_->served, 0);
}

TEST_F(VirtioDeviceTest, HandsTheActiveQueuesToItsBackendAndServesItsOwn) {
  BringUp();
  EXPECT_TRUE(backend_->running);
  EXPECT_EQ(backend_->acked, Plain());
  EXPECT_EQ(model_->prepared, Plain());
  EXPECT_THAT(OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(backend_->vrings.at(1).kick_fd, device_->kick_fd(1));
  EXPECT_EQ(backend_->vrings.at(1).call_fd, device_->call_fd(1));
  EXPECT_EQ(backend_->vrings.at(1).base, 0u);
  EXPECT_EQ(backend_->vrings.at(1).vring.setup().desc, rings_[1]->setup().desc);

  rings_[kLocalQueue]->Chain().Readable("hello").Writable(8).Publish();
  device_->Notify(kLocalQueue);
  loop_.Pump();
  EXPECT_EQ(rings_[kLocalQueue]->TakeUsed()->text(), "hello");
  EXPECT_TRUE(kernel_abi::EventFd::IsEventFdSignalled(device_->call_fd(kLocalQueue)));
}

TEST_F(VirtioDeviceTest, LeavesTheKicksOfABackendsQueueAlone) {
  BringUp();
  device_->Notify(0);
  loop_.Pump();
  EXPECT_FALSE(loop_.Watches(device_->kick_fd(0)));
  EXPECT_TRUE(kernel_abi::EventFd::IsEventFdSignalled(device_->kick_fd(0)));
}

TEST_F(VirtioDeviceTest, ServesWhatWasAvailableBeforeTheKickCouldBeSeen) {
  Ack(Plain());
  AddQueue(kLocalQueue).Chain().Readable("early").Writable(8).Publish();
  device_->WriteStatus(kRunning);
  loop_.Pump();
  EXPECT_EQ(rings_[kLocalQueue]->TakeUsed()->text(), "early");
}

TEST_F(VirtioDeviceTest, RunsWithTheQueuesThatTheDriverEnabled) {
  Ack(Plain());
  AddQueue(1);
  device_->WriteStatus(kRunning);
  EXPECT_EQ(device_->status(), kRunning);
  EXPECT_THAT(OnBackend(), ElementsAre(1));
}

TEST_F(VirtioDeviceTest, StartsAndStopsQueuesAsTheModelSays) {
  BringUp();
  ASSERT_TRUE(model_->SetSecondPair(true).ok());
  EXPECT_THAT(OnBackend(), ElementsAre(0, 1, 2, 3));
  backend_->reached[2] = 17;
  ASSERT_TRUE(model_->SetSecondPair(false).ok());
  EXPECT_THAT(OnBackend(), ElementsAre(0, 1));
  // The rings were not reset: they go on where they stood.
  ASSERT_TRUE(model_->SetSecondPair(true).ok());
  EXPECT_EQ(backend_->vrings.at(2).base, 17u);
  EXPECT_EQ(backend_->vrings.at(3).base, 0u);
}

TEST_F(VirtioDeviceTest, TakesBackAChangeOfQueuesThatFailsHalfway) {
  BringUp();
  backend_->start_vring_errors[3] = absl::ResourceExhaustedError("no more");
  const absl::Status status = model_->SetSecondPair(true);
  EXPECT_THAT(std::string(status.message()), HasSubstr("queue 3 (q3): no more"));
  EXPECT_THAT(OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(device_->status(), kRunning);
}

// ---- What goes wrong ---------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, NeedsResetWhenTheBackendCannotStart) {
  backend_->start_error = absl::ResourceExhaustedError("/dev/vhost-net: ENOMEM");
  Ack(Plain());
  AddQueue(0);
  device_->WriteStatus(kRunning);
  EXPECT_EQ(device_->status(), kRunning | device_status::kNeedsReset);
  EXPECT_THAT(Problem(), HasSubstr("kernel backend: /dev/vhost-net: ENOMEM"));
  EXPECT_EQ(interrupter_.changes, 1);
  // A reset, and another try.
  backend_->start_error = absl::OkStatus();
  device_->WriteStatus(0);
  EXPECT_THAT(Problem(), IsEmpty());
  BringUp();
}

TEST_F(VirtioDeviceTest, NeedsResetWhenItsModelCannotPrepare) {
  model_->prepare_error = absl::InternalError("tap0: gone");
  Ack(Plain());
  AddQueue(0);
  device_->WriteStatus(kRunning);
  EXPECT_EQ(device_->status(), kRunning | device_status::kNeedsReset);
  EXPECT_EQ(Problem(), "tap0: gone");
  EXPECT_EQ(backend_->starts, 0);
}

TEST_F(VirtioDeviceTest, NeedsResetWhenAQueueCannotBeWatched) {
  loop_.fail_next_watch = true;
  Ack(Plain());
  AddQueue(0);
  AddQueue(kLocalQueue);
  device_->WriteStatus(kRunning);
  EXPECT_EQ(device_->status(), kRunning | device_status::kNeedsReset);
  EXPECT_FALSE(backend_->running);
}

TEST_F(VirtioDeviceTest, NeedsResetWhenDriverOkComesBeforeFeaturesOk) {
  device_->WriteStatus(device_status::kAcknowledge | device_status::kDriverOk);
  EXPECT_NE(device_->status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(Problem(), HasSubstr("DRIVER_OK without FEATURES_OK"));
  EXPECT_EQ(backend_->starts, 0);
}

TEST_F(VirtioDeviceTest, NeedsResetWhenTheBackendFindsARingBroken) {
  BringUp();
  fake_->SignalError(1);
  loop_.Pump();
  EXPECT_EQ(device_->status(), kRunning | device_status::kNeedsReset);
  EXPECT_THAT(Problem(), HasSubstr("queue 1 (q1): the kernel backend found the ring broken"));
  EXPECT_EQ(interrupter_.changes, 1);
  EXPECT_EQ(backend_->errors[1], 1u);
  EXPECT_FALSE(backend_->running);
  // Told once; more of it is only counted.
  fake_->SignalError(1);
  loop_.Pump();
  EXPECT_EQ(interrupter_.changes, 1);
  EXPECT_EQ(backend_->errors[1], 2u);
}

TEST_F(VirtioDeviceTest, TakesAnErrorOfARunThatIsOverForWhatItIs) {
  BringUp();
  fake_->SignalError(1);
  device_->WriteStatus(0);
  loop_.Pump();
  EXPECT_EQ(device_->status(), 0);
  EXPECT_THAT(Problem(), IsEmpty());
}

TEST_F(VirtioDeviceTest, NeedsResetWhenItsOwnRingIsBroken) {
  BringUp();
  rings_[kLocalQueue]->PutAvailable(99);
  device_->Notify(kLocalQueue);
  loop_.Pump();
  EXPECT_NE(device_->status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(Problem(), HasSubstr("queue 4 (q4): available entry 0 (head 99)"));
  EXPECT_FALSE(backend_->running);
  const int served = model_->served;
  device_->Notify(kLocalQueue);
  EXPECT_LE(loop_.Pump(), 2);
  EXPECT_EQ(model_->served, served);
  device_->WriteStatus(0);
  BringUp();
}

TEST_F(VirtioDeviceTest, StopsForADriverThatGivesUp) {
  BringUp();
  device_->WriteStatus(kRunning | device_status::kFailed);
  EXPECT_FALSE(backend_->running);
  EXPECT_EQ(device_->status(), kRunning | device_status::kFailed);
}

struct HostileSetup {
  const char* name;
  int queue;
  std::function<void(VringSetup&)> change;
  const char* message;
};
void PrintTo(const HostileSetup& row, std::ostream* out) { *out << row.name; }

const HostileSetup kHostileSetups[] = {
    {"SizeZero", 0, [](VringSetup& s) { s.size = 0; }, "queue size 0"},
    {"SizeNoPowerOfTwo", 0, [](VringSetup& s) { s.size = 12; }, "queue size 12"},
    {"SizeAboveTheLargestOffered", 0, [](VringSetup& s) { s.size = 128; }, "more than the 64"},
    {"SizeLargestNumber", 1, [](VringSetup& s) { s.size = 0xffff; }, "more than the 64"},
    {"DescOutsideMemory", 1, [](VringSetup& s) { s.desc = GuestAddress{0x1000}; },
     "descriptor table"},
    {"DescMisaligned", 1, [](VringSetup& s) { s.desc = s.desc + 8; }, "aligned to 16"},
    {"AvailAtTheEndOfTheAddressSpace", 1,
     [](VringSetup& s) { s.driver = GuestAddress{~uint64_t{1}}; }, "available ring"},
    {"UsedMisaligned", 1, [](VringSetup& s) { s.device = s.device + 2; }, "aligned to 4"},
    {"AddressesNeverWritten", 1, [](VringSetup& s) { s = {.size = 16}; }, "descriptor table"},
    {"OfAQueueThatIsNotActive", 2, [](VringSetup& s) { s.size = 3; }, "queue 2 (q2)"},
    {"OfALocalQueue", kLocalQueue, [](VringSetup& s) { s.device = GuestAddress{0}; },
     "queue 4 (q4): used ring"},
};

class HostileSetupTest : public VirtioDeviceTest,
                         public ::testing::WithParamInterface<HostileSetup> {};

TEST_P(HostileSetupTest, NeedsResetAndNoBackendIsAsked) {
  Ack(Plain());
  for (int queue = 0; queue < 5; ++queue) {
    if (queue != GetParam().queue) {
      AddQueue(queue);
      continue;
    }
    rings_[queue] = std::make_unique<DriverRing>(ram_, DriverRing::Options{});
    VringSetup setup = rings_[queue]->setup();
    GetParam().change(setup);
    device_->WriteQueueSetup(queue, setup);
    device_->EnableQueue(queue);
  }
  device_->WriteStatus(kRunning);
  EXPECT_EQ(device_->status(), kRunning | device_status::kNeedsReset);
  EXPECT_THAT(Problem(), HasSubstr(GetParam().message));
  EXPECT_EQ(backend_->starts, 0);
  device_->WriteStatus(0);
  BringUp();
}

INSTANTIATE_TEST_SUITE_P(, HostileSetupTest, ::testing::ValuesIn(kHostileSetups),
                         [](const ::testing::TestParamInfo<HostileSetup>& row) {
                           return std::string(row.param.name);
                         });

TEST_F(VirtioDeviceTest, IgnoresQueuesThatDoNotExist) {
  BringUp();
  for (const int queue : {-1, 5, 1000, 65535}) {
    EXPECT_EQ(device_->queue_max_size(queue), 0);
    EXPECT_EQ(device_->queue_setup(queue).size, 0);
    EXPECT_FALSE(device_->queue_enabled(queue));
    EXPECT_EQ(device_->kick_fd(queue), -1);
    device_->WriteQueueSetup(queue, {.size = 1});
    device_->EnableQueue(queue);
    device_->ResetQueue(queue);
    device_->Notify(queue);
  }
  EXPECT_EQ(device_->status(), kRunning);
}

// ---- Reset -------------------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, IsAsNewAfterAReset) {
  BringUp();
  backend_->reached[0] = 7;
  device_->Notify(0);
  device_->WriteStatus(0);
  EXPECT_EQ(device_->status(), 0);
  EXPECT_FALSE(backend_->running);
  EXPECT_TRUE(device_->acked().empty());
  EXPECT_FALSE(model_->prepared.has_value());
  for (int queue = 0; queue < 5; ++queue) {
    EXPECT_FALSE(device_->queue_enabled(queue));
    EXPECT_EQ(device_->queue_setup(queue).size, 64);
    EXPECT_EQ(device_->queue_setup(queue).desc, GuestAddress{0});
    EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(device_->kick_fd(queue)));
    EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(device_->call_fd(queue)));
  }
  const int kick = device_->kick_fd(0);
  BringUp();
  EXPECT_EQ(device_->kick_fd(0), kick);
  EXPECT_EQ(backend_->vrings.at(0).base, 0u);
  EXPECT_EQ(device_->Report().starts, 2u);
  EXPECT_EQ(device_->Report().resets, 1u);
}

TEST_F(VirtioDeviceTest, ServesNoLocalQueueAfterAReset) {
  BringUp();
  rings_[kLocalQueue]->Chain().Readable("late").Writable(8).Publish();
  device_->Notify(kLocalQueue);
  device_->WriteStatus(0);
  const int served = model_->served;
  loop_.Pump();
  EXPECT_EQ(model_->served, served);
  EXPECT_FALSE(rings_[kLocalQueue]->TakeUsed().has_value());
}

TEST_F(VirtioDeviceTest, WatchesItsQueuesOnceHoweverOftenItStarts) {
  BringUp();
  const size_t watches = loop_.watches();
  for (int i = 0; i < 5; ++i) {
    device_->WriteStatus(0);
    BringUp();
  }
  EXPECT_EQ(loop_.watches(), watches);
}

TEST_F(VirtioDeviceTest, LeavesNothingBehind) {
  BringUp();
  device_.reset();
  EXPECT_FALSE(backend_->running);
  EXPECT_EQ(loop_.watches(), 0u);
  EXPECT_TRUE(memory_.Remove(ram_.region().start, ram_.region().size).ok());
}

// ---- Queue reset (2.6.1) -----------------------------------------------------------------------

TEST_F(VirtioDeviceTest, ResetsAndRestartsOneQueueWhileTheOthersRun) {
  BringUp();
  backend_->reached[1] = 5;
  device_->ResetQueue(1);
  EXPECT_THAT(OnBackend(), ElementsAre(0));
  EXPECT_FALSE(device_->queue_enabled(1));
  EXPECT_EQ(device_->queue_setup(1).size, 64);
  DriverRing& ring = AddQueue(1, 32);
  EXPECT_THAT(OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(backend_->vrings.at(1).vring.setup().desc, ring.setup().desc);
  EXPECT_EQ(backend_->vrings.at(1).vring.size(), 32);
  EXPECT_EQ(backend_->vrings.at(1).base, 0u);
  EXPECT_EQ(backend_->starts, 1);
}

TEST_F(VirtioDeviceTest, ResetsAndRestartsALocalQueue) {
  BringUp();
  device_->ResetQueue(kLocalQueue);
  device_->Notify(kLocalQueue);
  loop_.Pump();
  AddQueue(kLocalQueue).Chain().Readable("again").Writable(8).Publish();
  device_->Notify(kLocalQueue);
  loop_.Pump();
  EXPECT_EQ(rings_[kLocalQueue]->TakeUsed()->text(), "again");
}

TEST_F(VirtioDeviceTest, NeedsResetWhenAQueueComesBackBroken) {
  BringUp();
  device_->ResetQueue(1);
  device_->WriteQueueSetup(1, {.size = 7});
  device_->EnableQueue(1);
  EXPECT_NE(device_->status() & device_status::kNeedsReset, 0);
  EXPECT_FALSE(backend_->running);
}

TEST_F(VirtioDeviceTest, StopsAllWhenOneQueueCannotBeStopped) {
  BringUp();
  backend_->stop_vring_errors[1] = absl::InternalError("stuck");
  device_->ResetQueue(1);
  EXPECT_FALSE(backend_->running);
  EXPECT_NE(device_->status() & device_status::kNeedsReset, 0);
  EXPECT_FALSE(device_->queue_enabled(1));
}

TEST_F(VirtioDeviceTest, ResetsNoQueueForADriverThatDidNotNegotiateIt) {
  Ack({VirtioFeature::kVersion1});
  AddQueue(0);
  device_->WriteStatus(kRunning);
  device_->ResetQueue(0);
  EXPECT_THAT(OnBackend(), ElementsAre(0));
  EXPECT_TRUE(device_->queue_enabled(0));
}

TEST_F(VirtioDeviceTest, IgnoresASetupOfAQueueThatRuns) {
  BringUp();
  const VringSetup before = device_->queue_setup(0);
  device_->WriteQueueSetup(0, {.size = 2});
  EXPECT_EQ(device_->queue_setup(0).size, before.size);
}

// ---- Configuration space -----------------------------------------------------------------------

TEST_F(VirtioDeviceTest, ReadsZerosBeyondItsConfiguration) {
  model_->config_bytes.fill(std::byte{7});
  std::array<std::byte, 4> four;
  for (const auto& [offset, expected] :
       std::map<uint32_t, std::array<int, 4>>{{0, {7, 7, 7, 7}},
                                              {6, {7, 7, 0, 0}},
                                              {8, {0, 0, 0, 0}},
                                              {0xffff'fffe, {0, 0, 0, 0}}}) {
    four.fill(std::byte{1});
    device_->ReadConfig(offset, four);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(four[i], std::byte(expected[i])) << offset << "+" << i;
  }
}

TEST_F(VirtioDeviceTest, IgnoresWritesBeyondItsConfiguration) {
  const std::array<std::byte, 4> four{};
  for (const uint32_t offset : {5u, 8u, 0xffff'fffcu, 0xffff'ffffu}) {
    device_->WriteConfig(offset, four);
  }
  device_->WriteConfig(4, four);
}

TEST_F(VirtioDeviceTest, TellsOfAChangeOnceADriverRuns) {
  const uint32_t generation = device_->config_generation();
  model_->ChangeConfig();
  EXPECT_NE(device_->config_generation(), generation);
  EXPECT_EQ(interrupter_.changes, 0);  // virtio 1.3, 2.1.2: silent before DRIVER_OK.
  BringUp();
  model_->ChangeConfig();
  EXPECT_EQ(interrupter_.changes, 1);
}

// ---- Memory ------------------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, FollowsMemoryThatComesAndGoesWhileItRuns) {
  BringUp();
  GuestRam more(1 << 16, 0x8000'0000);
  ASSERT_TRUE(memory_.Add(more.region()).ok());
  EXPECT_EQ(backend_->memory->merged().size(), 2u);
  // The local queue reaches it as well.
  const GuestAddress text = more.Allocate(4);
  more.Put(text, std::as_bytes(std::span("hot!", 4)));
  rings_[kLocalQueue]->PutDesc(0, {Value(text), 4, kernel_abi::kDescFNext, 1});
  rings_[kLocalQueue]->PutDesc(1, {Value(text), 4, kernel_abi::kDescFWrite, 0});
  rings_[kLocalQueue]->PutAvailable(0);
  device_->Notify(kLocalQueue);
  loop_.Pump();
  EXPECT_TRUE(rings_[kLocalQueue]->TakeUsed().has_value());
  ASSERT_TRUE(memory_.Remove(more.region().start, more.region().size).ok());
  EXPECT_EQ(backend_->memory->merged().size(), 1u);
}

TEST_F(VirtioDeviceTest, KeepsMemoryThatARingIsIn) {
  BringUp();
  const absl::Status status = memory_.Remove(ram_.region().start, ram_.region().size);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("echo0: queue 0 (q0) runs in the memory"));
  EXPECT_EQ(backend_->memory->merged().size(), 1u);
  device_->WriteStatus(0);
  EXPECT_TRUE(memory_.Remove(ram_.region().start, ram_.region().size).ok());
}

TEST_F(VirtioDeviceTest, RefusesMemoryThatItsBackendCannotTake) {
  backend_->memory_error = absl::ResourceExhaustedError("65 regions, max_mem_regions is 64");
  GuestRam more(1 << 16, 0x8000'0000);
  const absl::Status status = memory_.Add(more.region());
  EXPECT_THAT(std::string(status.message()), HasSubstr("echo0: 65 regions"));
  EXPECT_EQ(memory_.table()->merged().size(), 1u);
}

// ---- Activation in one step --------------------------------------------------------------------

class ActivationTest : public VirtioDeviceTest {
 protected:
  Activation All() {
    Activation activation{.acked = Plain(), .queues = {}};
    for (int queue = 0; queue < 5; ++queue) {
      rings_[queue] = std::make_unique<DriverRing>(ram_, DriverRing::Options{});
      activation.queues.push_back({.queue = queue, .setup = rings_[queue]->setup()});
    }
    return activation;
  }
  void ExpectNothingHeld() {
    EXPECT_EQ(device_->status(), 0);
    EXPECT_FALSE(backend_->running);
    EXPECT_TRUE(device_->acked().empty());
    EXPECT_FALSE(device_->queue_enabled(0));
  }
};

TEST_F(ActivationTest, RunsAtOnceAndStopsAtOnceAndAgain) {
  for (uint32_t i = 0; i < 3; ++i) {
    Activation activation = All();
    activation.queues[0].base = i;
    ASSERT_TRUE(device_->Activate(activation).ok());
    EXPECT_EQ(device_->status(), kRunning);
    EXPECT_EQ(backend_->vrings.at(0).base, i);
    backend_->reached[0] = i + 100;
    const std::vector<StoppedVring> stopped = device_->Deactivate();
    ASSERT_EQ(stopped.size(), 3u);  // Two of the backend's, and the local one.
    EXPECT_EQ(stopped[0].base, i + 100);
    ExpectNothingHeld();
    EXPECT_TRUE(device_->Deactivate().empty());
  }
}

TEST_F(ActivationTest, TakesHostAddresses) {
  Activation activation = All();
  const VringSetup setup = rings_[1]->setup();
  activation.queues[1].setup = HostVringSetup{.size = setup.size,
                                              .desc = ram_.Host(setup.desc),
                                              .driver = ram_.Host(setup.driver),
                                              .device = ram_.Host(setup.device)};
  ASSERT_TRUE(device_->Activate(activation).ok());
  EXPECT_EQ(backend_->vrings.at(1).vring.setup().device, setup.device);
}

TEST_F(ActivationTest, UsesLentEventFdsUntilItIsOver) {
  auto kick = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  auto call = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  Activation activation = All();
  activation.queues[0].kick_fd = kick.get();
  activation.queues[0].call_fd = call.get();
  activation.queues[4].kick_fd = kick.get();
  activation.queues[4].call_fd = call.get();
  ASSERT_TRUE(device_->Activate(activation).ok());
  EXPECT_EQ(backend_->vrings.at(0).kick_fd, kick.get());
  EXPECT_EQ(backend_->vrings.at(0).call_fd, call.get());
  loop_.Pump();
  call.Drain();
  rings_[kLocalQueue]->Chain().Readable("lent").Writable(8).Publish();
  kick.Signal();
  loop_.Pump();
  EXPECT_EQ(rings_[kLocalQueue]->TakeUsed()->text(), "lent");
  EXPECT_TRUE(call.Drain());
  device_->Deactivate();
  EXPECT_FALSE(loop_.Watches(kick.get()));
  ASSERT_TRUE(device_->Activate(All()).ok());
  EXPECT_EQ(backend_->vrings.at(0).kick_fd, device_->kick_fd(0));
}

TEST_F(ActivationTest, ChangesWhereInterruptsGoWhileItRuns) {
  auto call = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  ASSERT_TRUE(device_->Activate(All()).ok());
  ASSERT_TRUE(device_->SetCall(0, call.get()).ok());
  ASSERT_TRUE(device_->SetCall(kLocalQueue, call.get()).ok());
  EXPECT_EQ(backend_->vrings.at(0).call_fd, call.get());
  loop_.Pump();
  call.Drain();
  rings_[kLocalQueue]->Chain().Readable("x").Writable(8).Publish();
  device_->Notify(kLocalQueue);
  loop_.Pump();
  EXPECT_TRUE(call.Drain());
  ASSERT_TRUE(device_->SetCall(0, -1).ok());
  EXPECT_EQ(backend_->vrings.at(0).call_fd, device_->call_fd(0));
  EXPECT_FALSE(device_->SetCall(9, -1).ok());
}

TEST_F(ActivationTest, IsAllOrNothing) {
  const auto fails = [this](const Activation& activation, const char* message) {
    const absl::Status status = device_->Activate(activation);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    ExpectNothingHeld();
  };
  Activation unknown_feature = All();
  unknown_feature.acked.Set(VirtioFeature::kRingPacked);
  fails(unknown_feature, "VIRTIO_F_RING_PACKED");
  Activation bad_combination = All();
  bad_combination.acked.Set(VirtioFeature::kNetCsum);
  fails(bad_combination, "CSUM without");
  Activation twice = All();
  twice.queues.push_back(twice.queues[0]);
  fails(twice, "queue 0 is given twice");
  Activation no_queue = All();
  no_queue.queues[3].queue = 5;
  fails(no_queue, "there is no queue 5");
  Activation bad_ring = All();
  std::get<VringSetup>(bad_ring.queues[4].setup).size = 3;
  fails(bad_ring, "queue 4 (q4): queue size 3");
  Activation not_memory = All();
  not_memory.queues[1].setup = HostVringSetup{.size = 16};
  fails(not_memory, "not in guest memory");
  backend_->start_error = absl::InternalError("backend says no");
  fails(All(), "echo0: kernel backend: backend says no");
  backend_->start_error = absl::OkStatus();
  loop_.fail_next_watch = true;
  fails(All(), "no more watches");
  EXPECT_TRUE(device_->Activate(All()).ok());
}

TEST_F(ActivationTest, DoesNotMixWithATransportThatRuns) {
  BringUp();
  EXPECT_EQ(device_->Activate(All()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(device_->status(), kRunning);
}

// ---- Report, threads ---------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, TellsWhoServesWhat) {
  BringUp();
  rings_[1]->PutAvailableIndex(3);
  const DeviceReport report = device_->Report();
  EXPECT_EQ(report.name, "echo0");
  EXPECT_EQ(report.transport, "test");
  EXPECT_EQ(report.policy, "require");
  EXPECT_EQ(report.status, kRunning);
  EXPECT_EQ(report.guest_cid, 42u);
  ASSERT_TRUE(report.backend.has_value());
  EXPECT_TRUE(report.backend->running);
  ASSERT_EQ(report.vrings.size(), 5u);
  EXPECT_EQ(report.vrings[1].served_by, "kernel");
  EXPECT_EQ(report.vrings[1].indices->avail, 3);
  EXPECT_EQ(report.vrings[1].kick_count, 0u);
  EXPECT_EQ(report.vrings[2].served_by, "none");
  EXPECT_EQ(report.vrings[4].served_by, "device");
  EXPECT_TRUE(report.vrings[4].active);
  device_->Notify(1);
  device_->Notify(1);
  EXPECT_EQ(device_->Report().vrings[1].kick_count, 2u);
  ASSERT_EQ(report.memory.size(), 1u);
}

TEST_F(VirtioDeviceTest, TakesCallsFromManyThreads) {
  // What is checked here is for ThreadSanitizer, and that nothing hangs.
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([this] {
      for (int round = 0; round < 200; ++round) {
        device_->WriteStatus(kAgreed);
        device_->EnableQueue(round % 5);
        device_->WriteStatus(kRunning);
        device_->Notify(round % 5);
        model_->ChangeConfig();
        device_->Report();
        device_->WriteStatus(0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(device_->status(), 0);
}

}  // namespace
}  // namespace vhost
