// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/top/board.h"

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "src/vhostctl/rates_text.h"
#include "vhost/device/device.h"

namespace vhost::ctl::top {
namespace {

// Beyond the conditions of queues, which are 0 to 4.
constexpr int kPausedBadness = 1;
constexpr int kNeedsResetBadness = 5;

std::string KeyOf(const QueueRates& rates) {
  return absl::StrCat(rates.vm, "\n", rates.pid, "\n", rates.device, "\n", rates.queue);
}

std::string BackendOf(const DeviceReport& device) {
  if (!device.backend.has_value()) return "none";
  const BackendReport& backend = *device.backend;
  return absl::StrCat(Name(backend.kind), backend.node.empty() ? "" : " ", backend.node,
                      backend.io_engine.empty() ? "" : absl::StrCat(", ", backend.io_engine),
                      ", policy ", device.policy);
}

// Why the device is not served by the backend that comes first.
std::string ReasonOf(const DeviceReport& device) {
  if (!device.refusals.empty()) {
    return absl::StrJoin(device.refusals, "; ", [](std::string* out, const RefusalReport& refusal) {
      absl::StrAppend(out, "not ", Name(refusal.kind), ": ", refusal.reason);
    });
  }
  if (device.handovers.empty() || !device.backend.has_value()) return "";
  const HandoverReport& last = device.handovers.back();
  if (!last.problem.empty() || last.to != device.backend->kind) return "";
  return absl::StrCat("moved from ", Name(last.from), ": ", last.reason);
}

void Describe(const DeviceReport& device, Row* row) {
  row->backend = BackendOf(device);
  row->reason = ReasonOf(device);
  if ((device.status & device_status::kNeedsReset) != 0) {
    row->state = "NEEDS RESET";
    row->cause = device.problem;
    row->badness = kNeedsResetBadness;
  } else if (device.paused) {
    row->state = "paused";
    row->cause = "by the host";
    row->badness = kPausedBadness;
  }
}

std::optional<double> CpusOf(const ForeignProcess& before, const ForeignProcess& now,
                             double seconds) {
  std::optional<double> cpus;
  for (const WorkerReport& worker : now.workers) {
    for (const WorkerReport& then : before.workers) {
      if (then.tid != worker.tid || !then.cpu_time_ns.has_value() ||
          worker.cpu_time_ns < then.cpu_time_ns) {
        continue;
      }
      const auto ns = static_cast<double>(*worker.cpu_time_ns - *then.cpu_time_ns);
      cpus = cpus.value_or(0) + ns / 1e9 / seconds;
    }
  }
  return cpus;
}

}  // namespace

std::optional<double> Work(const QueueRates& rates) {
  return rates.packets.has_value() ? rates.packets : rates.chains;
}

void BoardMaker::AddQueues(const Sample& sample, std::vector<Row>* rows) const {
  for (QueueRates& rates : RatesOf(before_->gathered, sample.gathered)) {
    if (!IsMeant(wanted_, rates)) continue;
    Row row;
    for (const ProcessReports& process : sample.gathered.processes) {
      if (process.process.vm != rates.vm || process.process.pid != rates.pid) continue;
      for (const DeviceReport& device : process.devices) {
        if (device.name == rates.device) Describe(device, &row);
      }
    }
    if (static_cast<int>(rates.condition) > row.badness) {
      row.state = Name(rates.condition);
      row.cause = rates.cause;
      row.badness = static_cast<int>(rates.condition);
    }
    row.rates = std::move(rates);
    rows->push_back(std::move(row));
  }
}

void BoardMaker::AddIdleDevices(const Sample& sample, std::vector<Row>* rows) const {
  for (const ProcessReports& process : sample.gathered.processes) {
    for (const DeviceReport& device : process.devices) {
      const bool is_there = std::any_of(rows->begin(), rows->end(), [&](const Row& row) {
        return row.rates.vm == process.process.vm && row.rates.pid == process.process.pid &&
               row.rates.device == device.name;
      });
      Row row;
      row.rates = {.vm = process.process.vm,
                   .pid = process.process.pid,
                   .device = device.name,
                   .queue = -1,
                   .role = "-",
                   .served_by = "none"};
      if (is_there || !IsMeant(wanted_, row.rates)) continue;
      row.state = "idle";
      Describe(device, &row);
      rows->push_back(std::move(row));
    }
  }
}

void BoardMaker::AddForeign(const Sample& sample, std::vector<Row>* rows) const {
  const double seconds =
      std::chrono::duration<double>(sample.foreign_when - before_->foreign_when).count();
  for (const ForeignProcess& process : sample.foreign) {
    const ForeignProcess* before = nullptr;
    for (const ForeignProcess& then : before_->foreign) {
      if (then.pid == process.pid) before = &then;
    }
    for (const ForeignDevice& device : process.devices) {
      Row row;
      row.rates = {.vm = process.vm,
                   .pid = process.pid,
                   .device = NameOf(device),
                   .queue = -1,
                   .role = "?",
                   .served_by = "kernel"};
      if (!IsMeant(wanted_, row.rates)) continue;
      // Which worker is whose is known where there is one of either.
      if (before != nullptr && seconds > 0 &&
          (process.workers.size() == 1 || process.devices.size() == 1)) {
        row.rates.cpu = CpusOf(*before, process, seconds);
      }
      row.state = "foreign";
      row.cause = "it has no control socket: CPU time is all that is to be seen of it from outside";
      row.backend = absl::StrCat("kernel ", device.node, ", ", process.command);
      rows->push_back(std::move(row));
    }
  }
}

void BoardMaker::Remember(std::vector<Row>* rows) {
  std::map<std::string, std::deque<double>> kept;
  for (Row& row : *rows) {
    row.key = KeyOf(row.rates);
    std::deque<double>& past = kept[row.key];
    if (past.empty()) past = std::move(past_[row.key]);
    const std::optional<double> work = Work(row.rates);
    if (work.has_value()) past.push_back(*work);
    if (past.size() > kMostPast) past.pop_front();
    row.past = past;
  }
  past_ = std::move(kept);  // what is gone is forgotten
}

Board BoardMaker::Next(const Sample& sample) {
  Board board = {.when = sample.when};
  for (const absl::string_view line :
       absl::StrSplit(sample.gathered.errors, '\n', absl::SkipEmpty())) {
    board.silent.emplace_back(line);
  }
  board.vms = static_cast<int>(sample.gathered.processes.size() + sample.foreign.size());
  for (const ProcessReports& process : sample.gathered.processes) {
    board.devices += static_cast<int>(process.devices.size());
  }
  for (const ForeignProcess& process : sample.foreign) {
    board.devices += static_cast<int>(process.devices.size());
  }
  if (before_.has_value()) {
    AddQueues(sample, &board.rows);
    AddIdleDevices(sample, &board.rows);
    AddForeign(sample, &board.rows);
  }
  std::stable_sort(board.rows.begin(), board.rows.end(), [](const Row& a, const Row& b) {
    return std::tie(a.rates.vm, a.rates.pid, a.rates.device, a.rates.queue) <
           std::tie(b.rates.vm, b.rates.pid, b.rates.device, b.rates.queue);
  });
  Remember(&board.rows);
  before_ = sample;
  return board;
}

}  // namespace vhost::ctl::top
