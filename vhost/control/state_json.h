// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A device's saved state as JSON and back, in the manner of reports (report_json.h): addresses and
// feature words are strings in hexadecimal.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhost/device/device_state.h"

namespace vhost::control {

// An object on one line without a newline.
std::string ToJson(const DeviceState& state);

// INVALID_ARGUMENT: not JSON, a version that is not ours, or a member whose value has the wrong
// type, with its name. What it says is checked by VirtioDevice::RestoreState.
absl::StatusOr<DeviceState> DeviceStateFromJson(absl::string_view json);

}  // namespace vhost::control
