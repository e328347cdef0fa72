// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The virtqueues of one device: what the driver wrote about each, its two eventfds, and who serves
// it. Start hands the backend those queues that are its own, and serves the local ones here.
//
// Each queue is in one of three hands:
//
//   nobody    before Start, after Stop; disabled, reset, or not active (queue pairs not in use)
//   backend   its kick eventfd is read by the kernel, or by whoever the backend is
//   device    its kick eventfd is watched on the event loop, and the model serves it
//
// Thread safety: all calls with the device's lock held, except where noted. Watches that are over
// must not be destroyed under that lock (see Watch): they wait in TakeRetired().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "vhost/backend.h"
#include "vhost/device/backend_selector.h"
#include "vhost/device/device_model.h"
#include "vhost/device/stall_detector.h"
#include "vhost/event_loop.h"
#include "vhost/inprocess/virtqueue.h"
#include "vhost/vring.h"

namespace vhost {

class QueueSet {
 public:
  // Makes the eventfds. `on_kick(queue)` is called on the loop's thread, without any lock, when a
  // local queue was kicked, and shall call HandleKick under the device's lock. All references must
  // outlive the set.
  static absl::StatusOr<std::unique_ptr<QueueSet>> Create(kernel_abi::Kernel& kernel,
                                                          EventLoop& loop, DeviceModel& model,
                                                          BackendSelector& backends,
                                                          std::function<void(int)> on_kick);
  QueueSet(const QueueSet&) = delete;
  QueueSet& operator=(const QueueSet&) = delete;

  int count() const { return static_cast<int>(queues_.size()); }
  bool Has(int queue) const { return queue >= 0 && queue < count(); }

  // What the driver wrote. `queue` must exist.
  const VringSetup& setup(int queue) const { return queues_[queue].setup; }
  void SetSetup(int queue, const VringSetup& setup) { queues_[queue].setup = setup; }
  bool enabled(int queue) const { return queues_[queue].enabled; }
  void SetEnabled(int queue) { queues_[queue].enabled = true; }
  // As after creation: not enabled, largest size, no addresses, base 0, own eventfds, no kick
  // pending. The queue must not run. An interrupt that is pending stays: it may be another queue's
  // (ShareCallFd), and one too many is legal.
  void ClearQueue(int queue);
  // No interrupt is pending any more: for a reset of the device, which is silent afterwards.
  void DrainCalls();
  // Where the queue goes on at its next start, and which eventfds it uses until it is cleared
  // (lent, -1: its own).
  void SetBase(int queue, VringBase base) { queues_[queue].base = base; }
  std::optional<VringBase> base(int queue) const { return queues_[queue].base; }
  void LendEventFds(int queue, int kick_fd, int call_fd);

  // Makes one eventfd the call eventfd of all queues. Each has an fd of its own for it, which is as
  // many as before. Before anything runs or is wired; false if there are no fds for it.
  bool ShareCallFd();

  // The queue's own eventfds. Any thread, no lock: they never change.
  int kick_fd(int queue) const { return queues_[queue].kick.get(); }
  int call_fd(int queue) const { return queues_[queue].call.get(); }
  void SignalKick(int queue) const { queues_[queue].kick.Signal(); }

  // Runs all enabled queues that are local or active. All or nothing. The error names the queue.
  // `first` is the backend to try before any other.
  absl::Status Start(VirtioFeatures acked, std::shared_ptr<const MemoryTable> memory,
                     std::optional<BackendKind> first = std::nullopt);
  // Whether the enabled queues could run in `memory`.
  absl::Status CheckEnabled(VirtioFeatures acked, const std::shared_ptr<const MemoryTable>& memory);
  // Nobody serves anything when it returns. The bases of those that ran, which are kept for the
  // next start as well.
  std::vector<StoppedVring> Stop();
  bool running() const { return memory_ != nullptr; }

  // Hands what the running backend serves to `to`, which BackendSelector::Find gave, with `memory`
  // (nullptr: that which is in use). Local queues go on. All or nothing; if neither backend can
  // start, must_stop() is true.
  BackendSelector::Moved MoveTo(Backend& to, std::shared_ptr<const MemoryTable> memory,
                                const std::string& why);

