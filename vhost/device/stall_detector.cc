// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/stall_detector.h"

#include <algorithm>
#include <utility>

namespace vhost {
namespace {

// Of the time: a worker that spins gets all that others leave it.
constexpr double kSpinShare = 0.5;
// Where another queue of the same worker gets on, that explains some of its time.
constexpr double kSpinShareWhileOthersMove = 0.8;

}  // namespace

StallDetector::StallDetector(const WatchdogOptions& options)
    : options_(options),
      stall_looks_(std::max<uint32_t>(
          2, (options.stall_ms + options.period_ms - 1) / std::max(1u, options.period_ms))) {
  counts_.period_ms = options.period_ms;
  counts_.stall_ms = options.stall_ms;
}

void StallDetector::Forget() {
  last_look_.reset();
  queues_.clear();
  cpu_times_.clear();
}

StallDetector::Verdict StallDetector::Look(
    Clock::time_point now, std::span<const QueueProgress> queues,
    const std::function<std::vector<WorkerReport>()>& workers) {
  ++counts_.checks;
  const std::optional<Clock::time_point> last = std::exchange(last_look_, now);
  if (last.has_value() && now - *last > 2 * std::chrono::milliseconds(options_.period_ms)) {
    for (auto& [number, queue] : queues_) {
      if (!queue.is_stalled) queue.still = 0;
    }
    cpu_times_.clear();
  }
  Verdict verdict;
  LookAtQueues(queues, verdict);
  const bool suspicion = std::any_of(queues_.begin(), queues_.end(),
                                     [](const auto& entry) { return entry.second.still > 0; });
  if (!suspicion) {
    cpu_times_.clear();
    return verdict;
  }
  verdict.spinning =
      FindSpinning(now, last.has_value() ? now - *last : Clock::duration(), workers());
  counts_.kicks += verdict.kick.size();
  counts_.stalls += verdict.stalled.size();
  if (verdict.spinning.has_value()) ++counts_.spins;
  return verdict;
}

void StallDetector::LookAtQueues(std::span<const QueueProgress> queues, Verdict& verdict) {
  std::map<int, Queue> before = std::exchange(queues_, {});
  for (const QueueProgress& now : queues) {
    const auto found = before.find(now.queue);
    Queue queue;
    if (found != before.end()) {
      queue = found->second;
      queue.moved = now.used != queue.used;
    }
    const bool had_work = std::exchange(queue.has_work, now.prompt && now.avail != now.used);
    queue.used = now.used;
    if (queue.moved || !queue.has_work) {
      if (std::exchange(queue.is_stalled, false)) verdict.recovered.push_back(now.queue);
      queue.still = 0;
    } else if (had_work) {
      ++queue.still;
      if (queue.still == 1) verdict.kick.push_back(now.queue);
      if (queue.still >= stall_looks_ && !std::exchange(queue.is_stalled, true)) {
        verdict.stalled.push_back(now.queue);
      }
    }
    queues_[now.queue] = queue;
  }
}

std::optional<int> StallDetector::FindSpinning(Clock::time_point now, Clock::duration since_last,
                                               std::span<const WorkerReport> workers) {
  const auto share = [](uint64_t ns, Clock::duration of) {
    const auto all = std::chrono::duration<double, std::nano>(of).count();
    return all > 0 ? static_cast<double>(ns) / all : 0;
  };
  std::optional<int> spinning;
  for (const WorkerReport& worker : workers) {
    std::optional<int> still;
    bool is_stalled = false;
    bool moved = false;
    for (const int number : worker.queues) {
      const auto found = queues_.find(number);
      if (found == queues_.end()) continue;
      const Queue& queue = found->second;
      if (queue.still > 0) still = number;
      is_stalled = is_stalled || queue.is_stalled;
      moved = moved || queue.moved;
    }
    if (!still.has_value() || !worker.cpu_time_ns.has_value()) {
      cpu_times_.erase(worker.tid);
      continue;
    }
    const uint64_t cpu_ns = *worker.cpu_time_ns;
    const auto [entry, is_new] = cpu_times_.try_emplace(worker.tid, CpuTime{cpu_ns, cpu_ns, now});
    CpuTime& time = entry->second;
    const uint64_t last_ns = std::exchange(time.last_ns, cpu_ns);
    if (is_new) continue;
    if ((!moved && share(cpu_ns - last_ns, since_last) >= kSpinShare) ||
        (is_stalled &&
         share(cpu_ns - time.first_ns, now - time.first_at) >= kSpinShareWhileOthersMove)) {
      spinning = still;
    }
  }
  return spinning;
}

WatchdogReport StallDetector::Report() const {
  WatchdogReport report = counts_;
  for (const auto& [number, queue] : queues_) {
    if (queue.is_stalled) report.stalled.push_back(number);
  }
  return report;
}

}  // namespace vhost
