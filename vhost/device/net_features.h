// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include "absl/status/status.h"
#include "vhost/device/net_port.h"
#include "vhost/features.h"

namespace vhost {

// Features by which a driver takes unfinished packets (GUEST_*) and hands them over.
VirtioFeatures ToGuestFeatures(const NetOffloads& to_guest);
VirtioFeatures FromGuestFeatures(const NetOffloads& from_guest);
// The other way round: of a driver's features, what it takes unfinished.
NetOffloads ToGuestOffloads(VirtioFeatures features);
// All features that ToGuestFeatures can give: what VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET may name.
VirtioFeatures AllToGuestFeatures();

// INVALID_ARGUMENT names a feature and the one that it requires (virtio 1.3, 5.1.3.1).
absl::Status CheckNetFeatures(VirtioFeatures acked);
// Without those that lack what they require, or could not be used without it.
VirtioFeatures WithoutOrphans(VirtioFeatures features);

// The size of virtio's packet header (virtio 1.3, 5.1.6; 5.1.6.1 for drivers before virtio 1).
int NetHeaderBytes(VirtioFeatures acked);

}  // namespace vhost
