// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which process has the device that a command line names.
#pragma once

#include <optional>
#include <string>

#include "src/vhostctl/verb.h"
#include "vhost/control/protocol.h"

namespace vhost::ctl {

// One process's device of the name that was asked for.
struct Found {
  std::string socket;
  control::ProcessInfo process;
  std::string process_json;
  std::string device_json;  // a DeviceReport
  std::string device;       // its name
};

// Looks for the only argument of `invocation`, [VM/]DEVICE. Without a value, `outcome` says why
// there is none; with one, it may tell of processes that could not be asked.
std::optional<Found> FindDevice(const Invocation& invocation, Outcome* outcome);

}  // namespace vhost::ctl
