// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/chain_backend.h"

#include <sys/epoll.h>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost::inprocess {
namespace {

using enum VirtioFeature;

constexpr VirtioFeatures kRingFeatures = {kIndirectDesc, kEventIdx, kVersion1,
                                          kRingPacked,   kInOrder,  kRingReset};
// Of one queue, before the others have their turn.
constexpr int kChainsPerTurn = 64;

absl::Status OfQueue(int queue, const absl::Status& status) {
  return kernel_abi::AddContext(status, absl::StrCat("queue ", queue));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChainBackend>> ChainBackend::Create(kernel_abi::Kernel& kernel,
                                                                   ChainBackendOptions options) {
  if (options.queues < 1 || !options.answer) {
    return absl::InvalidArgumentError(
        "a chain backend needs a queue, and a function that answers its chains");
  }
  std::shared_ptr<DataThread> thread = options.thread;
  if (thread == nullptr) {
    absl::StatusOr<std::unique_ptr<DataThread>> own =
        DataThread::Create(kernel, options.thread_options);
    if (!own.ok()) return own.status();
    thread = *std::move(own);
  }
  auto backend = absl::WrapUnique(new ChainBackend(kernel, std::move(options), std::move(thread)));
  for (int queue = 0; queue < backend->options_.queues; ++queue) {
    absl::StatusOr<kernel_abi::EventFd> error = kernel_abi::EventFd::Create(kernel);
    if (!error.ok()) return error.status();
    backend->queues_.push_back({.error = *std::move(error)});
  }
  return backend;
}

ChainBackend::~ChainBackend() { Stop(); }

VirtioFeatures ChainBackend::Supported(VirtioFeatures wanted) const {
  return wanted & (kRingFeatures | options_.device_features);
}

absl::Status ChainBackend::CheckQueue(int queue) const {
  if (queue >= 0 && queue < options_.queues) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("queue ", queue, " is not of the ", options_.queues, " of this backend"));
}

// ---- Start and stop ----------------------------------------------------------------------------

absl::Status ChainBackend::Enter(const BackendVring& vring) {
  if (absl::Status status = CheckQueue(vring.queue); !status.ok()) return status;
  Queue& queue = queues_[static_cast<size_t>(vring.queue)];
  if (queue.ring != nullptr) {
    return OfQueue(vring.queue, absl::FailedPreconditionError("is running already"));
  }
  std::unique_ptr<Virtqueue> ring = Virtqueue::Create(
      kernel_, vring.vring, vring.base, running_->acked, running_->memory, vring.call_fd);
  if (!ring->broken().ok()) return OfQueue(vring.queue, ring->broken());
  // Edge-triggered and never read: each kick wakes, and the count stays for who serves it next.
  if (vring.kick_fd >= 0) {
    absl::Status status =
        thread_->Watch(*this, vring.kick_fd, EPOLLIN | EPOLLET, static_cast<uint32_t>(vring.queue));
    if (!status.ok()) return OfQueue(vring.queue, status);
  }
  queue.ring = std::move(ring);
  queue.kick_fd = vring.kick_fd;
  queue.call_fd = vring.call_fd;
  queue.told_broken = false;
  // The kick is that the task is active; and the call is given whatever the driver wants.
  queue.ring->SignalAlways();
  return absl::OkStatus();
}

VringBase ChainBackend::Leave(Queue& queue) {
  if (queue.kick_fd >= 0) thread_->Unwatch(*this, queue.kick_fd);
  queue.kick_fd = queue.call_fd = -1;
  queue.ring->Flush();
  const VringBase base = queue.ring->base();
  queue.ring.reset();
  return base;
}

absl::Status ChainBackend::Start(const BackendStart& start) {
  if (running_.has_value()) {
    return absl::FailedPreconditionError("the backend is running already");
  }
  running_ = Running{.acked = start.acked, .memory = start.memory};
  absl::Status status;
  thread_->Call([&] {
    thread_->Add(*this);
    for (const BackendVring& vring : start.vrings) {
      if (status.ok()) status = Enter(vring);
    }
  });
  if (!status.ok()) Stop();
  return status;
}

std::vector<StoppedVring> ChainBackend::Stop() {
  std::vector<StoppedVring> stopped;
  if (!running_.has_value()) return stopped;
  thread_->Call([&] {
    for (size_t queue = 0; queue < queues_.size(); ++queue) {
      if (queues_[queue].ring == nullptr) continue;
      stopped.push_back({static_cast<int>(queue), Leave(queues_[queue])});
    }
    thread_->Remove(*this);
  });
  running_.reset();
  return stopped;
}

absl::Status ChainBackend::StartVring(const BackendVring& vring) {
  if (!running_.has_value()) return absl::FailedPreconditionError("the backend is not running");
  absl::Status status;
  thread_->Call([&] {
    status = Enter(vring);
    if (status.ok()) thread_->Wake(*this);
  });
  return status;
}

absl::StatusOr<VringBase> ChainBackend::StopVring(int queue) {
  if (absl::Status status = CheckQueue(queue); !status.ok()) return status;
  std::optional<VringBase> base;
  thread_->Call([&] {
    Queue& stopping = queues_[static_cast<size_t>(queue)];
    if (stopping.ring != nullptr) base = Leave(stopping);
  });
  if (base.has_value()) return *base;
  return OfQueue(queue, absl::FailedPreconditionError("is not running"));
}

absl::Status ChainBackend::SetMemory(const std::shared_ptr<const MemoryTable>& memory) {
  if (!running_.has_value()) return absl::OkStatus();  // The next start brings its table.
  for (const Queue& queue : queues_) {
    if (queue.ring != nullptr && !queue.ring->vring().SamePlaceIn(*memory)) {
      return absl::FailedPreconditionError("a running ring would lie elsewhere");
    }
  }
  thread_->Call([&] {
    for (Queue& queue : queues_) {
      if (queue.ring != nullptr) queue.ring->SetMemory(memory);
    }
  });
  running_->memory = memory;
  ++memory_updates_;
  return absl::OkStatus();
}

absl::Status ChainBackend::SetCall(int queue, int call_fd) {
  if (absl::Status status = CheckQueue(queue); !status.ok()) return status;
  thread_->Call([&] {
    Queue& changing = queues_[static_cast<size_t>(queue)];
    if (changing.ring == nullptr) return;
    changing.call_fd = call_fd;
    changing.ring->SetCall(call_fd);
  });
  return absl::OkStatus();
}

// ---- On the data thread ------------------------------------------------------------------------

bool ChainBackend::Serve(int number) {
  Queue& queue = queues_[static_cast<size_t>(number)];
  if (queue.ring == nullptr) return false;
  queue.ring->DisableKicks();
  int taken = 0;
  Chain chain;
  while (taken < kChainsPerTurn && queue.ring->Take(chain)) {
    ++taken;
    options_.answer(number, chain);
    chain.Return(0);  // If it has not done so itself.
  }
  if (taken > 0) {
    queue.chains += static_cast<uint64_t>(taken);
    ++(queue.ring->SignalUsed() ? queue.calls : queue.suppressed_calls);
  }
  if (!queue.ring->broken().ok() && !queue.told_broken) {
    queue.told_broken = true;
    queue.error.Signal();
  }
  return taken > 0;
}

bool ChainBackend::Poll() {
  bool worked = false;
  for (int queue = 0; queue < options_.queues; ++queue) worked |= Serve(queue);
  return worked;
}

bool ChainBackend::Arm() {
  bool more = false;
  for (Queue& queue : queues_) {
    if (queue.ring != nullptr) more |= queue.ring->EnableKicks();
  }
  return more;
}

// ---- Telling -----------------------------------------------------------------------------------

std::optional<VringPosition> ChainBackend::Position(int queue) const {
  std::optional<VringPosition> position;
  if (!CheckQueue(queue).ok()) return position;
  thread_->Call([&] {
    const Virtqueue* ring = queues_[static_cast<size_t>(queue)].ring.get();
    if (ring != nullptr) position = VringPosition{ring->base(), ring->published()};
  });
  return position;
}

int ChainBackend::error_fd(int queue) const {
  return CheckQueue(queue).ok() ? queues_[static_cast<size_t>(queue)].error.get() : -1;
}

void ChainBackend::CountError(int queue) {
  if (CheckQueue(queue).ok()) ++queues_[static_cast<size_t>(queue)].errors;
}

BackendReport ChainBackend::Report() const {
  BackendReport report{.kind = BackendKind::kInProcess,
                       .running = running_.has_value(),
                       .memory_updates = memory_updates_};
  WorkerReport worker = thread_->Report();
  thread_->Call([&] {
    const DataThread::TaskStats task = thread_->task_stats(*this);
    for (size_t i = 0; i < queues_.size(); ++i) {
      const Queue& queue = queues_[i];
      BackendVringReport vring{.queue = static_cast<int>(i),
                               .kick_fd = queue.kick_fd,
                               .call_fd = queue.call_fd,
                               .err_fd = queue.error.get(),
                               .errors = queue.errors};
      vring.data_path = DataPathReport{.packets = queue.chains,
                                       .kicks = queue.kicks,
                                       .calls = queue.calls,
                                       .suppressed_calls = queue.suppressed_calls,
                                       .wake_ups = task.wake_ups,
                                       .polls = task.polls};
      if (queue.ring != nullptr) {
        vring.last_avail = static_cast<uint16_t>(queue.ring->base());
        if (!queue.ring->broken().ok()) vring.problem = std::string(queue.ring->broken().message());
      }
      worker.queues.push_back(vring.queue);
      report.vrings.push_back(std::move(vring));
    }
  });
  report.workers.push_back(std::move(worker));
  return report;
}

}  // namespace vhost::inprocess
