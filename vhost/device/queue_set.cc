// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/queue_set.h"

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "vhost/device/event_fd_count.h"

namespace vhost {
namespace {

VringLayout LayoutOf(VirtioFeatures acked) {
  return acked.Has(VirtioFeature::kRingPacked) ? VringLayout::kPacked : VringLayout::kSplit;
}

}  // namespace

absl::StatusOr<std::unique_ptr<QueueSet>> QueueSet::Create(kernel_abi::Kernel& kernel,
                                                           EventLoop& loop, DeviceModel& model,
                                                           BackendSelector& backends,
                                                           std::function<void(int)> on_kick) {
  std::unique_ptr<QueueSet> set(new QueueSet(kernel, loop, model, backends, std::move(on_kick)));
  for (int queue = 0; queue < model.queue_count(); ++queue) {
    absl::StatusOr<kernel_abi::EventFd> kick = kernel_abi::EventFd::Create(kernel);
    if (!kick.ok()) return kick.status();
    absl::StatusOr<kernel_abi::EventFd> call = kernel_abi::EventFd::Create(kernel);
    if (!call.ok()) return call.status();
    set->queues_.push_back({.kick = *std::move(kick), .call = *std::move(call)});
    set->ClearQueue(queue);
  }
  return set;
}

bool QueueSet::ShareCallFd() {
  std::vector<kernel_abi::EventFd> copies;
  for (int queue = 1; queue < count(); ++queue) {
    const int copy = kernel_.Duplicate(queues_[0].call.get());
    if (copy < 0) return false;
    copies.emplace_back(kernel_, kernel_abi::UniqueFd(copy));
  }
  for (size_t i = 0; i < copies.size(); ++i) queues_[i + 1].call = std::move(copies[i]);
  return true;
}

void QueueSet::ClearQueue(int queue) {
  Queue& q = queues_[queue];
  q.setup = {.size = model_.queue_max_size(queue)};
  q.enabled = false;
  q.base.reset();
  if (q.watched_fd >= 0 && q.watched_fd == q.lent_kick_fd) RetireWatch(q);
  q.lent_kick_fd = -1;
  q.lent_call_fd = -1;
  q.kick.Drain();  // What was signalled before belongs to a life that is over.
}

void QueueSet::DrainCalls() {
  for (const Queue& queue : queues_) queue.call.Drain();
}

void QueueSet::LendEventFds(int queue, int kick_fd, int call_fd) {
  queues_[queue].lent_kick_fd = kick_fd;
  queues_[queue].lent_call_fd = call_fd;
}

std::string QueueSet::Label(int queue) const {
  return absl::StrCat("queue ", queue, " (", model_.role(queue, acked_).name, ")");
}

absl::StatusOr<Vring> QueueSet::Validate(int queue) const {
  const VringSetup& setup = queues_[queue].setup;
  const uint16_t max_size = model_.queue_max_size(queue);
  if (setup.size > max_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        Label(queue), ": size ", setup.size, " is more than the ", max_size, " that are offered"));
  }
  absl::StatusOr<Vring> vring = Vring::Create(setup, LayoutOf(acked_), *memory_);
  if (!vring.ok()) return kernel_abi::AddContext(vring.status(), Label(queue));
  return vring;
}

BackendVring QueueSet::ForBackend(int queue, const Vring& vring) {
  const Queue& q = queues_[queue];
  return {.queue = queue,
          .vring = vring,
          .base = q.base.value_or(InitialBase(vring.layout())),
          .kick_fd = q.kick_in_use(),
          .call_fd = q.call_in_use()};
}

void QueueSet::GivenToBackend(int queue, const Vring& vring) {
  queues_[queue].server = Server::kBackend;
  queues_[queue].vring = vring;
}

