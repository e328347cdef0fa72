// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A queue pair as a task of a data thread: what wakes which of its two queues, and when each waits
// for what.
//
//   transmit   works while the driver sends; waits for a kick, or for the TAP to be writable
//   receive    works while the TAP delivers; waits for the TAP to be readable, or, without buffers,
//              for a kick
//
// A queue that is broken, and a TAP that is gone, are not touched any more; the error eventfd
// tells.
//
// Thread safety: what is not marked belongs to the data thread (its turn, DataThread::Call).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "kernel-abi/event_fd.h"
#include "vhost/backend.h"
#include "vhost/inprocess/data_thread.h"
#include "vhost/inprocess/frame_ring.h"
#include "vhost/inprocess/net_counters.h"
#include "vhost/inprocess/net_receive.h"
#include "vhost/inprocess/net_transmit.h"

namespace vhost::inprocess {

class NetPair final : public DataTask {
 public:
  // Where one direction stands, besides its queue.
  struct Direction {
    explicit Direction(kernel_abi::EventFd error_fd) : error(std::move(error_fd)) {}
    kernel_abi::EventFd error;  // any thread
    uint64_t errors = 0;        // the backend's callers
    NetCounters counters;
    int kick_fd = -1;  // -1: not started
    int call_fd = -1;
    bool kicks_on = false;
    bool failed = false;
    std::string problem;
  };

  // With `ring` (of the same fd) frames go by io_uring, else by system calls.
  NetPair(DataThread& thread, int tap_fd, std::unique_ptr<FrameRing> ring,
          kernel_abi::EventFd rx_error, kernel_abi::EventFd tx_error);
  // Stops what is running.
  ~NetPair() override;

  // Each begins with one call to the driver.
  absl::Status StartReceive(const BackendVring& vring, std::unique_ptr<Virtqueue> queue,
                            const ReceiveQueue::Options& options);
  absl::Status StartTransmit(const BackendVring& vring, std::unique_ptr<Virtqueue> queue,
                             const TransmitQueue::Options& options);
  // The queue must be running.
  VringBase StopReceive();
  VringBase StopTransmit();
  void SetMemory(const std::shared_ptr<const MemoryTable>& memory);
  void SetCall(bool transmit, int call_fd);

  bool is_running(bool transmit) const {
    return transmit ? transmit_ != nullptr : receive_ != nullptr;
  }
  const Virtqueue* queue(bool transmit) const;
  Direction& direction(bool transmit) { return transmit ? tx_ : rx_; }
  const Direction& direction(bool transmit) const { return transmit ? tx_ : rx_; }
  DataThread& thread() const { return thread_; }
  FrameRing* ring() const { return ring_.get(); }

  bool Poll() override;
  bool Arm() override;
  void OnReady(uint32_t token, uint32_t events) override;
  void OnTimer() override;

 private:
  enum Token : uint32_t { kReceiveKick, kTransmitKick, kTap };

  // Joins the thread with the first queue, and leaves it with the last.
  absl::Status Join(Direction& direction, const BackendVring& vring, Token token);
  void Leave(Direction& direction);
  bool PollTransmit();
  bool PollReceive();
  void Fail(Direction& direction, std::string problem);
  void FailTap(int error);
  // What of the TAP is waited for now.
  void UpdateTapInterest(bool look_anew);

  DataThread& thread_;
  const int tap_fd_;
  const std::unique_ptr<FrameRing> ring_;
  Direction rx_;
  Direction tx_;
  std::unique_ptr<ReceiveQueue> receive_;
  std::unique_ptr<TransmitQueue> transmit_;
  NetScratch& scratch_;    // the thread's
  bool readable_ = false;  // the TAP may have frames
  bool starved_ = false;   // and there are no buffers for them
  bool blocked_ = false;   // the TAP has no room
  uint32_t interest_ = 0;
};

}  // namespace vhost::inprocess
