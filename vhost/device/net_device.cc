// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/net_device.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "vhost/device/net_features.h"

namespace vhost {
namespace {

using enum VirtioFeature;

constexpr uint16_t kMinMtu = 68;  // virtio 1.3, 5.1.4.1
constexpr uint16_t kControlQueueSize = 64;
// A change of queue pairs takes the kernel tens of milliseconds (TUNSETQUEUE waits for a grace
// period), on a loop that other devices share: they have their turn after as many commands.
constexpr int kCommandsPerTurn = 8;
// Up to max_virtqueue_pairs and mtu, behind which there is nothing that is offered.
constexpr size_t kConfigBytes = offsetof(kernel_abi::VirtioNetConfig, speed);

absl::Status CheckOptions(const NetPort& port, const NetDeviceOptions& options) {
  if (!IsUsable(options.mac)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Describe(options.mac), " is no MAC address that an interface can have"));
  }
  if (options.mtu.has_value() && *options.mtu < kMinMtu) {
    return absl::InvalidArgumentError(
        absl::StrCat("an MTU of ", *options.mtu, " bytes: the smallest is ", kMinMtu));
  }
  if (options.queue_pairs < 1 || options.queue_pairs > kernel_abi::kNetCtrlMqVqPairsMax) {
    return absl::InvalidArgumentError(absl::StrCat(options.queue_pairs, " queue pairs: 1 to ",
                                                   kernel_abi::kNetCtrlMqVqPairsMax, " can be"));
  }
  if (options.queue_pairs > port.queue_pairs()) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.queue_pairs, " queue pairs, but the port has ", port.queue_pairs(), " queues"));
  }
  if (options.queue_pairs > 1 && options.withheld.Has(kNetCtrlVq)) {
    return absl::InvalidArgumentError("more than one queue pair needs VIRTIO_NET_F_CTRL_VQ");
  }
  if (!std::has_single_bit(options.queue_size) || options.queue_size > kMaxQueueSize) {
    return absl::InvalidArgumentError(absl::StrCat("a queue size of ", options.queue_size,
                                                   ": a power of two up to ", kMaxQueueSize,
                                                   " can be"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<NetDevice>> NetDevice::Create(std::unique_ptr<NetPort> port,
                                                             NetDeviceOptions options) {
  if (absl::Status status = CheckOptions(*port, options); !status.ok()) return status;
  return std::unique_ptr<NetDevice>(new NetDevice(std::move(port), options));
}

NetDevice::NetDevice(std::unique_ptr<NetPort> port, NetDeviceOptions options)
    : port_(std::move(port)),
      options_(options),
      features_(WantedFeatures()),
      link_up_(options_.link_up),
      link_seen_(port_->ReadLink()) {
  filter_.mac = options_.mac;
}

VirtioFeatures NetDevice::WantedFeatures() const {
  VirtioFeatures features = {kVersion1,
                             kRingReset,
                             kIndirectDesc,
                             kEventIdx,
                             kAnyLayout,
                             kRingPacked,
                             kInOrder,
                             kNetMac,
                             kNetStatus,
                             kNetMrgRxbuf,
                             kNetCtrlVq,
                             kNetCtrlRx,
                             kNetCtrlRxExtra,
                             kNetCtrlVlan,
                             kNetCtrlMacAddr,
                             kNetGuestAnnounce,
                             kNetCtrlGuestOffloads};
  features.Set(kNetMtu, options_.mtu.has_value());
  features.Set(kNetMq, options_.queue_pairs > 1);
  features = features | ToGuestFeatures(port_->to_guest()) | FromGuestFeatures(port_->from_guest());
  return WithoutOrphans(features - options_.withheld);
}

// ---- Queues ------------------------------------------------------------------------------------

int NetDevice::queue_count() const {
  return 2 * options_.queue_pairs + (features_.Has(kNetCtrlVq) ? 1 : 0);
}

uint16_t NetDevice::queue_max_size(int queue) const {
  return queue == 2 * options_.queue_pairs ? kControlQueueSize : options_.queue_size;
}

QueueRole NetDevice::role(int queue, VirtioFeatures acked) const {
  const int pairs = acked.Has(kNetMq) ? options_.queue_pairs : 1;
  if (queue < 2 * pairs) {
    const bool transmits = queue % 2 == 1;
    return {.name = absl::StrCat(transmits ? "tx" : "rx", queue / 2), .prompt = transmits};
  }
  if (queue == 2 * pairs && acked.Has(kNetCtrlVq)) return {.name = "control", .local = true};
  return {.name = "unused"};
}

absl::Status NetDevice::CheckFeatures(VirtioFeatures acked) const {
  return CheckNetFeatures(acked);
}

absl::Status NetDevice::AttachPairs(int from, int to, bool attached) {
  for (int pair = from; pair < to; ++pair) {
    if (absl::Status status = port_->SetQueueAttached(pair, attached); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status NetDevice::Prepare(VirtioFeatures acked) {
  if (absl::Status status = port_->SetHeaderBytes(NetHeaderBytes(acked)); !status.ok()) {
    return status;
  }
  if (absl::Status status = port_->SetOffloads(ToGuestOffloads(acked)); !status.ok()) return status;
  // One pair until the driver asks for more (5.1.6.5.5): what is attached and not read is lost.
  active_pairs_ = 1;
  if (absl::Status status = AttachPairs(0, 1, true); !status.ok()) return status;
  if (absl::Status status = AttachPairs(1, options_.queue_pairs, false); !status.ok()) {
    return status;
  }
  acked_ = acked;
  guest_offloads_ = ToGuestFeatures(ToGuestOffloads(acked));
  return absl::OkStatus();
}

absl::Status NetDevice::SetQueuePairs(int pairs) {
  const int before = active_pairs_;
  // A pair is attached before its rings run and detached after they stopped, so that no packet is
  // steered to a queue that nobody reads for longer than the change takes.
  if (absl::Status status = AttachPairs(before, pairs, true); !status.ok()) {
    AttachPairs(before, pairs, false).IgnoreError();
    return status;
  }
  active_pairs_ = pairs;
  absl::Status status = host()->ApplyActiveQueues();
  if (!status.ok()) {
    active_pairs_ = before;
    AttachPairs(before, pairs, false).IgnoreError();
    return status;
  }
  if (status = AttachPairs(pairs, before, false); !status.ok()) {
    // The rings must run where packets still arrive.
    active_pairs_ = before;
    AttachPairs(pairs, before, true).IgnoreError();
    if (absl::Status undo = host()->ApplyActiveQueues(); !undo.ok()) {
      status =
          kernel_abi::AddAdvice(status, absl::StrCat("and back: ", std::string(undo.message())));
    }
  }
  return status;
}

absl::StatusOr<bool> NetDevice::Serve(int, inprocess::Virtqueue& ring) {
  ring.DisableKicks();
  for (int left = kCommandsPerTurn; left > 0; --left) {
    inprocess::Chain chain;
    if (!ring.Take(chain)) {
      if (!ring.broken().ok()) return ring.broken();
      // If one came meanwhile, it is for another turn: a driver that moves its index to and fro
      // must not keep us here.
      return ring.EnableKicks();
    }
    if (absl::Status status = Answer(std::move(chain)); !status.ok()) return status;
    ring.SignalUsed();
  }
  return true;
}

absl::Status NetDevice::Answer(inprocess::Chain chain) {
  // 5.1.6.5: what the device reads, then a byte for its answer.
  if (chain.writable_bytes() < 1) {
    return absl::InvalidArgumentError("a command without room for its answer");
  }
  uint8_t answer = kernel_abi::kNetCtrlErr;
  if (chain.readable_bytes() <= kMaxNetCommandBytes) {
    std::vector<std::byte> command(chain.readable_bytes());
    if (absl::Status status = chain.Read(0, command); !status.ok()) return status;
    answer = HandleNetCommand(command, acked_, filter_, *this);
  }
  if (absl::Status status = chain.Write(0, std::as_bytes(std::span(&answer, 1))); !status.ok()) {
    return status;
  }
  chain.Return(sizeof(answer));
  return absl::OkStatus();
}

absl::Status NetDevice::SetGuestOffloads(VirtioFeatures offloads) {
  absl::Status status = port_->SetOffloads(ToGuestOffloads(offloads));
  if (status.ok()) guest_offloads_ = offloads;
  return status;
}

void NetDevice::ReceiveFilterChanged() {
  // A driver that cannot tell us its address must not have it filtered away.
  if (!acked_.Has(kNetCtrlMacAddr)) {
    filter_applied_by_ = "nobody: the driver did not negotiate VIRTIO_NET_F_CTRL_MAC_ADDR";
    return;
  }
  filter_applied_by_ = port_->SetReceiveFilter(filter_);
}

void NetDevice::Save(DeviceState& state) const {
  state.net = NetState{.mac = vhost::Describe(filter_.mac),
                       .active_queue_pairs = active_pairs_,
                       .announce = announce_,
                       .guest_offloads = guest_offloads_,
                       .receive_filter = vhost::Describe(filter_)};
}

absl::Status NetDevice::Restore(const DeviceState& state) {
  if (!state.net.has_value()) return absl::InvalidArgumentError("a state without its net part");
  const NetState& net = *state.net;
  absl::StatusOr<ReceiveFilter> filter = ReceiveFilterFrom(net.receive_filter);
  if (!filter.ok()) return filter.status();
  const absl::StatusOr<MacAddress> mac = ParseMacAddress(net.mac);
  if (!mac.ok()) return mac.status();
  filter->mac = *mac;
  const int pairs = acked_.Has(kNetMq) ? options_.queue_pairs : 1;
  if (net.active_queue_pairs < 1 || net.active_queue_pairs > pairs) {
    return absl::InvalidArgumentError(
        absl::StrCat(net.active_queue_pairs, " active queue pairs of ", pairs));
  }
  if (!ToGuestFeatures(ToGuestOffloads(acked_)).Contains(net.guest_offloads)) {
    return absl::InvalidArgumentError("offloads that the driver did not ack");
  }
  absl::Status status = AttachPairs(1, net.active_queue_pairs, true);
  if (status.ok()) status = SetGuestOffloads(net.guest_offloads);
  if (!status.ok()) return status;
  active_pairs_ = net.active_queue_pairs;
  announce_ = net.announce && acked_.Has(kNetGuestAnnounce);
  const bool is_set = *filter != filter_;
  filter_ = *std::move(filter);
  if (is_set) ReceiveFilterChanged();
  return absl::OkStatus();
}

void NetDevice::Reset() {
  acked_ = {};
  guest_offloads_ = {};
  active_pairs_ = 1;
  announce_ = false;
  filter_ = ReceiveFilter();
  filter_.mac = options_.mac;
  if (!filter_applied_by_.empty()) port_->SetReceiveFilter(filter_);
  filter_applied_by_.clear();
}

// ---- Configuration space -----------------------------------------------------------------------

std::vector<std::byte> NetDevice::config() const {
  kernel_abi::VirtioNetConfig config{};
  std::copy(filter_.mac.begin(), filter_.mac.end(), config.mac);
  config.status = static_cast<uint16_t>((link_is_up() ? kernel_abi::kNetStatusLinkUp : 0) |
                                        (announce_ ? kernel_abi::kNetStatusAnnounce : 0));
  config.max_virtqueue_pairs = static_cast<uint16_t>(options_.queue_pairs);
  config.mtu = options_.mtu.value_or(0);
  const auto bytes = std::as_bytes(std::span(&config, 1)).first(kConfigBytes);
  return {bytes.begin(), bytes.end()};
}

// The MAC address, by a driver that has no command for it (virtio 1.3, 5.1.4.3).
void NetDevice::WriteLegacyConfig(uint32_t offset, std::span<const std::byte> from) {
  bool is_set = false;
  for (size_t i = 0; i < from.size() && offset + i < filter_.mac.size(); ++i) {
    filter_.mac[offset + i] = std::to_integer<uint8_t>(from[i]);
    is_set = true;
  }
  if (is_set && !filter_applied_by_.empty()) ReceiveFilterChanged();
}

void NetDevice::SetLinkUp(bool up) {
  Locked([this, up] {
    if (std::exchange(link_up_, up) != up && host() != nullptr) host()->ConfigChanged();
  });
}

std::optional<DeviceModel::HostChange> NetDevice::ReadHostChange() {
  const NetPort::Link now = port_->ReadLink();
  const NetPort::Link before = std::exchange(link_seen_, now);
  if (now == before) return std::nullopt;
  const bool was_up = link_is_up();
  port_link_ = now;
  if (link_is_up() != was_up && host() != nullptr) host()->ConfigChanged();
  const std::string name = port_->Report().name;
  return HostChange{.is_lost = !now.exists,
                    .text = absl::StrCat(name, !now.exists ? ": is gone"
                                               : now.up    ? ": is up"
                                                           : ": is down")};
}

bool NetDevice::Announce() {
  bool asked = false;
  Locked([&] {
    asked = acked_.Has(kNetGuestAnnounce);
    if (asked && !std::exchange(announce_, true)) host()->ConfigChanged();
  });
  return asked;
}

// The bit is cleared without a change being told: the driver has just told us (5.1.6.5.4.2).
void NetDevice::AnnounceAcked() { announce_ = false; }

void NetDevice::Describe(DeviceReport& report) const {
  report.mac = vhost::Describe(filter_.mac);
  report.mtu = options_.mtu;
  report.active_queue_pairs = active_pairs_;
  report.link_up = link_is_up();
  report.receive_filter = vhost::Describe(filter_);
  report.receive_filter->applied_by = filter_applied_by_;
  report.taps.push_back(port_->Report());
}

}  // namespace vhost