  // The same for one queue, while the set runs. No-ops where there is nothing to do.
  absl::Status StartQueue(int queue);
  absl::Status StopQueue(int queue);
  // See DeviceHost::ApplyActiveQueues.
  absl::Status ApplyActiveQueues();
  // The backend could not stop one of its queues when it was asked to, or there is none any more
  // after a move that failed: all must be stopped.
  bool must_stop() const { return must_stop_; }

  // FAILED_PRECONDITION names a queue that runs, and would be elsewhere in `memory`.
  absl::Status CheckMemory(const MemoryTable& memory) const;
  // The memory that running queues use from now on. Refused as by CheckMemory. The error is the
  // backend's if `refused` is set: another one might take it.
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory, bool* refused);
  // Another eventfd for a queue's interrupts (lent; -1: its own), running or not.
  absl::Status SetCall(int queue, int call_fd);

  // Serves a local queue; an error is the driver's fault.
  absl::Status HandleKick(int queue);
  // Has HandleKick called soon, if the queue is local and runs.
  void KickLocal(int queue);

  // How far the rings that the backend serves have got: packed ones where it can tell.
  std::vector<QueueProgress> Progress() const;
  // Signals the kick eventfd that the queue uses.
  void KickAgain(int queue) const;

  // "queue 1 (tx0)", as far as its role is known.
  std::string Label(int queue) const;
  std::vector<VringReport> Report(VirtioFeatures features, const MemoryTable& memory) const;

  [[nodiscard]] std::vector<std::unique_ptr<Watch>> TakeRetired() {
    return std::exchange(retired_, {});
  }
  // Ends all watches, for destruction. The set must be stopped.
  void RetireAll();

 private:
  enum class Server : uint8_t { kNobody, kBackend, kDevice };
  struct Queue {
    kernel_abi::EventFd kick;
    kernel_abi::EventFd call;
    VringSetup setup{};
    bool enabled = false;
    std::optional<VringBase> base{};  // nullopt: from the beginning
    int lent_kick_fd = -1;
    int lent_call_fd = -1;
    Server server = Server::kNobody;
    std::optional<Vring> vring{};                  // while somebody serves it
    std::unique_ptr<inprocess::Virtqueue> ring{};  // while the device does
    // Kept between runs: queues are watched for as long as the device lives, in general.
    std::unique_ptr<Watch> watch{};
    int watched_fd = -1;

    int kick_in_use() const { return lent_kick_fd >= 0 ? lent_kick_fd : kick.get(); }
    int call_in_use() const { return lent_call_fd >= 0 ? lent_call_fd : call.get(); }
  };

  QueueSet(kernel_abi::Kernel& kernel, EventLoop& loop, DeviceModel& model,
           BackendSelector& backends, std::function<void(int)> on_kick)
      : kernel_(kernel),
        loop_(loop),
        model_(model),
        backends_(backends),
        on_kick_(std::move(on_kick)) {}

  absl::StatusOr<Vring> Validate(int queue) const;
  // Of a packed ring, from whoever serves it.
  std::optional<PackedPositions> Positions(int queue) const;
  BackendVring ForBackend(int queue, const Vring& vring);
  void GivenToBackend(int queue, const Vring& vring);
  absl::Status StartLocal(int queue, const Vring& vring);
  void StopLocal(int queue);
  absl::Status StartOnBackend(int queue, const Vring& vring);
  absl::Status StopOnBackend(int queue);
  void RetireWatch(Queue& queue);
  void UseMemory(const std::shared_ptr<const MemoryTable>& memory);

  kernel_abi::Kernel& kernel_;
  EventLoop& loop_;
  DeviceModel& model_;
  BackendSelector& backends_;
  const std::function<void(int)> on_kick_;
  std::vector<Queue> queues_;  // as many for life
  std::vector<std::unique_ptr<Watch>> retired_;
  // While running.
  VirtioFeatures acked_;
  std::shared_ptr<const MemoryTable> memory_;
  bool must_stop_ = false;
};

}  // namespace vhost
