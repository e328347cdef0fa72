// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// From the words of a command line to the library's options.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "src/vmm/device_catalog.h"
#include "vhost/control_plane.h"

namespace vmm {

// `name` is the device's, from its "id" property or made up. Open fds that the option names become
// the result's. INVALID_ARGUMENT names the property that is wrong.
absl::StatusOr<vhost::NetOptions> MakeNetOptions(const DeviceOption& device, std::string name);
absl::StatusOr<vhost::VsockOptions> MakeVsockOptions(const DeviceOption& device, std::string name);

// Features whose switch is off.
vhost::VirtioFeatures Withheld(const DeviceOption& device);

}  // namespace vmm
