// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// VhostUserDevice: a complete virtio device, with any transport, of which this process knows hardly
// more than its number. Given a socket, a device id, how many queues it has and how large its
// configuration space is, the rest is asked of the back end. What is particular to a type is a
// VhostUserType: a few lines in device.cc, or of a VMM's own.
//
//   Peer (the process behind the socket)
//     |-- UserBackend       what VirtioDevice hands its vrings to
//     '-- VhostUserDevice   what VirtioDevice asks for features and configuration space
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhost/device/device_model.h"
#include "vhost/features.h"
#include "vhost/user/peer.h"

namespace vhost::user {

// What is to be known of a type of device.
struct VhostUserType {
  DeviceId id = DeviceId::kBlock;
  // Names of the first queues; the others are called `further_queues`, with a number.
  std::vector<std::string> queues;
  std::string further_queues;
  int queue_count = 1;
  // The last of them stay in this process, which has nothing to say in them: event queues that no
  // back end asks for.
  int local_queues = 0;
  // The configuration space: `config_bytes` that the back end tells (0: it tells none), or these.
  uint32_t config_bytes = 0;
  std::vector<std::byte> config;
  // What this process knows better than the back end: bytes that it puts over the others.
  struct Patch {
    uint32_t offset;
    std::vector<std::byte> bytes;
  };
  std::vector<Patch> patches;
  // Feature bits of the device type (0 to 23 and 50 to 63) that may be offered if the back end
  // offers them; by default all.
  uint64_t device_features = 0xfffc'0000'00ff'ffff;
  // See PeerOptions.
  bool track_in_flight = false;
  // And what is offered whatever the back end says, because it is this process's.
  VirtioFeatures own_features;
};

// `queues`: request queues.
VhostUserType BlockType(int queues);
VhostUserType RngType();
VhostUserType GpuType();
VhostUserType InputType();
// With the tag by which a guest mounts it, 36 bytes at most.
absl::StatusOr<VhostUserType> FsType(absl::string_view tag, int queues);
VhostUserType ScsiType(int queues);
// A back end that tells its CID by itself needs none here.
VhostUserType VsockType(std::optional<uint64_t> guest_cid);
// A network device with one queue pair and no control queue.
VhostUserType NetType(std::span<const uint8_t, 6> mac, std::optional<uint16_t> mtu);
// Anything else: all is asked of the back end.
VhostUserType GenericType(DeviceId id, int queues, uint32_t config_bytes);

struct VhostUserDeviceOptions {
  VhostUserType type;
  uint16_t queue_size = 256;  // entries of a queue, at most; a power of two
  VirtioFeatures withheld;    // not to be offered, although they could be
};

class VhostUserDevice final : public DeviceModel {
 public:
  // What the peer must be created with. `peer` says where it is, and how to treat it.
  static PeerOptions PeerOptionsFor(const VhostUserDeviceOptions& device, PeerOptions peer);
  // INVALID_ARGUMENT names the option that is wrong.
  static absl::StatusOr<std::unique_ptr<VhostUserDevice>> Create(VhostUserDeviceOptions options,
                                                                 std::shared_ptr<Peer> peer);

  // ---- DeviceModel ----
  DeviceId id() const override { return options_.type.id; }
  int queue_count() const override { return options_.type.queue_count; }
  uint16_t queue_max_size(int) const override { return options_.queue_size; }
  QueueRole role(int queue, VirtioFeatures acked) const override;
  VirtioFeatures features() const override;
  absl::Status CheckFeatures(VirtioFeatures) const override { return absl::OkStatus(); }
  std::vector<std::byte> config() const override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> from) override;
  absl::Status Prepare(VirtioFeatures) override { return absl::OkStatus(); }
  bool is_active(int) const override { return true; }
  int host_fd() const override { return peer_->news_fd(); }
  std::optional<HostChange> ReadHostChange() override;
  absl::StatusOr<bool> Serve(int queue, inprocess::Virtqueue& ring) override;
  void Reset() override { peer_->Reset(); }
  void Describe(DeviceReport& report) const override { static_cast<void>(report); }

 private:
  VhostUserDevice(VhostUserDeviceOptions options, std::shared_ptr<Peer> peer)
      : options_(std::move(options)), peer_(std::move(peer)) {}

  const VhostUserDeviceOptions options_;
  const std::shared_ptr<Peer> peer_;
};

}  // namespace vhost::user
