// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/served_net.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "vhost/device/net_features.h"

namespace vhost::user {
namespace {

using enum VirtioFeature;

// What a front end's control queue does by itself, and what it says to its driver. A front end
// offers of these what the back end does not refuse.
constexpr VirtioFeatures kOfTheFrontEnd = {kNetMtu,         kNetMac,           kNetStatus,
                                           kNetCtrlVq,      kNetCtrlRx,        kNetCtrlVlan,
                                           kNetCtrlRxExtra, kNetGuestAnnounce, kNetCtrlMacAddr};
constexpr VirtioFeatures kRings = {kVersion1, kRingReset,  kIndirectDesc, kEventIdx,
                                   kInOrder,  kRingPacked, kNetMrgRxbuf};
constexpr uint64_t kLeastMtu = 68;  // virtio 1.3, 5.1.4.1
constexpr uint64_t kMostMtu = 65535;

// An RFC 903 request, as switches learn by: who asks for its own address, to everybody.
constexpr size_t kRarpBytes = 60;
std::array<std::byte, kRarpBytes> RarpFrame(const MacAddress& mac) {
  constexpr uint8_t kFixed[] = {
      0x80, 0x35,           // RARP
      0,    1,    0x08, 0,  // of Ethernet, for IPv4
      6,    4,    0,    3,  // lengths; request reverse
  };
  std::array<std::byte, kRarpBytes> frame{};
  const auto put = [&frame](size_t at, const auto& bytes) {
    std::transform(std::begin(bytes), std::end(bytes), frame.begin() + static_cast<ptrdiff_t>(at),
                   [](uint8_t byte) { return static_cast<std::byte>(byte); });
  };
  std::fill_n(frame.begin(), 6, std::byte{0xff});
  put(6, mac);
  put(12, kFixed);
  put(22, mac);  // sender; its IPv4 address is 0
  put(32, mac);  // target
  return frame;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServedNet>> ServedNet::Create(kernel_abi::Kernel& kernel,
                                                             ServedNetOptions options) {
  absl::StatusOr<std::unique_ptr<Tap>> made = Tap::Create(kernel, std::move(options.tap));
  if (!made.ok()) return made.status();
  Tap* const tap = made->get();
  auto port = std::make_unique<TapPort>(*std::move(made));
  options.backend.tap_fds = tap->fds();
  options.backend.tap_takes_uso = tap->takes_uso();
  options.backend.tap_offloads = tap->supported_offloads();
  options.backend.set_extra_offloads = [tap](unsigned offloads) {
    return tap->SetExtraOffloads(offloads);
  };
  absl::StatusOr<std::unique_ptr<inprocess::InProcessNetBackend>> backend =
      inprocess::InProcessNetBackend::Create(kernel, std::move(options.backend));
  if (!backend.ok()) return backend.status();
  VirtioFeatures wanted = kRings | kOfTheFrontEnd | ToGuestFeatures(port->to_guest()) |
                          FromGuestFeatures(port->from_guest());
  wanted.Set(kNetMq, port->queue_pairs() > 1);
  const VirtioFeatures features = WithoutOrphans((*backend)->Supported(wanted - options.withheld));
  return absl::WrapUnique(new ServedNet(std::move(port), *std::move(backend), features));
}

absl::Status ServedNet::CheckFeatures(VirtioFeatures acked) const {
  // What the control queue needs is between the driver and the front end, which may ack to us bits
  // that make no sense without others that it kept to itself.
  return CheckNetFeatures(acked - kOfTheFrontEnd - VirtioFeatures{kNetMq});
}

absl::Status ServedNet::Prepare(VirtioFeatures acked) {
  header_bytes_ = NetHeaderBytes(acked);
  if (absl::Status status = port_->SetHeaderBytes(header_bytes_); !status.ok()) return status;
  if (absl::Status status = port_->SetOffloads(ToGuestOffloads(acked)); !status.ok()) return status;
  // What is attached and not read is lost. The first pair stays: a TAP has one at least.
  for (int pair = 1; pair < pairs(); ++pair) {
    if (absl::Status status = port_->SetQueueAttached(pair, false); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ServedNet::QueueStarts(int queue) {
  // A backend wants to ask the TAP's queue also where it only sends.
  return port_->SetQueueAttached(queue / 2, true);
}

void ServedNet::QueueStopped(int queue) {
  if (queue % 2 == 0 && queue > 0) port_->SetQueueAttached(queue / 2, false).IgnoreError();
}

absl::Status ServedNet::SetMtu(uint64_t mtu) {
  if (mtu >= kLeastMtu && mtu <= kMostMtu) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("an MTU of ", mtu, " bytes: ", kLeastMtu, " to ", kMostMtu, " can be"));
}

absl::Status ServedNet::SendRarp(const MacAddress& mac) {
  if (header_bytes_ == 0) return absl::FailedPreconditionError("no ring has run yet");
  if (!IsUsable(mac)) {
    return absl::InvalidArgumentError(absl::StrCat(Describe(mac), " is no interface's address"));
  }
  const std::array<std::byte, kRarpBytes> frame = RarpFrame(mac);
  std::array<std::byte, kernel_abi::kNetHdrSize + kRarpBytes> bytes{};
  const auto header = static_cast<size_t>(header_bytes_);
  std::ranges::copy(frame, bytes.begin() + static_cast<ptrdiff_t>(header));
  const ssize_t written = ::write(tap().fd(0), bytes.data(), header + frame.size());
  if (written >= 0) return absl::OkStatus();
  return kernel_abi::MakeSystemError(
      {.error = errno, .subject = tap().name(), .call = "write", .arguments = "RARP"});
}

}  // namespace vhost::user
