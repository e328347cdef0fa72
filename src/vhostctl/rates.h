// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What queues do per second, from two samples of their reports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/vhostctl/gather.h"

namespace vhost::ctl {

// What is the matter with a queue, the worse the larger.
enum class Condition : uint8_t {
  kFine,
  kNoBuffers,   // the guest gives none: nothing can be received
  kNoProgress,  // work is in it and none was done between the samples
  kStalled,     // the same for so long that the watchdog says so
  kBroken,      // its backend serves it no more
};
// "", "no buffers", "no progress", "STALLED", "BROKEN".
const char* Name(Condition condition);

// Rates are per second; nullopt: not to be known of this queue's backend.
struct QueueRates {
  std::string vm;
  int pid = 0;
  std::string device;
  int queue = 0;
  std::string role;
  std::string served_by;
  std::optional<uint16_t> depth;  // chains in flight now
  std::optional<double> chains;   // given back; of less than 65536 between the samples
  std::optional<double> packets;  // of in-process backends, as all that follows but kicks
  std::optional<double> bytes;
  std::optional<double> kicks;
  std::optional<double> calls;
  std::optional<double>
      suppressed;  // of the interrupts due, how many the driver did not want, 0..1
  std::optional<double> drops;
  std::vector<std::string> drop_reasons;
  std::optional<double> cpu;  // of the threads that serve it: CPUs, 1 is a whole one
  Condition condition = Condition::kFine;
  std::string cause;  // of it, for people; empty if it is fine
};

// Of every active queue that is in both samples and was served by the same backend throughout.
std::vector<QueueRates> RatesOf(const Gathered& before, const Gathered& after);

}  // namespace vhost::ctl
