// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/user_device_options.h"

#include <sys/random.h>

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "src/vmm/device_options.h"
#include "vhost/device/mac_address.h"

namespace vmm {
namespace {

using vhost::user::VhostUserType;

absl::StatusOr<VhostUserType> NetType(const DeviceOption& device) {
  vhost::MacAddress mac{};
  if (device.Has("mac")) {
    absl::StatusOr<vhost::MacAddress> parsed = vhost::ParseMacAddress(device.Text("mac"));
    if (!parsed.ok()) return parsed.status();
    mac = *parsed;
  } else {
    if (getrandom(mac.data(), mac.size(), 0) != static_cast<ssize_t>(mac.size())) {
      return absl::UnavailableError("mac: no random numbers for one; give one");
    }
    mac[0] = static_cast<uint8_t>((mac[0] & 0xfc) | 0x02);  // locally administered
  }
  std::optional<uint16_t> mtu;
  if (device.Has("mtu")) mtu = static_cast<uint16_t>(device.Number("mtu", 0));
  return vhost::user::NetType(mac, mtu);
}

absl::StatusOr<VhostUserType> TypeOf(const DeviceOption& device) {
  const int queues = static_cast<int>(device.Number("num-queues", 1));
  switch (device.driver->type()) {
    case DeviceType::kUserBlock:
      return vhost::user::BlockType(queues);
    case DeviceType::kUserNet:
      return NetType(device);
    case DeviceType::kUserFs:
      if (!device.Has("tag")) return absl::InvalidArgumentError("tag is needed");
      return vhost::user::FsType(device.Text("tag"), queues);
    case DeviceType::kUserVsock:
      return vhost::user::VsockType(
          device.Has("guest-cid") ? std::optional(device.Number("guest-cid", 0)) : std::nullopt);
    case DeviceType::kUserScsi:
      return vhost::user::ScsiType(queues);
    case DeviceType::kUserRng:
      return vhost::user::RngType();
    case DeviceType::kUserAny:
      if (!device.Has("virtio-id")) return absl::InvalidArgumentError("virtio-id is needed");
      return vhost::user::GenericType(static_cast<vhost::DeviceId>(device.Number("virtio-id", 0)),
                                      static_cast<int>(device.Number("num-vqs", 1)),
                                      static_cast<uint32_t>(device.Number("config-size", 0)));
    case DeviceType::kNet:
    case DeviceType::kVsock:
      break;
  }
  return absl::InternalError("no vhost-user device");
}

}  // namespace

absl::StatusOr<vhost::VhostUserOptions> MakeVhostUserOptions(const DeviceOption& device,
                                                             std::string name) {
  vhost::VhostUserOptions options{.name = std::move(name)};
  if (!device.Has("socket")) {
    return absl::InvalidArgumentError("socket is needed: the path where the back end listens");
  }
  absl::StatusOr<VhostUserType> type = TypeOf(device);
  if (!type.ok()) return type.status();
  options.device.type = *std::move(type);
  options.device.withheld = Withheld(device);
  options.device.queue_size =
      static_cast<uint16_t>(device.Number("queue-size", options.device.queue_size));
  options.peer.socket = device.Text("socket");
  options.peer.server = device.Switch("server", false);
  if (device.Has("mtu")) options.peer.mtu = static_cast<uint16_t>(device.Number("mtu", 0));
  // Somebody may start it by hand.
  if (options.peer.server) options.peer.connect_timeout = std::chrono::seconds(60);
  const std::string on_loss = device.Text("on-loss", "wait");
  if (on_loss != "wait" && on_loss != "fail") {
    return absl::InvalidArgumentError(
        absl::StrCat("on-loss=", on_loss, ": wait or fail is needed"));
  }
  options.peer.on_loss =
      on_loss == "wait" ? vhost::user::OnLoss::kWait : vhost::user::OnLoss::kFail;
  return options;
}

}  // namespace vmm
