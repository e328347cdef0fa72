// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A server with a small device in it, and a front end at the other end of its socket.
#pragma once

#include <dirent.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/fakes/manual_loop.h"
#include "tests/fakes/vhost_user_front_end.h"
#include "vhost/inprocess/chain_backend.h"
#include "vhost/user/server.h"

namespace vhost::user {

// Answers each buffer with what the driver wrote, in capitals. Two queues, and one that is set up
// and not served.
class EchoDevice final : public ServedDevice {
 public:
  EchoDevice()
      : backend_(*inprocess::ChainBackend::Create(
            kernel_abi::LinuxKernel(),
            {.queues = 2, .answer = [](int, inprocess::Chain& chain) { Echo(chain); }})) {}

  DeviceId id() const override { return DeviceId::kRng; }
  Backend& backend() override { return *backend_; }
  int queue_count() const override { return 3; }
  bool is_served(int queue) const override { return queue < 2; }
  bool is_discarded_when_disabled(int queue) const override { return queue == 1; }
  VirtioFeatures features() const override {
    using enum VirtioFeature;
    return {kVersion1, kEventIdx, kIndirectDesc, kRingPacked};
  }
  std::vector<std::byte> config() const override { return config_; }
  absl::Status WriteConfig(uint32_t offset, std::span<const std::byte> from, bool) override {
    std::ranges::copy(from, config_.begin() + offset);
    return absl::OkStatus();
  }
  absl::Status Prepare(VirtioFeatures) override {
    ++prepared;
    return absl::OkStatus();
  }
  void DriverIsNew() override { ++new_drivers; }

  int prepared = 0;
  int new_drivers = 0;

 private:
  static void Echo(inprocess::Chain& chain) {
    const size_t bytes = std::min<size_t>({chain.readable_bytes(), chain.writable_bytes(), 4096});
    std::vector<std::byte> text(bytes);
    if (!chain.Read(0, text).ok()) return;
    for (std::byte& letter : text) {
      letter = static_cast<std::byte>(std::toupper(static_cast<int>(letter)));
    }
    if (!chain.Write(0, text).ok()) return;
    chain.Return(static_cast<uint32_t>(bytes));
  }

  std::vector<std::byte> config_ = std::vector<std::byte>(8);
  const std::unique_ptr<inprocess::ChainBackend> backend_;
};

inline int OpenFds() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

// The device and its server run on the loop that the test pumps.
class ServerFixture : public ::testing::Test {
 protected:
  using Request = FrontEndRequest;
  using FrontEnd = fakes::VhostUserFrontEnd;
  using Ring = FrontEnd::Ring;
  static constexpr uint64_t kVersion1Bit = uint64_t{1} << 32;
  static constexpr uint64_t kPackedBit = uint64_t{1} << 34;
  static constexpr uint64_t kProtocolBit = uint64_t{1} << kProtocolFeaturesBit;

  void SetUp() override {
    path_ = ::testing::TempDir() + "vhost-user-" + std::to_string(getpid()) + ".sock";
    auto server = Server::Create(kernel_abi::LinuxKernel(), loop_, device_,
                                 {.path = path_,
                                  .on_connect = [this] { ++connects_; },
                                  .on_disconnect =
                                      [this](const absl::Status& why, bool is_last) {
                                        ++disconnects_;
                                        why_ = why;
                                        is_last_ = is_last;
                                      }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::unique_ptr<FrontEnd> Connect() {
    absl::StatusOr<kernel_abi::UniqueFd> socket = ConnectUnix(path_);
    EXPECT_TRUE(socket.ok()) << socket.status();
    loop_.Pump();
    return std::make_unique<FrontEnd>(*std::move(socket), [this] { loop_.Pump(); });
  }
  // With features and memory agreed.
  std::unique_ptr<FrontEnd> ConnectReady(uint64_t features = kVersion1Bit) {
    auto front_end = Connect();
    EXPECT_TRUE(front_end->Negotiate(features, kAllProtocolFeatures));
    EXPECT_TRUE(front_end->ShareMemory(ram_));
    return front_end;
  }
  // Whether a ring answers.
  bool Echoes(FrontEnd& front_end, Ring& ring) {
    ring.driver.Chain().Readable("hello").Writable(16).Publish();
    front_end.Kick(ring);
    const auto used = front_end.WaitForUsed(ring);
    return used.has_value() && used->text() == "HELLO";
  }

  static constexpr auto kAllProtocolFeatures = ProtocolFeatures::FromWords(~uint64_t{0});

  fakes::GuestRam ram_{fakes::GuestRam::kDefaultBytes, fakes::GuestRam::kDefaultStart, true};
  fakes::ManualLoop loop_;
  EchoDevice device_;
  std::string path_;
  int connects_ = 0;
  int disconnects_ = 0;
  absl::Status why_;
  bool is_last_ = false;
  std::unique_ptr<Server> server_;
};

}  // namespace vhost::user
