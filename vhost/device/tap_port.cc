// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/tap_port.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernel-abi/tun.h"

namespace vhost {
namespace {

// FLT_EXACT_COUNT of drivers/net/tun.c. What comes behind is hashed, and must be of a group: one
// that is not switches the filter off without an error.
constexpr size_t kExactAddresses = 8;

constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

// Why a TAP cannot filter by this; empty if it can.
std::string WhyNot(const ReceiveFilter& filter) {
  if (filter.promiscuous) return "the driver wants every frame";
  if (filter.all_unicast) return "the driver wants every unicast frame";
  if (filter.unicast_overflow || filter.unicast.size() + 1 > kExactAddresses) {
    return absl::StrCat("a TAP takes at most ", kExactAddresses, " unicast addresses");
  }
  if (filter.no_unicast) return "a TAP does not drop all unicast frames";
  return "";
}

kernel_abi::MacFilter Translate(const ReceiveFilter& filter) {
  std::vector<MacAddress> addresses = {filter.mac};
  addresses.insert(addresses.end(), filter.unicast.begin(), filter.unicast.end());
  if (!filter.no_broadcast) addresses.push_back(kBroadcast);
  if (!filter.no_multicast) {
    // Nothing that a driver puts into the wrong table is to switch the filter off.
    std::copy_if(filter.multicast.begin(), filter.multicast.end(), std::back_inserter(addresses),
                 IsMulticast);
  }
  const bool all_multicast =
      !filter.no_multicast && (filter.all_multicast || filter.multicast_overflow);
  return kernel_abi::MacFilter(std::move(addresses), all_multicast);
}

std::optional<Links> OpenLinks() {
  absl::StatusOr<Links> links = Links::Open();
  if (!links.ok()) return std::nullopt;
  return *std::move(links);
}

}  // namespace

TapPort::TapPort(std::unique_ptr<Tap> tap) : tap_(std::move(tap)), links_(OpenLinks()) {
  absl::StatusOr<std::unique_ptr<LinkWatch>> watch = LinkWatch::Create(tap_->name());
  if (watch.ok()) watch_ = *std::move(watch);
}

NetPort::Link TapPort::ReadLink() {
  if (watch_ == nullptr) return {};
  watch_->Read();
  const std::optional<LinkState>& state = watch_->state();
  return {.exists = state.has_value(), .up = state.has_value() && state->up};
}

TapPort::~TapPort() {
  // The TAP may stay when this goes, with a filter for a guest that is no more.
  LetAllThrough().IgnoreError();
}

NetOffloads TapPort::to_guest() const {
  const auto has = [this](unsigned offload) { return (tap_->supported_offloads() & offload) != 0; };
  return {.csum = has(kernel_abi::kTunFCsum),
          .tso4 = has(kernel_abi::kTunFTso4),
          .tso6 = has(kernel_abi::kTunFTso6),
          .ecn = has(kernel_abi::kTunFTsoEcn),
          .ufo = false,  // Linux takes the bit and never sends such packets.
          .uso4 = has(kernel_abi::kTunFUso4),
          .uso6 = has(kernel_abi::kTunFUso6)};
}

NetOffloads TapPort::from_guest() const {
  // A TAP cuts whatever arrives in a header that it understands; no switch turns that off.
  const bool uso = tap_->takes_uso();
  return {
      .csum = true, .tso4 = true, .tso6 = true, .ecn = true, .ufo = true, .uso4 = uso, .uso6 = uso};
}

absl::Status TapPort::SetOffloads(const NetOffloads& offloads) {
  unsigned bits = 0;
  if (offloads.csum) bits |= kernel_abi::kTunFCsum;
  if (offloads.tso4) bits |= kernel_abi::kTunFTso4;
  if (offloads.tso6) bits |= kernel_abi::kTunFTso6;
  if (offloads.ecn) bits |= kernel_abi::kTunFTsoEcn;
  // The kernel takes both or none. A driver that wants one would get what it cannot read with the
  // other, so it gets neither: packets that it could have taken whole arrive cut, which is legal.
  if (offloads.uso4 && offloads.uso6) bits |= kernel_abi::kTunFUso4 | kernel_abi::kTunFUso6;
  return tap_->SetOffloads(bits);
}

absl::Status TapPort::LetAllThrough() {
  if (!is_filtering_) return absl::OkStatus();
  absl::Status status = tap_->SetFilter(kernel_abi::MacFilter({}, false));
  if (status.ok()) is_filtering_ = false;
  return status;
}

std::string TapPort::SetReceiveFilter(const ReceiveFilter& filter) {
  const std::string why_not = WhyNot(filter);
  if (why_not.empty()) {
    is_filtering_ = true;  // Also after an error: the kernel may have kept part of it.
    const absl::Status status = tap_->SetFilter(Translate(filter));
    if (status.ok()) return "tap";
    LetAllThrough().IgnoreError();
    return absl::StrCat("nobody: ", std::string(status.message()));
  }
  if (absl::Status status = LetAllThrough(); !status.ok()) {
    return absl::StrCat("tap, with an older filter: ", std::string(status.message()));
  }
  return absl::StrCat("nobody: ", why_not);
}

TapReport TapPort::Report() const { return tap_->Report(links_.has_value() ? &*links_ : nullptr); }

}  // namespace vhost
