// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tells queues that do not get on although they could: a backend that lost a kick, a worker that
// waits for something that never comes, or one that turns in circles. A driver can make vhost-net's
// worker do the last with a single malformed packet, and nothing but its CPU time tells of it.
//
// Looked at are the indices that driver and backend publish, at intervals. CPU times are asked for
// only when a queue is under suspicion. Packed rings publish none: their backend tells how far it
// is.
//
// Thread safety: none.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "vhost/offload.h"
#include "vhost/report.h"

namespace vhost {

// A queue that a backend serves.
struct QueueProgress {
  int queue = 0;
  bool prompt = false;  // QueueRole::prompt
  // Split: the indices. Packed: how many entries were returned, and one more if there is work.
  uint16_t avail = 0;
  uint16_t used = 0;
};

class StallDetector {
 public:
  using Clock = std::chrono::steady_clock;

  explicit StallDetector(const WatchdogOptions& options);

  struct Verdict {
    std::vector<int> kick;       // queues to be kicked once more, in case a kick was lost
    std::vector<int> stalled;    // queues that have stood still for stall_ms just now
    std::vector<int> recovered;  // queues that were stalled and got on
    // A queue that stands still because its worker spins.
    std::optional<int> spinning;
  };
  // To be called every period_ms. A look that comes late tells nothing: the whole process may have
  // stood still.
  Verdict Look(Clock::time_point now, std::span<const QueueProgress> queues,
               const std::function<std::vector<WorkerReport>()>& workers);
  // Nothing is known any more: another backend serves, or none.
  void Forget();

  WatchdogReport Report() const;

 private:
  struct Queue {
    uint16_t used = 0;
    bool moved = true;      // since the look before
    bool has_work = false;  // at this look
    uint32_t still = 0;     // looks without progress, though it had work
    bool is_stalled = false;
  };
  struct CpuTime {
    uint64_t first_ns = 0;  // when its queues came under suspicion
    uint64_t last_ns = 0;
    Clock::time_point first_at;
  };

  void LookAtQueues(std::span<const QueueProgress> queues, Verdict& verdict);
  // Of the queues that stand still, one whose worker uses its time for nothing.
  std::optional<int> FindSpinning(Clock::time_point now, Clock::duration since_last,
                                  std::span<const WorkerReport> workers);

  const WatchdogOptions options_;
  const uint32_t stall_looks_;
  std::optional<Clock::time_point> last_look_;
  std::map<int, Queue> queues_;
  std::map<pid_t, CpuTime> cpu_times_;  // of workers with a queue under suspicion
  WatchdogReport counts_;
};

}  // namespace vhost
