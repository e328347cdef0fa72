// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the facts of a host mean for who wants to run guests with offloaded devices on it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "src/vhostctl/doctor/host_facts.h"

namespace vhost::ctl {

enum class Level : uint8_t {
  kOk,
  kNote,     // worth knowing; nothing is amiss
  kWarning,  // it works, less well or not for everybody
  kFailure,  // it does not work
};
const char* Name(Level level);

struct Finding {
  std::string check;  // "/dev/vhost-net"
  Level level = Level::kOk;
  std::string found;    // what was seen
  std::string meaning;  // for whom looks; empty where that is plain
  std::vector<std::string>
      mend;  // commands, or what to do; one of them is enough if "or" begins it
};

// What somebody may want of a host.
enum class Purpose : uint8_t { kNet, kVsock, kKvm, kInProcess };
const char* Name(Purpose purpose);

struct Area {
  Purpose purpose = Purpose::kNet;
  std::string title;
  std::vector<Finding> findings;
  // Without a failure it can be done.
  bool possible() const;
};

struct Wanted {
  int queue_pairs = 1;
  std::string tap;  // an interface that is there; empty: any
};

// All areas, each with all that it depends on; then what concerns them all, which may fail any.
struct Diagnosis {
  std::vector<Area> areas;
  std::vector<Finding> host;
};
Diagnosis Diagnose(const HostFacts& facts, const Wanted& wanted);

// The parts, one for each area and for the host.
std::vector<Finding> JudgeVhost(const HostFacts& facts, const VhostFacts& vhost);
Finding JudgeNode(const HostFacts& facts, const NodeFacts& node);
Finding JudgeCid(const CidFacts& cid);
std::vector<Finding> JudgeTaps(const HostFacts& facts, const Wanted& wanted);
std::vector<Finding> JudgeKvm(const HostFacts& facts);
std::vector<Finding> JudgeLimits(const HostFacts& facts, const Wanted& wanted);
Finding JudgeIoUring(const HostFacts& facts);
std::vector<Finding> JudgePlace(const HostFacts& facts);

}  // namespace vhost::ctl
