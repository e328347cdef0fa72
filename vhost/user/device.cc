// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/device.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/virtio.h"
#include "vhost/vring.h"

namespace vhost::user {
namespace {

using enum VirtioFeature;

// What any device may offer. Packed rings are not among them (peer.cc says why).
constexpr VirtioFeatures kRingFeatures{kVersion1, kRingReset,     kIndirectDesc, kEventIdx,
                                       kInOrder,  kNotifyOnEmpty, kAnyLayout,    kOrderPlatform};

template <typename Number>
std::vector<std::byte> Bytes(const Number& number) {
  const auto bytes = std::as_bytes(std::span(&number, 1));
  return {bytes.begin(), bytes.end()};
}

uint64_t Bit(VirtioFeature bit) { return uint64_t{1} << static_cast<unsigned>(bit); }

}  // namespace

// ---- Types -------------------------------------------------------------------------------------

VhostUserType BlockType(int queues) {
  constexpr uint32_t kNumQueues = 34;  // in virtio_blk_config (virtio 1.3, 5.2.4)
  return {.id = DeviceId::kBlock,
          .further_queues = "requests",
          .queue_count = queues,
          .config_bytes = 60,
          .patches = {{kNumQueues, Bytes(static_cast<uint16_t>(queues))}},
          .track_in_flight = true};
}

VhostUserType RngType() { return {.id = DeviceId::kRng, .queues = {"requests"}}; }

VhostUserType GpuType() {
  return {
      .id = DeviceId::kGpu, .queues = {"control", "cursor"}, .queue_count = 2, .config_bytes = 16};
}

VhostUserType InputType() {
  return {.id = DeviceId::kInput,
          .queues = {"events", "status"},
          .queue_count = 2,
          .config_bytes = 136};
}

absl::StatusOr<VhostUserType> FsType(absl::string_view tag, int queues) {
  constexpr size_t kTagBytes = 36;  // virtio 1.3, 5.11.4
  if (tag.empty() || tag.size() > kTagBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tag \"", tag, "\": 1 to ", kTagBytes, " bytes can be"));
  }
  VhostUserType type{.id = DeviceId::kFs,
                     .queues = {"high-priority"},
                     .further_queues = "requests",
                     .queue_count = queues + 1};
  type.config.resize(kTagBytes);
  std::memcpy(type.config.data(), tag.data(), tag.size());
  const std::vector<std::byte> number = Bytes(static_cast<uint32_t>(queues));
  type.config.insert(type.config.end(), number.begin(), number.end());
  return type;
}

VhostUserType ScsiType(int queues) {
  const struct {  // virtio 1.3, 5.6.4
    uint32_t num_queues, seg_max, max_sectors, cmd_per_lun, event_info_size, sense_size, cdb_size;
    uint16_t max_channel, max_target;
    uint32_t max_lun;
  } config{.num_queues = static_cast<uint32_t>(queues),
           .seg_max = 126,
           .max_sectors = 0xffff,
           .cmd_per_lun = 128,
           .event_info_size = 16,
           .sense_size = 96,
           .cdb_size = 32,
           .max_channel = 0,
           .max_target = 255,
           .max_lun = 16383};
  static_assert(sizeof(config) == 36);
  return {.id = DeviceId::kScsi,
          .queues = {"control", "events"},
          .further_queues = "requests",
          .queue_count = queues + 2,
          .config = Bytes(config),
          .track_in_flight = true};
}

VhostUserType VsockType(std::optional<uint64_t> guest_cid) {
  VhostUserType type{.id = DeviceId::kVsock, .queues = {"rx", "tx", "event"}, .queue_count = 3};
  if (guest_cid.has_value()) {
    type.config = Bytes(*guest_cid);
  } else {
    type.config_bytes = sizeof(uint64_t);
  }
  return type;
}

