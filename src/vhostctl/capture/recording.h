// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A capture while it runs: packets from its sources into a pcapng file, until it is to end.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "src/vhostctl/capture/source.h"

namespace vhost::ctl {

struct RecordingOptions {
  uint64_t count = std::numeric_limits<uint64_t>::max();  // packets until the end
  pid_t pid = 0;                                          // the end, too, when it ends; 0: none
  std::function<bool(absl::string_view)> write;           // false: nobody takes it any more
};

struct Recorded {
  uint64_t packets = 0;
  uint64_t dropped = 0;
  bool process_ended = false;
  absl::Status status;  // what ended it, if that was no wish
};

// Ends on SIGINT and SIGTERM as well, which do nothing else meanwhile. What was written is a whole
// file however it ends.
Recorded Record(std::vector<std::unique_ptr<CaptureSource>> sources,
                const RecordingOptions& options);

}  // namespace vhost::ctl
