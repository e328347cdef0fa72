// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Captured packets as members of a result, and back (docs/control-protocol.md, `capture`). Bytes
// are in base64.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhost/packet_capture.h"

namespace vhost::control {

// The members, for within an object: "next":5,"dropped":0,"more":false,"packets":[...].
std::string CaptureMembers(const CaptureBatch& batch);

// Of a whole result. INVALID_ARGUMENT: a member is missing, has another type, or a value that
// cannot be.
absl::StatusOr<CaptureBatch> CaptureFromJson(absl::string_view result);

}  // namespace vhost::control