VhostUserType NetType(std::span<const uint8_t, 6> mac, std::optional<uint16_t> mtu) {
  kernel_abi::VirtioNetConfig config{};
  std::ranges::copy(mac, config.mac);
  config.status = kernel_abi::kNetStatusLinkUp;
  config.max_virtqueue_pairs = 1;
  config.mtu = mtu.value_or(0);
  // The control queue would be served here, and the back end be told what it says: not yet.
  uint64_t features = Bit(kNetCsum) | Bit(kNetGuestCsum) | Bit(kNetGuestTso4) | Bit(kNetGuestTso6) |
                      Bit(kNetGuestEcn) | Bit(kNetGuestUfo) | Bit(kNetHostTso4) |
                      Bit(kNetHostTso6) | Bit(kNetHostEcn) | Bit(kNetHostUfo) | Bit(kNetMrgRxbuf);
  return {.id = DeviceId::kNet,
          .queues = {"rx0", "tx0"},
          .queue_count = 2,
          .config = Bytes(config),
          .device_features = features,
          .own_features = mtu.has_value() ? VirtioFeatures{kNetMac, kNetStatus, kNetMtu}
                                          : VirtioFeatures{kNetMac, kNetStatus}};
}

VhostUserType GenericType(DeviceId id, int queues, uint32_t config_bytes) {
  return {.id = id, .further_queues = "queue", .queue_count = queues, .config_bytes = config_bytes};
}

// ---- The device --------------------------------------------------------------------------------

PeerOptions VhostUserDevice::PeerOptionsFor(const VhostUserDeviceOptions& device,
                                            PeerOptions peer) {
  peer.id = device.type.id;
  peer.queues = device.type.queue_count - device.type.local_queues;
  peer.config_bytes = device.type.config_bytes;
  peer.features =
      (kRingFeatures | VirtioFeatures::FromWords(device.type.device_features)) - device.withheld;
  peer.own_features = device.type.own_features;
  peer.track_in_flight = device.type.track_in_flight;
  return peer;
}

absl::StatusOr<std::unique_ptr<VhostUserDevice>> VhostUserDevice::Create(
    VhostUserDeviceOptions options, std::shared_ptr<Peer> peer) {
  if (!std::has_single_bit(options.queue_size) || options.queue_size > kMaxQueueSize) {
    return absl::InvalidArgumentError(absl::StrCat("a queue size of ", options.queue_size,
                                                   ": a power of two up to ", kMaxQueueSize,
                                                   " can be"));
  }
  return std::unique_ptr<VhostUserDevice>(new VhostUserDevice(std::move(options), std::move(peer)));
}

QueueRole VhostUserDevice::role(int queue, VirtioFeatures) const {
  const auto& names = options_.type.queues;
  if (queue < 0 || queue >= queue_count()) return {.name = "unused"};
  const size_t index = static_cast<size_t>(queue);
  const bool is_local = queue >= queue_count() - options_.type.local_queues;
  if (index < names.size()) return {.name = names[index], .local = is_local};
  return {.name = absl::StrCat(options_.type.further_queues, index - names.size()),
          .local = is_local};
}

VirtioFeatures VhostUserDevice::features() const {
  return (peer_->options().features | options_.type.own_features) - options_.withheld;
}

std::vector<std::byte> VhostUserDevice::config() const {
  std::vector<std::byte> config =
      options_.type.config_bytes != 0 ? peer_->config() : options_.type.config;
  for (const VhostUserType::Patch& patch : options_.type.patches) {
    if (patch.offset + patch.bytes.size() > config.size()) continue;
    std::ranges::copy(patch.bytes, config.begin() + patch.offset);
  }
  return config;
}

void VhostUserDevice::WriteConfig(uint32_t offset, std::span<const std::byte> from) {
  // Of a space that is ours nothing can be written.
  if (offset >= options_.type.config_bytes) return;
  peer_->WriteConfig(
      offset, from.first(std::min<size_t>(from.size(), options_.type.config_bytes - offset)));
}

std::optional<DeviceModel::HostChange> VhostUserDevice::ReadHostChange() {
  const Peer::News news = peer_->TakeNews();
  if (news.config_changed && host() != nullptr) host()->ConfigChanged();
  if (!news.connected.has_value()) return std::nullopt;
  return HostChange{.is_lost = !*news.connected, .text = news.text};
}

absl::StatusOr<bool> VhostUserDevice::Serve(int, inprocess::Virtqueue& ring) {
  ring.DisableKicks();  // What the driver puts in stays there.
  return false;
}

}  // namespace vhost::user
