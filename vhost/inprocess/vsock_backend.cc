// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_backend.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/system_error.h"

namespace vhost::inprocess {
namespace {

using enum VirtioFeature;

constexpr size_t kReceive = 0;
constexpr size_t kTransmit = 1;
// Tokens of what is watched: a queue's number for its kicks, and this.
constexpr uint32_t kSocketsToken = 2;
constexpr size_t kConnectionsTold = 100;

bool IsFirstEntry(const BackendVring& vring) {
  return vring.base == InitialBase(vring.vring.layout());
}

DataPathReport ReportOf(const VsockQueueStats& stats) {
  DataPathReport report{.packets = stats.packets,
                        .bytes = stats.bytes,
                        .calls = stats.calls,
                        .suppressed_calls = stats.suppressed_calls};
  for (size_t i = 0; i < stats.drops.size(); ++i) {
    if (stats.drops[i] == 0) continue;
    report.drops.push_back({Name(static_cast<VsockDrop>(i)), stats.drops[i]});
  }
  return report;
}

SocketsReport ReportSockets(const VsockMux& mux) {
  SocketsReport report{.open = mux.connections(),
                       .half_open = mux.half_open(),
                       .established = mux.stats().connections,
                       .bad_clients = mux.stats().garbage_clients,
                       .held_bytes = mux.stats().buffered_bytes};
  mux.ForEachLink([&](const VsockLink& link) {
    if (report.connections.size() == kConnectionsTold) return;
    const VsockConnection& connection = link.connection;
    const VsockReceiveCredit& receive = connection.receive_credit();
    report.connections.push_back({.type = Name(connection.type()),
                                  .state = Name(connection.state()),
                                  .by_guest = link.by_guest,
                                  .guest_port = connection.ports().guest,
                                  .host_port = connection.ports().host,
                                  .bytes_to_guest = link.bytes_to_guest,
                                  .bytes_from_guest = link.bytes_from_guest,
                                  .credit_bytes = connection.sendable(),
                                  .guest_credit_bytes = receive.buffer_bytes() - receive.held(),
                                  .held_bytes = link.backlog().bytes()});
  });
  return report;
}

}  // namespace

absl::StatusOr<std::unique_ptr<InProcessVsockBackend>> InProcessVsockBackend::Create(
    kernel_abi::Kernel& kernel, InProcessVsockOptions options) {
  absl::StatusOr<std::unique_ptr<VsockHost>> host = VsockHost::Create(options.host);
  if (!host.ok()) return host.status();
  absl::StatusOr<std::unique_ptr<VsockMux>> mux = VsockMux::Create(
      {.guest_cid = options.guest_cid, .limits = options.limits, .capture = options.capture.get()},
      *std::move(host));
  if (!mux.ok()) return mux.status();
  std::shared_ptr<DataThread> thread = options.thread;
  if (thread == nullptr) {
    absl::StatusOr<std::unique_ptr<DataThread>> own =
        DataThread::Create(kernel, options.thread_options);
    if (!own.ok()) return own.status();
    thread = *std::move(own);
  }
  auto backend = absl::WrapUnique(
      new InProcessVsockBackend(kernel, std::move(options), std::move(thread), *std::move(mux)));
  for (size_t queue = 0; queue < kQueues; ++queue) {
    absl::StatusOr<kernel_abi::EventFd> error = kernel_abi::EventFd::Create(kernel);
    if (!error.ok()) return error.status();
    backend->queues_.push_back({.error = *std::move(error)});
  }
  return backend;
}

InProcessVsockBackend::~InProcessVsockBackend() { Stop(); }

VirtioFeatures InProcessVsockBackend::Supported(VirtioFeatures wanted) const {
  return wanted & VirtioFeatures{kIndirectDesc, kEventIdx,       kVersion1,
                                 kRingPacked,   kInOrder,        kRingReset,
                                 kVsockStream,  kVsockSeqpacket, kVsockNoImpliedStream};
}

absl::Status InProcessVsockBackend::CheckQueue(int queue) {
  if (queue >= 0 && queue < static_cast<int>(kQueues)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("this process serves queues 0 and 1 of a socket device, not ", queue));
}

// ---- Start and stop ----------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Virtqueue>> InProcessVsockBackend::MakeRing(
    const BackendVring& vring) const {
  if (absl::Status status = CheckQueue(vring.queue); !status.ok()) return status;
  if (queues_[static_cast<size_t>(vring.queue)].ring != nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("queue ", vring.queue, " runs already"));
  }
  std::unique_ptr<Virtqueue> ring = Virtqueue::Create(
      kernel_, vring.vring, vring.base, running_->acked, running_->memory, vring.call_fd);
  if (!ring->broken().ok()) return ring->broken();
  return ring;
}

