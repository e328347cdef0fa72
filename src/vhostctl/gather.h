// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The reports of all devices of all processes that can be asked.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "src/vhostctl/verb.h"
#include "vhost/control/protocol.h"
#include "vhost/report.h"

namespace vhost::ctl {

struct ProcessReports {
  std::string socket;
  std::chrono::steady_clock::time_point when;  // they came
  control::ProcessInfo process;
  std::vector<DeviceReport> devices;
};

struct Gathered {
  std::vector<ProcessReports> processes;
  std::vector<std::string> silent;  // sockets whose processes did not answer
  ExitCode code = kOk;              // of the last that did not
  std::string errors;               // a line each
};
Gathered Gather(const Invocation& invocation);

}  // namespace vhost::ctl
