// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/rates.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "vhost/control/report_json.h"

namespace vhost::ctl {
namespace {

const ProcessReports* FindProcess(const Gathered& gathered, const ProcessReports& process) {
  for (const ProcessReports& row : gathered.processes) {
    if (row.socket == process.socket && row.process.pid == process.process.pid) return &row;
  }
  return nullptr;
}

const DeviceReport* FindDevice(const ProcessReports& process, const std::string& name) {
  for (const DeviceReport& device : process.devices) {
    if (device.name == name) return &device;
  }
  return nullptr;
}

const VringReport* FindVring(const DeviceReport& device, int queue) {
  for (const VringReport& vring : device.vrings) {
    if (vring.queue == queue) return &vring;
  }
  return nullptr;
}

const BackendVringReport* FindBackendVring(const DeviceReport& device, int queue) {
  if (!device.backend.has_value()) return nullptr;
  for (const BackendVringReport& vring : device.backend->vrings) {
    if (vring.queue == queue) return &vring;
  }
  return nullptr;
}

const DataPathReport* FindDataPath(const DeviceReport& device, int queue) {
  const BackendVringReport* vring = FindBackendVring(device, queue);
  return vring != nullptr && vring->data_path.has_value() ? &*vring->data_path : nullptr;
}

uint64_t DropsOf(const DataPathReport& path) {
  uint64_t drops = 0;
  for (const DropReport& drop : path.drops) drops += drop.packets;
  return drops;
}

// A counter that went back was begun anew: its backend was made again.
std::optional<double> Rate(uint64_t before, uint64_t after, double seconds) {
  if (after < before) return std::nullopt;
  return static_cast<double>(after - before) / seconds;
}

void AddDataPath(const DataPathReport& before, const DataPathReport& after, double seconds,
                 QueueRates* rates) {
  rates->packets = Rate(before.packets, after.packets, seconds);
  rates->bytes = Rate(before.bytes, after.bytes, seconds);
  rates->kicks = Rate(before.kicks, after.kicks, seconds);
  rates->calls = Rate(before.calls, after.calls, seconds);
  const auto suppressed = Rate(before.suppressed_calls, after.suppressed_calls, seconds);
  if (suppressed.has_value() && rates->calls.has_value() && *suppressed + *rates->calls > 0) {
    rates->suppressed = *suppressed / (*suppressed + *rates->calls);
  }
  rates->drops = Rate(DropsOf(before), DropsOf(after), seconds);
  for (const DropReport& drop : after.drops) rates->drop_reasons.push_back(drop.reason);
}

std::optional<double> CpuOf(const DeviceReport& before, const DeviceReport& after, int queue,
                            double seconds) {
  if (!before.backend.has_value() || !after.backend.has_value()) return std::nullopt;
  std::optional<double> cpus;
  for (const WorkerReport& worker : after.backend->workers) {
    if (std::find(worker.queues.begin(), worker.queues.end(), queue) == worker.queues.end()) {
      continue;
    }
    for (const WorkerReport& then : before.backend->workers) {
      if (then.tid != worker.tid || !then.cpu_time_ns.has_value() ||
          !worker.cpu_time_ns.has_value()) {
        continue;
      }
      const auto ns = Rate(*then.cpu_time_ns, *worker.cpu_time_ns, seconds);
      if (ns.has_value()) cpus = cpus.value_or(0) + *ns / 1e9;
    }
  }
  return cpus;
}

// What the device said last of a queue that stands still.
std::string StallOf(const DeviceReport& device, int queue) {
  std::string text = "there is work and it was kicked";
  for (const EventReport& event : device.events) {
    if (event.queue == queue && (event.what == "stall" || event.what == "spin")) text = event.text;
  }
  return text;
}

bool IsStalled(const DeviceReport& device, int queue) {
  if (!device.watchdog.has_value()) return false;
  const std::vector<int>& stalled = device.watchdog->stalled;
  return std::find(stalled.begin(), stalled.end(), queue) != stalled.end();
}

void Judge(const VringReport& then, const DeviceReport& device, const VringReport& now,
           QueueRates* rates) {
  const auto say = [rates](Condition condition, std::string cause) {
    rates->condition = condition;
    rates->cause = std::move(cause);
  };
  const BackendVringReport* backend = FindBackendVring(device, now.queue);
  if (backend != nullptr && !backend->problem.empty()) {
    return say(Condition::kBroken, backend->problem);
  }
  if (IsStalled(device, now.queue)) return say(Condition::kStalled, StallOf(device, now.queue));
  if (!then.indices.has_value() || !now.indices.has_value() || rates->chains != 0) return;
  const int waited = std::min(control::InFlight(*then.indices), control::InFlight(*now.indices));
  // A receive queue is full while nothing comes; one with room for nothing is the guest's doing. Of
  // others (a transmit or control queue) it is the other way round.
  if (absl::StartsWith(now.role, "rx")) {
    if (control::InFlight(*then.indices) == 0 && control::InFlight(*now.indices) == 0) {
      say(Condition::kNoBuffers, "the guest's driver has put no buffers into it");
    }
  } else if (waited > 0 && now.role != "event") {
    say(Condition::kNoProgress, absl::StrCat(*rates->depth, " chains wait for the ", now.served_by,
                                             " backend, which has given none back"));
  }
}

QueueRates RatesOfQueue(const DeviceReport& before, const VringReport& then,
                        const DeviceReport& after, const VringReport& now, double seconds) {
  QueueRates rates = {
      .device = after.name, .queue = now.queue, .role = now.role, .served_by = now.served_by};
  if (now.indices.has_value()) {
    rates.depth = control::InFlight(*now.indices);
    if (then.indices.has_value()) {
      rates.chains = static_cast<uint16_t>(now.indices->used - then.indices->used) / seconds;
    }
  } else if (then.positions.has_value() && now.positions.has_value()) {
    rates.chains = Rate(then.positions->returned, now.positions->returned, seconds);
  }
  const DataPathReport* path_then = FindDataPath(before, now.queue);
  const DataPathReport* path_now = FindDataPath(after, now.queue);
  if (path_then != nullptr && path_now != nullptr) {
    AddDataPath(*path_then, *path_now, seconds, &rates);
  } else if (then.kick_count.has_value() && now.kick_count.has_value()) {
    rates.kicks = Rate(*then.kick_count, *now.kick_count, seconds);
  }
  rates.cpu = CpuOf(before, after, now.queue, seconds);
  Judge(then, after, now, &rates);
  return rates;
}

}  // namespace

const char* Name(Condition condition) {
  switch (condition) {
    case Condition::kFine:
      return "";
    case Condition::kNoBuffers:
      return "no buffers";
    case Condition::kNoProgress:
      return "no progress";
    case Condition::kStalled:
      return "STALLED";
    case Condition::kBroken:
      return "BROKEN";
  }
  return "unknown";
}

std::vector<QueueRates> RatesOf(const Gathered& before, const Gathered& after) {
  std::vector<QueueRates> all;
  for (const ProcessReports& process : after.processes) {
    const ProcessReports* process_then = FindProcess(before, process);
    if (process_then == nullptr) continue;
    const double seconds = std::chrono::duration<double>(process.when - process_then->when).count();
    if (seconds <= 0) continue;
    for (const DeviceReport& device : process.devices) {
      const DeviceReport* then = FindDevice(*process_then, device.name);
      if (then == nullptr) continue;
      for (const VringReport& vring : device.vrings) {
        const VringReport* vring_then = FindVring(*then, vring.queue);
        if (!vring.active || vring_then == nullptr || !vring_then->active ||
            vring_then->served_by != vring.served_by) {
          continue;
        }
        all.push_back(RatesOfQueue(*then, *vring_then, device, vring, seconds));
        all.back().vm = process.process.vm;
        all.back().pid = process.process.pid;
      }
    }
  }
  return all;
}

}  // namespace vhost::ctl
