// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A disk that qemu-storage-daemon serves, with this process as the guest: what is written is in the
// image, and killing the daemon while it has requests in flight loses none of them.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/user/backend.h"
#include "vhost/user/device.h"
#include "vhost/user/peer.h"

namespace vhost::user {
namespace {

using fakes::DriverRing;
using fakes::GuestRam;
using kernel_abi::EventFd;

constexpr char kDaemon[] = "/usr/bin/qemu-storage-daemon";
constexpr size_t kBlockBytes = 4096;
constexpr uint16_t kQueueSize = 128;

class StorageDaemon {
 public:
  explicit StorageDaemon(std::string folder)
      : folder_(std::move(folder)), image_(folder_ + "/image"), socket_(folder_ + "/socket") {
    std::ofstream(image_).close();
    std::filesystem::resize_file(image_, 8 << 20);
  }
  ~StorageDaemon() { Kill(); }

  void Start() {
    std::filesystem::remove(socket_);
    const std::string blockdev = absl::StrCat("driver=file,node-name=disk,filename=", image_);
    const std::string exported = absl::StrCat(
        "type=vhost-user-blk,id=disk,node-name=disk,writable=on,addr.type=unix,addr.path=",
        socket_);
    const std::array<const char*, 6> argv = {kDaemon,    "--blockdev",     blockdev.c_str(),
                                             "--export", exported.c_str(), nullptr};
    ASSERT_EQ(posix_spawn(&pid_, kDaemon, nullptr, nullptr, const_cast<char* const*>(argv.data()),
                          environ),
              0);
    for (int i = 0; i < 60'000 && !std::filesystem::exists(socket_); ++i) usleep(1000);
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  const std::string& socket() const { return socket_; }
  std::string Block(size_t block) const {
    std::string bytes(kBlockBytes, 0);
    std::ifstream file(image_, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(block * kBlockBytes));
    file.read(bytes.data(), kBlockBytes);
    return bytes;
  }

 private:
  const std::string folder_;
  const std::string image_;
  const std::string socket_;
  pid_t pid_ = -1;
};

// What stands in a block after the `number`-th request.
std::string Content(uint32_t number) {
  std::string bytes(kBlockBytes, 0);
  for (size_t i = 0; i + sizeof(number) <= bytes.size(); i += sizeof(number)) {
    memcpy(bytes.data() + i, &number, sizeof(number));
  }
  return bytes;
}

TEST(UserBlock, KillingTheDaemonLosesNoRequest) {
  if (access(kDaemon, X_OK) != 0) GTEST_SKIP() << "skipped: no " << kDaemon;
  const std::string folder = absl::StrCat(testing::TempDir(), "user-block-", getpid());
  std::filesystem::create_directories(folder);
  StorageDaemon daemon(folder);
  daemon.Start();

  kernel_abi::Kernel& kernel = kernel_abi::LinuxKernel();
  const VhostUserDeviceOptions device{.type = BlockType(1)};
  const PeerOptions options = VhostUserDevice::PeerOptionsFor(
      device, {.socket = daemon.socket(), .stop_timeout = std::chrono::seconds(60)});
  auto peer = Peer::Create(kernel, options);
  // The socket is there a moment before the daemon listens.
  for (int i = 0; i < 60'000 && absl::IsUnavailable(peer.status()); ++i) {
    usleep(1000);
    peer = Peer::Create(kernel, options);
  }
  ASSERT_TRUE(peer.ok()) << peer.status();
  uint64_t sectors = 0;
  memcpy(&sectors, (*peer)->config().data(), sizeof(sectors));
  EXPECT_EQ(sectors, (8 << 20) / 512);

  GuestRam ram(32 << 20, GuestRam::kDefaultStart, /*shared=*/true);
  DriverRing ring(ram, {.size = kQueueSize, .event_idx = true});
  const EventFd kick = *EventFd::Create(kernel);
  const EventFd call = *EventFd::Create(kernel);
  UserBackend backend(*peer);
  const VirtioFeatures acked{VirtioFeature::kVersion1, VirtioFeature::kEventIdx};
  ASSERT_TRUE(acked == backend.Supported(acked));
  ASSERT_TRUE(backend
                  .Start({.acked = acked,
                          .memory = ram.table(),
                          .vrings = {{.queue = 0,
                                      .vring = *Vring::Create(ring.setup(), VringLayout::kSplit,
                                                              *ram.table()),
                                      .kick_fd = kick.get(),
                                      .call_fd = call.get()}}})
                  .ok());

  constexpr uint32_t kRequests = 1500;
  constexpr size_t kBlocks = 1500;
  constexpr size_t kInFlight = 32;
  std::map<uint16_t, uint32_t> in_flight;  // request by head
  uint32_t next = 0;
  uint32_t done = 0;
  int kills = 0;
  while (done < kRequests) {
    while (next < kRequests && in_flight.size() < kInFlight) {
      const struct {
        uint32_t type;
        uint32_t reserved;
        uint64_t sector;
      } header{.type = 1, .reserved = 0, .sector = next % kBlocks * (kBlockBytes / 512)};
      const uint16_t head = ring.Chain()
                                .Readable(std::as_bytes(std::span(&header, 1)))
                                .Readable(Content(next))
                                .Writable(1)
                                .Publish();
      ASSERT_TRUE(in_flight.emplace(head, next++).second);
    }
    if (ring.KickWanted()) kick.Signal();
    if (done / 300 > static_cast<uint32_t>(kills)) {
      ++kills;
      daemon.Kill();
      daemon.Start();
    }
    std::optional<DriverRing::Used> used = ring.TakeUsed();
    if (!used.has_value()) {
      pollfd entry{.fd = call.get(), .events = POLLIN, .revents = 0};
      ASSERT_EQ(poll(&entry, 1, 60'000), 1)
          << done << " of " << kRequests << " are done, " << in_flight.size()
          << " in flight, after " << kills << " restarts: " << backend.Report().node;
      call.Drain();
      continue;
    }
    ASSERT_EQ(in_flight.erase(used->head), 1U) << "head " << used->head << " was not in flight";
    ASSERT_EQ(used->data, std::vector<std::byte>{std::byte{0}}) << "status";
    ++done;
  }
  EXPECT_EQ(kills, 4);
  EXPECT_EQ((*peer)->report().connections, 5U);
  EXPECT_EQ(backend.Stop()[0].base, kRequests);
  for (uint32_t i = 0; i < kRequests; ++i) ASSERT_EQ(daemon.Block(i), Content(i)) << i;
  daemon.Kill();
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace vhost::user