void InProcessVsockBackend::AttachRings() {
  mux_->Attach(queues_[kReceive].ring.get(), queues_[kTransmit].ring.get(),
               running_.has_value() && running_->acked.Has(kVsockSeqpacket));
}

absl::Status InProcessVsockBackend::Enter(const BackendVring& vring,
                                          std::unique_ptr<Virtqueue> ring) {
  // Edge-triggered and never read: each kick wakes, and the count stays for who serves it next.
  if (vring.kick_fd >= 0) {
    absl::Status status =
        thread_->Watch(*this, vring.kick_fd, EPOLLIN | EPOLLET, static_cast<uint32_t>(vring.queue));
    if (!status.ok()) return status;
  }
  Queue& queue = queues_[static_cast<size_t>(vring.queue)];
  queue.ring = std::move(ring);
  queue.kick_fd = vring.kick_fd;
  queue.call_fd = vring.call_fd;
  queue.told_broken = false;
  return absl::OkStatus();
}

VringBase InProcessVsockBackend::Leave(size_t queue) {
  Queue& leaving = queues_[queue];
  std::unique_ptr<Virtqueue> ring = std::move(leaving.ring);
  AttachRings();
  if (leaving.kick_fd >= 0) thread_->Unwatch(*this, leaving.kick_fd);
  leaving.kick_fd = leaving.call_fd = -1;
  ring->Flush();
  return ring->base();
}

absl::Status InProcessVsockBackend::Start(const BackendStart& start) {
  if (running_.has_value()) {
    return absl::FailedPreconditionError("the in-process vsock backend is running already");
  }
  if (const VirtioFeatures cannot = start.acked - Supported(start.acked); !cannot.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not served in this process: ",
                     absl::StrJoin(FeatureNames(DeviceId::kVsock, cannot), " ")));
  }
  running_ = Running{.acked = start.acked, .memory = start.memory};
  absl::Status status;
  thread_->Call([&] {
    thread_->Add(*this);
    status = thread_->Watch(*this, mux_->event_fd(), EPOLLIN | EPOLLET, kSocketsToken);
    mux_->NoteEvents();
    timer_.reset();
    for (const BackendVring& vring : start.vrings) {
      if (!status.ok()) return;
      absl::StatusOr<std::unique_ptr<Virtqueue>> ring = MakeRing(vring);
      status = ring.ok() ? Enter(vring, *std::move(ring)) : ring.status();
    }
    if (!status.ok()) return;
    const bool is_new_driver = start.vrings.size() == kQueues &&
                               std::all_of(start.vrings.begin(), start.vrings.end(), IsFirstEntry);
    if (is_new_driver) mux_->DropConnections();
    AttachRings();
    // The task is active, which is the kick; and each call is given whatever the driver wants.
    for (Queue& queue : queues_) {
      if (queue.ring != nullptr) queue.ring->SignalAlways();
    }
  });
  if (!status.ok()) Stop();
  return status;
}

std::vector<StoppedVring> InProcessVsockBackend::Stop() {
  std::vector<StoppedVring> stopped;
  if (!running_.has_value()) return stopped;
  thread_->Call([&] {
    for (size_t queue = 0; queue < kQueues; ++queue) {
      if (queues_[queue].ring == nullptr) continue;
      stopped.push_back({static_cast<int>(queue), Leave(queue)});
    }
    thread_->Remove(*this);
  });
  running_.reset();
  return stopped;
}

absl::Status InProcessVsockBackend::StartVring(const BackendVring& vring) {
  if (!running_.has_value()) {
    return absl::FailedPreconditionError("the in-process vsock backend is not running");
  }
  absl::StatusOr<std::unique_ptr<Virtqueue>> ring = MakeRing(vring);
  if (!ring.ok()) return ring.status();
  absl::Status status;
  thread_->Call([&] {
    status = Enter(vring, *std::move(ring));
    if (!status.ok()) return;
    AttachRings();
    queues_[static_cast<size_t>(vring.queue)].ring->SignalAlways();
    thread_->Wake(*this);
  });
  return status;
}