absl::Status QueueSet::Start(VirtioFeatures acked, std::shared_ptr<const MemoryTable> memory,
                             std::optional<BackendKind> first) {
  if (running()) return absl::FailedPreconditionError("the queues run already");
  acked_ = acked;
  memory_ = std::move(memory);
  BackendStart start{.acked = acked_, .memory = memory_, .vrings = {}};
  std::vector<std::pair<int, Vring>> local;
  absl::Status status;
  for (int queue = 0; queue < count() && status.ok(); ++queue) {
    // A queue that was local in an earlier life must not have its kicks read here any more: nor one
    // that is enabled later, when a watch could not be destroyed.
    if (!model_.role(queue, acked_).local) RetireWatch(queues_[queue]);
    if (!queues_[queue].enabled) continue;
    // Queues that are not active yet are checked as well: a driver learns of it now or never.
    absl::StatusOr<Vring> vring = Validate(queue);
    if (!vring.ok()) {
      status = vring.status();
    } else if (model_.role(queue, acked_).local) {
      local.emplace_back(queue, *vring);
    } else if (model_.is_active(queue)) {
      start.vrings.push_back(ForBackend(queue, *vring));
    }
  }
  if (status.ok()) status = backends_.Start(start, first);
  if (!status.ok()) {
    memory_ = nullptr;
    return status;
  }
  for (const BackendVring& vring : start.vrings) GivenToBackend(vring.queue, vring.vring);
  for (const auto& [queue, vring] : local) {
    if (status = StartLocal(queue, vring); !status.ok()) {
      Stop();
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status QueueSet::CheckEnabled(VirtioFeatures acked,
                                    const std::shared_ptr<const MemoryTable>& memory) {
  if (running()) return absl::FailedPreconditionError("the queues run already");
  acked_ = acked;
  memory_ = memory;
  absl::Status status;
  for (int queue = 0; queue < count() && status.ok(); ++queue) {
    if (queues_[queue].enabled) status = Validate(queue).status();
  }
  memory_ = nullptr;
  return status;
}

std::vector<StoppedVring> QueueSet::Stop() {
  std::vector<StoppedVring> stopped = backends_.Stop();
  for (const StoppedVring& vring : stopped) {
    if (!Has(vring.queue)) continue;
    queues_[vring.queue].base = vring.base;
  }
  for (int queue = 0; queue < count(); ++queue) {
    if (queues_[queue].server == Server::kDevice) {
      StopLocal(queue);
      stopped.push_back({queue, *queues_[queue].base});
    }
    queues_[queue].server = Server::kNobody;
    queues_[queue].vring.reset();
  }
  memory_ = nullptr;
  must_stop_ = false;
  return stopped;
}

BackendSelector::Moved QueueSet::MoveTo(Backend& to, std::shared_ptr<const MemoryTable> memory,
                                        const std::string& why) {
  if (!running()) return {.status = absl::FailedPreconditionError("the queues do not run")};
  if (memory == nullptr) memory = memory_;
  if (absl::Status status = CheckMemory(*memory); !status.ok()) return {.status = status};
  // The rings are where they were in either table, so they need not be validated again.
  BackendStart start{.acked = acked_, .memory = memory, .vrings = {}};
  for (int queue = 0; queue < count(); ++queue) {
    if (queues_[queue].server != Server::kBackend) continue;
    start.vrings.push_back(ForBackend(queue, *queues_[queue].vring));
  }
  BackendSelector::Moved moved = backends_.MoveTo(to, start, memory_, why);
  if (moved.stopped_us.has_value()) {
    for (const BackendVring& vring : start.vrings) queues_[vring.queue].base = vring.base;
  }
  if (moved.nobody_runs) {
    must_stop_ = true;
    for (const BackendVring& vring : start.vrings) {
      queues_[vring.queue].server = Server::kNobody;
      queues_[vring.queue].vring.reset();
    }
  }
  if (moved.status.ok()) UseMemory(memory);
  return moved;
}

absl::Status QueueSet::StartLocal(int queue, const Vring& vring) {
  Queue& q = queues_[queue];
  const int kick_fd = q.kick_in_use();
  if (q.watched_fd != kick_fd) {
    RetireWatch(q);
    absl::StatusOr<std::unique_ptr<Watch>> watch =
        loop_.WatchReadable(kick_fd, [on_kick = on_kick_, queue] { on_kick(queue); });
    if (!watch.ok()) return kernel_abi::AddContext(watch.status(), Label(queue));
    q.watch = *std::move(watch);
    q.watched_fd = kick_fd;
  }
  const VringBase base = q.base.value_or(InitialBase(vring.layout()));
  std::unique_ptr<inprocess::Virtqueue> ring =
      inprocess::Virtqueue::Create(kernel_, vring, base, acked_, memory_, q.call_in_use());
  if (!ring->broken().ok()) return kernel_abi::AddContext(ring->broken(), Label(queue));
  q.ring = std::move(ring);
  q.vring = vring;
  q.server = Server::kDevice;
  // One kick and one call, as after every start: nothing that came before is missed.
  kernel_abi::EventFd::SignalEventFd(kernel_, kick_fd);
  q.ring->SignalAlways();
  return absl::OkStatus();
}

void QueueSet::StopLocal(int queue) {
  Queue& q = queues_[queue];
  q.base = q.ring->base();
  q.ring.reset();
  q.vring.reset();
  q.server = Server::kNobody;
}

absl::Status QueueSet::StartOnBackend(int queue, const Vring& vring) {
  Backend* backend = backends_.running();
  if (backend == nullptr) return absl::FailedPreconditionError("no backend runs");
  absl::Status status = backend->StartVring(ForBackend(queue, vring));
  if (!status.ok()) return kernel_abi::AddContext(status, Label(queue));
  GivenToBackend(queue, vring);
  return status;
}

absl::Status QueueSet::StopOnBackend(int queue) {
  Queue& q = queues_[queue];
  absl::StatusOr<VringBase> base = backends_.running()->StopVring(queue);
  if (!base.ok()) {
    must_stop_ = true;
    return kernel_abi::AddContext(base.status(), Label(queue));
  }
  q.base = *base;
  q.vring.reset();
  q.server = Server::kNobody;
  return absl::OkStatus();
}

absl::Status QueueSet::StartQueue(int queue) {
  Queue& q = queues_[queue];
  if (!running() || !q.enabled || q.server != Server::kNobody) return absl::OkStatus();
  absl::StatusOr<Vring> vring = Validate(queue);
  if (!vring.ok()) return vring.status();
  if (model_.role(queue, acked_).local) return StartLocal(queue, *vring);
  return model_.is_active(queue) ? StartOnBackend(queue, *vring) : absl::OkStatus();
}

absl::Status QueueSet::StopQueue(int queue) {
  switch (queues_[queue].server) {
    case Server::kNobody:
      return absl::OkStatus();
    case Server::kDevice:
      StopLocal(queue);
      return absl::OkStatus();
    case Server::kBackend:
      return StopOnBackend(queue);
  }
  return absl::OkStatus();
}

absl::Status QueueSet::ApplyActiveQueues() {
  if (!running()) return absl::OkStatus();
  std::vector<int> started;
  std::vector<int> stopped;
  absl::Status status;
  for (int queue = 0; queue < count() && status.ok(); ++queue) {
    const Queue& q = queues_[queue];
    if (!q.enabled || model_.role(queue, acked_).local) continue;
    const bool active = model_.is_active(queue);
    if (active && q.server == Server::kNobody) {
      status = StartQueue(queue);
      if (status.ok()) started.push_back(queue);
    } else if (!active && q.server == Server::kBackend) {
      status = StopQueue(queue);
      if (status.ok()) stopped.push_back(queue);
    }
  }
  if (status.ok()) return status;
  for (int queue : started) {
    if (absl::Status undo = StopQueue(queue); !undo.ok()) {
      status =
          kernel_abi::AddAdvice(status, absl::StrCat("and back: ", std::string(undo.message())));
    }
  }
  for (int queue : stopped) {
    // The model still says "not active"; what ran a moment ago is started all the same.
    absl::StatusOr<Vring> vring = Validate(queue);
    absl::Status undo = vring.ok() ? StartOnBackend(queue, *vring) : vring.status();
    if (!undo.ok()) {
      status =
          kernel_abi::AddAdvice(status, absl::StrCat("and back: ", std::string(undo.message())));
    }
  }
  return status;
}

absl::Status QueueSet::CheckMemory(const MemoryTable& memory) const {
  for (int queue = 0; queue < count(); ++queue) {
    const Queue& q = queues_[queue];
    if (q.vring.has_value() && !q.vring->SamePlaceIn(memory)) {
      return absl::FailedPreconditionError(
          absl::StrCat(Label(queue), " runs in the memory that is to go or to move"));
    }
  }
  return absl::OkStatus();
}

absl::Status QueueSet::SetMemory(const std::shared_ptr<const MemoryTable>& memory, bool* refused) {
  *refused = false;
  if (!running()) return absl::OkStatus();
  // Again, since a queue may have been started after the check.
  if (absl::Status status = CheckMemory(*memory); !status.ok()) return status;
  if (Backend* backend = backends_.running(); backend != nullptr) {
    if (absl::Status status = backend->SetMemory(memory); !status.ok()) {
      *refused = true;
      return status;
    }
  }
  UseMemory(memory);
  return absl::OkStatus();
}

void QueueSet::UseMemory(const std::shared_ptr<const MemoryTable>& memory) {
  for (Queue& q : queues_) {
    if (q.ring != nullptr) q.ring->SetMemory(memory);
  }
  memory_ = memory;
}

absl::Status QueueSet::SetCall(int queue, int call_fd) {
  Queue& q = queues_[queue];
  const int fd = call_fd >= 0 ? call_fd : q.call.get();
  if (q.server == Server::kBackend) {
    absl::Status status = backends_.running()->SetCall(queue, fd);
    if (!status.ok()) return kernel_abi::AddContext(status, Label(queue));
  }
  if (q.ring != nullptr) q.ring->SetCall(fd);
  q.lent_call_fd = call_fd;
  return absl::OkStatus();
}

absl::Status QueueSet::HandleKick(int queue) {
  Queue& q = queues_[queue];
  if (q.watched_fd >= 0) kernel_abi::EventFd::DrainEventFd(kernel_, q.watched_fd);
  if (q.ring == nullptr) return absl::OkStatus();  // Every start kicks: nothing is lost.
  absl::StatusOr<bool> more = model_.Serve(queue, *q.ring);
  if (!more.ok()) return kernel_abi::AddContext(more.status(), Label(queue));
  if (*more) KickLocal(queue);
  return absl::OkStatus();
}

void QueueSet::KickLocal(int queue) {
  const Queue& q = queues_[queue];
  if (q.ring != nullptr) kernel_abi::EventFd::SignalEventFd(kernel_, q.kick_in_use());
}

std::vector<QueueProgress> QueueSet::Progress() const {
  std::vector<QueueProgress> progress;
  for (int queue = 0; queue < count(); ++queue) {
    const Queue& q = queues_[queue];
    if (q.server != Server::kBackend) continue;
    QueueProgress now{.queue = queue, .prompt = model_.role(queue, acked_).prompt};
    if (q.vring->layout() == VringLayout::kSplit) {
      const VringIndices indices = ReadIndices(*q.vring);
      now.avail = indices.avail;
      now.used = indices.used;
    } else if (const std::optional<PackedPositions> at = Positions(queue)) {
      // How much the driver has made available is not known, but whether anything is.
      now.used = static_cast<uint16_t>(at->returned);
      now.avail = static_cast<uint16_t>(now.used + (at->taken != 0 || at->waiting ? 1 : 0));
    } else {
      continue;
    }
    progress.push_back(now);
  }
  return progress;
}

std::optional<PackedPositions> QueueSet::Positions(int queue) const {
  const Queue& q = queues_[queue];
  if (!q.vring.has_value() || q.vring->layout() != VringLayout::kPacked) return std::nullopt;
  if (q.ring != nullptr) return ReadPositions(*q.vring, q.ring->base(), q.ring->published());
  if (q.server != Server::kBackend) return std::nullopt;
  const std::optional<VringPosition> position = backends_.current().Position(queue);
  if (!position.has_value()) return std::nullopt;
  return ReadPositions(*q.vring, position->base, position->returned);
}

void QueueSet::KickAgain(int queue) const {
  kernel_abi::EventFd::SignalEventFd(kernel_, queues_[queue].kick_in_use());
}

void QueueSet::RetireWatch(Queue& queue) {
  if (queue.watch != nullptr) retired_.push_back(std::move(queue.watch));
  queue.watched_fd = -1;
}

void QueueSet::RetireAll() {
  for (Queue& queue : queues_) RetireWatch(queue);
}

std::vector<VringReport> QueueSet::Report(VirtioFeatures features,
                                          const MemoryTable& memory) const {
  std::vector<VringReport> reports;
  for (int queue = 0; queue < count(); ++queue) {
    const Queue& q = queues_[queue];
    VringReport report{.queue = queue,
                       .role = model_.role(queue, features).name,
                       .served_by = "none",
                       .enabled = q.enabled,
                       .active = q.server != Server::kNobody,
                       .max_size = model_.queue_max_size(queue),
                       .setup = q.setup,
                       .kick_fd = q.kick_in_use(),
                       .call_fd = q.call_in_use()};
    if (q.server == Server::kDevice) report.served_by = "device";
    if (q.server == Server::kBackend) {
      report.served_by = Name(backends_.current().kind());
      report.kick_count = ReadEventFdCount(kernel_, q.kick_in_use());
    }
    // Also of a ring that nobody serves any more: it shows where things stood.
    if (q.enabled && LayoutOf(features) == VringLayout::kSplit) {
      const absl::StatusOr<Vring> vring = Vring::Create(q.setup, VringLayout::kSplit, memory);
      if (vring.ok()) report.indices = ReadIndices(*vring);
    }
    report.positions = Positions(queue);
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace vhost
