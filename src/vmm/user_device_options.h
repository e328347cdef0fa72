// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// From the words of a command line to the library's options, for devices that another process
// serves.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "src/vmm/device_catalog.h"
#include "vhost/control_plane.h"

namespace vmm {

// `name` is the device's, from its "id" property or made up. INVALID_ARGUMENT names the property
// that is wrong or missing.
absl::StatusOr<vhost::VhostUserOptions> MakeVhostUserOptions(const DeviceOption& device,
                                                             std::string name);

}  // namespace vmm