absl::StatusOr<VringBase> InProcessVsockBackend::StopVring(int queue) {
  if (absl::Status status = CheckQueue(queue); !status.ok()) return status;
  if (queues_[static_cast<size_t>(queue)].ring == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("queue ", queue, " does not run"));
  }
  VringBase base = 0;
  thread_->Call([&] { base = Leave(static_cast<size_t>(queue)); });
  return base;
}

absl::Status InProcessVsockBackend::SetMemory(const std::shared_ptr<const MemoryTable>& memory) {
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

absl::Status InProcessVsockBackend::SetCall(int queue, int call_fd) {
  if (absl::Status status = CheckQueue(queue); !status.ok()) return status;
  Queue& changing = queues_[static_cast<size_t>(queue)];
  thread_->Call([&] {
    changing.call_fd = call_fd;
    if (changing.ring != nullptr) changing.ring->SetCall(call_fd);
  });
  return absl::OkStatus();
}

void InProcessVsockBackend::DropConnections() {
  thread_->Call([this] { mux_->DropConnections(); });
}

// ---- On the data thread ------------------------------------------------------------------------

bool InProcessVsockBackend::Poll() {
  const bool worked = mux_->Poll();
  for (Queue& queue : queues_) {
    if (queue.ring == nullptr || queue.told_broken || queue.ring->broken().ok()) continue;
    queue.told_broken = true;
    queue.error.Signal();
  }
  return worked;
}

bool InProcessVsockBackend::Arm() {
  if (mux_->Arm()) return true;
  if (const auto deadline = mux_->deadline(); deadline != timer_) {
    thread_->SetTimer(*this, deadline);
    timer_ = deadline;
  }
  return false;
}

void InProcessVsockBackend::OnReady(uint32_t token, uint32_t) {
  if (token == kSocketsToken) {
    mux_->NoteEvents();
  } else {
    ++queues_[token].kicks;
  }
}

// ---- Telling -----------------------------------------------------------------------------------

std::optional<VringPosition> InProcessVsockBackend::Position(int queue) const {
  std::optional<VringPosition> position;
  if (!CheckQueue(queue).ok()) return position;
  thread_->Call([&] {
    const Virtqueue* ring = queues_[static_cast<size_t>(queue)].ring.get();
    if (ring != nullptr) position = VringPosition{ring->base(), ring->published()};
  });
  return position;
}

int InProcessVsockBackend::error_fd(int queue) const {
  return CheckQueue(queue).ok() ? queues_[static_cast<size_t>(queue)].error.get() : -1;
}

void InProcessVsockBackend::CountError(int queue) {
  if (CheckQueue(queue).ok()) ++queues_[static_cast<size_t>(queue)].errors;
}

VsockStats InProcessVsockBackend::stats() const {
  VsockStats stats;
  thread_->Call([&] { stats = mux_->stats(); });
  return stats;
}

BackendReport InProcessVsockBackend::Report() const {
  BackendReport report{.kind = BackendKind::kInProcess,
                       .node = options_.host.uds_path,
                       .running = running_.has_value(),
                       .memory_updates = memory_updates_};
  thread_->Call([&] {
    const DataThread::TaskStats task = thread_->task_stats(*this);
    for (size_t i = 0; i < kQueues; ++i) {
      const Queue& queue = queues_[i];
      BackendVringReport vring{.queue = static_cast<int>(i),
                               .kick_fd = queue.kick_fd,
                               .call_fd = queue.call_fd,
                               .err_fd = queue.error.get(),
                               .errors = queue.errors};
      if (queue.ring != nullptr) {
        vring.last_avail = static_cast<uint16_t>(queue.ring->base());
        if (!queue.ring->broken().ok()) vring.problem = std::string(queue.ring->broken().message());
      }
      const VsockStats& stats = mux_->stats();
      vring.data_path = ReportOf(i == kReceive ? stats.to_guest : stats.from_guest);
      vring.data_path->kicks = queue.kicks;
      vring.data_path->wake_ups = task.wake_ups;
      vring.data_path->polls = task.polls;
      report.vrings.push_back(std::move(vring));
    }
    report.sockets = ReportSockets(*mux_);
  });
  WorkerReport worker = thread_->Report();
  worker.queues = {0, 1};
  report.workers.push_back(std::move(worker));
  return report;
}

}  // namespace vhost::inprocess
