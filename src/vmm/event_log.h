// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <string>

#include "vhost/device_event.h"

namespace vmm {

// Whether an operator has to hear of it who asked for nothing: the device is served by another
// backend than was wanted, or is in trouble, or is out of it again.
bool IsWarning(const vhost::DeviceEvent& event);

// "net0: handover: kernel to in-process, failover: queue 1 (tx0) stands still", without a newline.
std::string EventLine(const vhost::DeviceEvent& event);

}  // namespace vmm
