// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Network queues served by this process: virtqueues 2p (receive) and 2p + 1 (transmit) between the
// driver and queue p of a TAP. The control queue is not a backend's.
//
// Each queue pair is a task of a data thread: one of its own, or one that it shares with other
// pairs and devices.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "vhost/backend.h"
#include "vhost/inprocess/data_thread.h"
#include "vhost/inprocess/frame_ring.h"
#include "vhost/inprocess/net_receive.h"

namespace vhost::inprocess {

struct InProcessNetOptions {
  // A queue of the TAP for each queue pair, lent for the life of the backend, and made non-blocking
  // (which vhost does not mind). At a start the TAP's header must have the size that the features
  // acked want; its sndbuf is left alone.
  std::vector<int> tap_fds;
  // Serves all queue pairs. Without, each has a thread of its own, made as below.
  std::shared_ptr<DataThread> thread;
  DataThreadOptions thread_options{.name = "vhost-net"};
  // How frames get into the TAP and out of it. The report tells what became of it, and why.
  IoEngine io_engine = IoEngine::kAuto;
  // Merges what the driver sends in segments, where it does not leave segmentation to the device:
  // fewer, larger writes. Frames arrive as they were sent, but frames of different flows that were
  // sent in one burst may change places.
  bool coalesce = true;
  bool tap_takes_uso = false;  // Tap::takes_uso()
  // Has the TAP deliver, besides what the driver takes, these (TUN_F_*), to be cut here: fewer,
  // larger reads. Called with a set at a start and with 0 at a stop. Without, nothing is cut.
  std::function<absl::Status(unsigned)> set_extra_offloads;
  unsigned tap_offloads = 0;  // Tap::supported_offloads()
};

class InProcessNetBackend final : public Backend {
 public:
  // INVALID_ARGUMENT, or the system's answer where a thread cannot be had or placed.
  static absl::StatusOr<std::unique_ptr<InProcessNetBackend>> Create(kernel_abi::Kernel& kernel,
                                                                     InProcessNetOptions options);
  ~InProcessNetBackend() override;

  BackendKind kind() const override { return BackendKind::kInProcess; }
  VirtioFeatures Supported(VirtioFeatures wanted) const override;
  absl::Status CheckMemory(const MemoryTable& memory) const override;
  // Looks at the TAP, so that the start after it need not.
  absl::Status Prepare(const BackendStart& start) override;
  absl::Status Start(const BackendStart& start) override;
  std::vector<StoppedVring> Stop() override;
  absl::Status StartVring(const BackendVring& vring) override;
  absl::StatusOr<VringBase> StopVring(int queue) override;
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory) override;
  absl::Status SetCall(int queue, int call_fd) override;
  std::optional<VringPosition> Position(int queue) const override;
  int error_fd(int queue) const override;
  void CountError(int queue) override;
  BackendReport Report() const override;

  int queue_count() const { return static_cast<int>(2 * pairs_.size()); }
  // What is counted of a queue: for tests and benches.
  NetCounters counters(int queue) const;
  DataThread& thread(int pair) const;

 private:
  class Pair;
  struct Running {
    VirtioFeatures acked;
    std::shared_ptr<const MemoryTable> memory;
  };

  // What was looked up for the next start, while another backend served.
  struct Prepared {
    VirtioFeatures acked;
    std::vector<size_t> most_frame_bytes;  // by queue pair
  };

  InProcessNetBackend(kernel_abi::Kernel& kernel, InProcessNetOptions options);
  // Null where system calls are to be made.
  std::unique_ptr<FrameRing> MakeRing(int tap_fd);
  void ReportIoEngine(BackendReport& report) const;
  absl::Status CheckQueue(int queue) const;
  absl::Status CheckTap(size_t pair, VirtioFeatures acked) const;
  // The most that a frame of this TAP may have now; 0: not to be found out.
  size_t MostFrameBytes(size_t pair) const;
  absl::Status CheckStart(const BackendStart& start) const;
  absl::Status StartOne(const BackendVring& vring, const Running& with, size_t most_frame_bytes);
  unsigned ExtraOffloads(VirtioFeatures acked) const;
  absl::Status SetExtraOffloads(unsigned offloads);
  Pair& PairOf(int queue) const { return *pairs_[static_cast<size_t>(queue) / 2]; }

  kernel_abi::Kernel& kernel_;
  const InProcessNetOptions options_;
  std::vector<std::unique_ptr<Pair>> pairs_;
  absl::Status io_uring_refused_;
  std::optional<Running> running_;
  std::optional<Prepared> prepared_;
  unsigned extra_offloads_ = 0;
  uint64_t memory_updates_ = 0;
};

}  // namespace vhost::inprocess
