// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/net_features.h"

#include "absl/strings/str_cat.h"
#include "kernel-abi/virtio.h"

namespace vhost {
namespace {

using enum VirtioFeature;

struct OffloadFeature {
  bool NetOffloads::*offload;
  VirtioFeature to_guest;
  VirtioFeature from_guest;
};
constexpr OffloadFeature kOffloads[] = {
    {&NetOffloads::csum, kNetGuestCsum, kNetCsum},
    {&NetOffloads::tso4, kNetGuestTso4, kNetHostTso4},
    {&NetOffloads::tso6, kNetGuestTso6, kNetHostTso6},
    {&NetOffloads::ecn, kNetGuestEcn, kNetHostEcn},
    {&NetOffloads::ufo, kNetGuestUfo, kNetHostUfo},
    {&NetOffloads::uso4, kNetGuestUso4, kNetHostUso},
    {&NetOffloads::uso6, kNetGuestUso6, kNetHostUso},
};

struct Requirement {
  VirtioFeature feature;
  VirtioFeature needs;
  VirtioFeature or_needs;  // the same as `needs` where there is no choice
  // False: the standard does not forbid it, but there is nothing that it could do.
  bool by_the_standard = true;
};
constexpr Requirement kRequirements[] = {
    {kNetGuestTso4, kNetGuestCsum, kNetGuestCsum},
    {kNetGuestTso6, kNetGuestCsum, kNetGuestCsum},
    {kNetGuestEcn, kNetGuestTso4, kNetGuestTso6},
    {kNetGuestUfo, kNetGuestCsum, kNetGuestCsum},
    {kNetGuestUso4, kNetGuestCsum, kNetGuestCsum},
    {kNetGuestUso6, kNetGuestCsum, kNetGuestCsum},
    {kNetHostTso4, kNetCsum, kNetCsum},
    {kNetHostTso6, kNetCsum, kNetCsum},
    {kNetHostEcn, kNetHostTso4, kNetHostTso6},
    {kNetHostUfo, kNetCsum, kNetCsum},
    {kNetHostUso, kNetCsum, kNetCsum},
    {kNetCtrlRx, kNetCtrlVq, kNetCtrlVq},
    {kNetCtrlVlan, kNetCtrlVq, kNetCtrlVq},
    {kNetGuestAnnounce, kNetCtrlVq, kNetCtrlVq},
    {kNetMq, kNetCtrlVq, kNetCtrlVq},
    {kNetCtrlMacAddr, kNetCtrlVq, kNetCtrlVq},
    {kNetCtrlRxExtra, kNetCtrlRx, kNetCtrlRx, false},
    {kNetCtrlGuestOffloads, kNetCtrlVq, kNetCtrlVq, false},
    {kNetCtrlGuestOffloads, kNetGuestCsum, kNetGuestCsum, false},
    {kNetGuestAnnounce, kNetStatus, kNetStatus, false},
};

bool Met(const Requirement& requirement, VirtioFeatures features) {
  return !features.Has(requirement.feature) || features.Has(requirement.needs) ||
         features.Has(requirement.or_needs);
}

}  // namespace

VirtioFeatures ToGuestFeatures(const NetOffloads& to_guest) {
  VirtioFeatures features;
  for (const OffloadFeature& row : kOffloads) {
    if (to_guest.*row.offload) features.Set(row.to_guest);
  }
  return features;
}

VirtioFeatures FromGuestFeatures(const NetOffloads& from_guest) {
  VirtioFeatures features;
  for (const OffloadFeature& row : kOffloads) {
    if (from_guest.*row.offload) features.Set(row.from_guest);
  }
  // One bit for two offloads.
  features.Set(kNetHostUso, from_guest.uso4 && from_guest.uso6);
  return features;
}

NetOffloads ToGuestOffloads(VirtioFeatures features) {
  NetOffloads offloads;
  for (const OffloadFeature& row : kOffloads) offloads.*row.offload = features.Has(row.to_guest);
  return offloads;
}

VirtioFeatures AllToGuestFeatures() {
  VirtioFeatures all;
  for (const OffloadFeature& row : kOffloads) all.Set(row.to_guest);
  return all;
}

absl::Status CheckNetFeatures(VirtioFeatures acked) {
  for (const Requirement& requirement : kRequirements) {
    if (!requirement.by_the_standard || Met(requirement, acked)) continue;
    const bool choice = requirement.needs != requirement.or_needs;
    return absl::InvalidArgumentError(absl::StrCat(
        FeatureName(DeviceId::kNet, requirement.feature), " was acked without ",
        FeatureName(DeviceId::kNet, requirement.needs),
        choice ? absl::StrCat(" or ", FeatureName(DeviceId::kNet, requirement.or_needs)) : ""));
  }
  return absl::OkStatus();
}

VirtioFeatures WithoutOrphans(VirtioFeatures features) {
  // Until nothing changes: dropping one can orphan another.
  for (bool again = true; again;) {
    again = false;
    for (const Requirement& requirement : kRequirements) {
      if (Met(requirement, features)) continue;
      features.Set(requirement.feature, false);
      again = true;
    }
  }
  return features;
}

int NetHeaderBytes(VirtioFeatures acked) {
  return acked.Has(kVersion1) || acked.Has(kNetMrgRxbuf) ? kernel_abi::kNetHdrSize
                                                         : kernel_abi::kNetHdrSizeLegacy;
}

}  // namespace vhost
