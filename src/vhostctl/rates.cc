// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/rates.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "vhost/control/report_json.h"

namespace vhost::ctl {
namespace {

const DeviceReport* FindDevice(const Gathered& gathered, const ProcessReports& process,
                               const std::string& name) {
  for (const ProcessReports& row : gathered.processes) {
    if (row.socket != process.socket || row.process.pid != process.process.pid) continue;
    for (const DeviceReport& device : row.devices) {
      if (device.name == name) return &device;
    }
  }
  return nullptr;
}

const VringReport* FindVring(const DeviceReport& device, int queue) {
  for (const VringReport& vring : device.vrings) {
    if (vring.queue == queue) return &vring;
  }
  return nullptr;
}

const DataPathReport* FindDataPath(const DeviceReport& device, int queue) {
  if (!device.backend.has_value()) return nullptr;
  for (const BackendVringReport& vring : device.backend->vrings) {
    if (vring.queue == queue && vring.data_path.has_value()) return &*vring.data_path;
  }
  return nullptr;
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

QueueRates RatesOfQueue(const DeviceReport& before, const VringReport& then,
                        const DeviceReport& after, const VringReport& now, double seconds) {
  QueueRates rates = {
      .device = after.name, .queue = now.queue, .role = now.role, .served_by = now.served_by};
  if (now.indices.has_value()) {
    rates.depth = control::InFlight(*now.indices);
    if (then.indices.has_value()) {
      rates.chains = static_cast<uint16_t>(now.indices->used - then.indices->used) / seconds;
    }
  }
  const DataPathReport* path_then = FindDataPath(before, now.queue);
  const DataPathReport* path_now = FindDataPath(after, now.queue);
  if (path_then != nullptr && path_now != nullptr) {
    AddDataPath(*path_then, *path_now, seconds, &rates);
  } else if (then.kick_count.has_value() && now.kick_count.has_value()) {
    rates.kicks = Rate(*then.kick_count, *now.kick_count, seconds);
  }
  rates.cpu = CpuOf(before, after, now.queue, seconds);
  if (after.watchdog.has_value()) {
    const std::vector<int>& stalled = after.watchdog->stalled;
    rates.stalled = std::find(stalled.begin(), stalled.end(), now.queue) != stalled.end();
  }
  return rates;
}

}  // namespace

std::vector<QueueRates> RatesOf(const Gathered& before, const Gathered& after) {
  std::vector<QueueRates> all;
  const double seconds = absl::ToDoubleSeconds(after.when - before.when);
  if (seconds <= 0) return all;
  for (const ProcessReports& process : after.processes) {
    for (const DeviceReport& device : process.devices) {
      const DeviceReport* then = FindDevice(before, process, device.name);
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
