// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/backend_selector.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

bool Allowed(OffloadPolicy policy, BackendKind kind) {
  const bool offloads = kind != BackendKind::kInProcess;
  switch (policy) {
    case OffloadPolicy::kRequire:
      return offloads;
    case OffloadPolicy::kPrefer:
      return true;
    case OffloadPolicy::kNever:
      return !offloads;
  }
  return false;
}

absl::Status NobodyLeft(OffloadPolicy policy, const std::optional<absl::Status>& refusal) {
  const std::string context = absl::StrCat("offload policy ", Name(policy));
  if (refusal.has_value()) {
    absl::Status status = kernel_abi::AddContext(*refusal, context);
    if (policy == OffloadPolicy::kPrefer) {
      status = kernel_abi::AddAdvice(status, "and no in-process backend was given to fall back to");
    }
    return status;
  }
  return absl::FailedPreconditionError(absl::StrCat(
      context, ": ",
      policy == OffloadPolicy::kNever ? "no in-process backend was given for this device"
                                      : "no backend was given for this device"));
}

absl::Status About(BackendKind kind, const absl::Status& status) {
  return kernel_abi::AddContext(status, absl::StrCat(Name(kind), " backend"));
}

// After a start that failed, or one that was cut short: a backend that served for a moment may have
// got on, and what it took it has used. Without that the next one would serve it a second time. A
// packed ring tells nothing from outside.
void AdvanceToUsed(BackendStart& start) {
  for (BackendVring& vring : start.vrings) {
    if (vring.vring.layout() != VringLayout::kSplit) continue;
    const uint16_t used = ReadIndices(vring.vring).used;
    const auto ahead = static_cast<uint16_t>(used - vring.base);
    if (ahead != 0 && ahead <= vring.vring.size()) vring.base = used;
  }
}

}  // namespace

absl::StatusOr<BackendSelector> BackendSelector::Create(OffloadPolicy policy,
                                                        std::vector<BackendCandidate> candidates) {
  std::vector<Candidate> kept;
  std::optional<absl::Status> first_refusal;
  bool any = false;
  for (BackendCandidate& candidate : candidates) {
    if (!Allowed(policy, candidate.kind)) continue;
    Candidate& keep = kept.emplace_back();
    keep.kind = candidate.kind;
    keep.make = std::move(candidate.make);
    keep.is_left = candidate.on_demand && !candidate.backend.ok() && keep.make != nullptr;
    if (candidate.backend.ok()) {
      keep.backend = *std::move(candidate.backend);
      any = true;
    } else if (!keep.is_left) {
      keep.why_not = candidate.backend.status();
      if (!first_refusal.has_value()) first_refusal = keep.why_not;
    }
  }
  if (!any) return NobodyLeft(policy, first_refusal);
  return BackendSelector(policy, std::move(kept));
}

VirtioFeatures BackendSelector::Supported(VirtioFeatures wanted) const {
  for (const Candidate& candidate : candidates_) {
    if (candidate.backend != nullptr) wanted = candidate.backend->Supported(wanted);
  }
  return wanted;
}

absl::Status BackendSelector::CheckMemory(const MemoryTable& memory) const {
  absl::Status first;
  if (running_ != nullptr) first = running_->CheckMemory(memory);
  if (running_ != nullptr && first.ok()) return first;
  for (const Candidate& candidate : candidates_) {
    // One that was left is asked when it is there again.
    if (candidate.is_left) return absl::OkStatus();
    if (candidate.backend == nullptr || candidate.backend.get() == running_) continue;
    absl::Status status = candidate.backend->CheckMemory(memory);
    if (status.ok()) return status;
    if (first.ok()) first = status;
  }
  return first;
}

std::vector<size_t> BackendSelector::Order(std::optional<BackendKind> first) const {
  const Clock::time_point now = Clock::now();
  const auto rank = [&](const Candidate& candidate) {
    if (first == candidate.kind) return 0;
    if (asked_ == candidate.kind) return 1;
    // To make it anew takes a while, and takes what the host may want otherwise (a CID).
    if (candidate.is_left) return 4;
    return candidate.barred_until.has_value() && now < *candidate.barred_until ? 3 : 2;
  };
  std::vector<size_t> order;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (candidates_[i].backend != nullptr || candidates_[i].is_left) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rank(candidates_[a]) < rank(candidates_[b]); });
  return order;
}

absl::Status BackendSelector::Start(const BackendStart& wanted, std::optional<BackendKind> first) {
  if (running_ != nullptr) return absl::FailedPreconditionError("a backend runs already");
  BackendStart start = wanted;
  absl::Status refusal;
  std::string others;
  for (const size_t i : Order(first)) {
    Candidate& candidate = candidates_[i];
    absl::Status status = candidate.is_left ? Renew(candidate) : absl::OkStatus();
    if (status.ok()) {
      candidate.was_started = true;
      status = candidate.backend->Start(start);
    }
    if (status.ok()) {
      candidate.why_not = absl::OkStatus();
      running_ = candidate.backend.get();
      return status;
    }
    candidate.why_not = status;
    status = About(candidate.kind, status);
    if (refusal.ok()) {
      refusal = status;
    } else {
      absl::StrAppend(&others, others.empty() ? "" : "; ", std::string(status.message()));
    }
    AdvanceToUsed(start);
  }
  return others.empty() ? refusal : kernel_abi::AddAdvice(refusal, others);
}

std::vector<StoppedVring> BackendSelector::Stop() {
  Backend* backend = std::exchange(running_, nullptr);
  return backend == nullptr ? std::vector<StoppedVring>{} : backend->Stop();
}

// ---- Moves -------------------------------------------------------------------------------------

BackendSelector::Candidate* BackendSelector::FindCandidate(BackendKind kind) {
  for (Candidate& candidate : candidates_) {
    if (candidate.kind == kind) return &candidate;
  }
  return nullptr;
}

BackendSelector::Candidate& BackendSelector::CandidateOf(const Backend& backend) {
  return *std::find_if(candidates_.begin(), candidates_.end(), [&](const Candidate& candidate) {
    return candidate.backend.get() == &backend;
  });
}

absl::Status BackendSelector::Renew(Candidate& candidate) {
  if (candidate.make == nullptr) return candidate.why_not;
  if (candidate.backend != nullptr) {
    // What it holds in the kernel (a CID) is wanted by its successor; it was slow to close before,
    // and nothing is stopped while it is.
    kernel_abi::CloseInParallel(candidate.backend->ReleaseFds());
    retired_.push_back(std::move(candidate.backend));
  }
  absl::StatusOr<std::unique_ptr<Backend>> made = candidate.make();
  if (!made.ok()) return candidate.why_not = made.status();
  candidate.backend = *std::move(made);
  candidate.is_left = false;
  candidate.was_started = false;
  candidate.why_not = absl::OkStatus();
  return absl::OkStatus();
}

absl::StatusOr<Backend*> BackendSelector::Find(BackendKind kind) {
  Candidate* candidate = FindCandidate(kind);
  if (candidate == nullptr) {
    return absl::FailedPreconditionError(
        Allowed(policy_, kind)
            ? absl::StrCat("no ", Name(kind), " backend was given for this device")
            : absl::StrCat("offload policy ", Name(policy_), " rules the ", Name(kind),
                           " backend out"));
  }
  if (candidate->backend == nullptr) {
    if (absl::Status status = Renew(*candidate); !status.ok()) return About(kind, status);
  }
  return candidate->backend.get();
}

BackendSelector::Moved BackendSelector::MoveTo(Backend& to, BackendStart& start,
                                               const std::shared_ptr<const MemoryTable>& old_memory,
                                               const std::string& why) {
  if (running_ == nullptr || running_ == &to) {
    return {.status = absl::FailedPreconditionError("no other backend runs")};
  }
  Backend& from = *running_;
  Candidate& target = CandidateOf(to);
  // Once prepared, it is the same backend, or a successor.
  const auto prepare = [&]() -> absl::Status {
    const VirtioFeatures cannot = start.acked - target.backend->Supported(start.acked);
    if (!cannot.empty()) {
      return absl::FailedPreconditionError("it does not offer all that the driver acked");
    }
    absl::Status status = target.backend->CheckMemory(*start.memory);
    return status.ok() ? target.backend->Prepare(start) : status;
  };
  absl::Status status = prepare();
  if (!status.ok() && target.make != nullptr && target.was_started) {
    // One that has failed for good stays so; another may do.
    if (Renew(target).ok()) status = prepare();
  }
  if (!status.ok()) {
    target.why_not = status;
    return {.status = About(target.kind, status)};
  }

  const Clock::time_point stopped_at = Clock::now();
  const auto elapsed_us = [stopped_at] {
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - stopped_at).count());
  };
  for (const StoppedVring& stopped : from.BeginStop()) {
    for (BackendVring& vring : start.vrings) {
      if (vring.queue == stopped.queue) vring.base = stopped.base;
    }
  }
  running_ = nullptr;
  status = target.backend->Start(start);
  if (status.ok()) {
    const uint64_t stopped_us = elapsed_us();
    from.FinishStop();
    target.was_started = true;
    target.why_not = absl::OkStatus();
    running_ = target.backend.get();
    // Of interest only where it would be preferred.
    if (Candidate& left = CandidateOf(from); &left < &target) {
      left.why_not = absl::UnavailableError(why);
    }
    return {.status = absl::OkStatus(), .stopped_us = stopped_us};
  }
  target.was_started = true;
  target.why_not = status;
  status = About(target.kind, status);
  AdvanceToUsed(start);
  BackendStart back = start;
  back.memory = old_memory;
  const absl::Status undo = from.Start(back);
  const uint64_t stopped_us = elapsed_us();
  if (undo.ok()) {
    running_ = &from;
    return {.status = status, .stopped_us = stopped_us};
  }
  from.FinishStop();
  CandidateOf(from).why_not = undo;
  return {.status = kernel_abi::AddAdvice(
              status, absl::StrCat("and back: ", std::string(About(from.kind(), undo).message()))),
          .stopped_us = stopped_us,
          .nobody_runs = true};
}

absl::Status BackendSelector::Ask(BackendKind kind, const std::string& why) {
  if (absl::StatusOr<Backend*> found = Find(kind); !found.ok()) return found.status();
  for (Candidate& candidate : candidates_) {
    if (candidate.kind == kind) {
      candidate.barred_until.reset();
      candidate.why_not = absl::OkStatus();
      break;  // Those behind it are not preferred anyway.
    }
    if (candidate.backend != nullptr) candidate.why_not = absl::UnavailableError(why);
  }
  asked_ = kind;
  return absl::OkStatus();
}

void BackendSelector::Bar(BackendKind kind, const std::string& why, Clock::time_point until) {
  Candidate* candidate = FindCandidate(kind);
  if (candidate == nullptr) return;
  candidate->barred_until = until;
  candidate->why_not = absl::UnavailableError(why);
  if (asked_ == kind) asked_.reset();
}

// ---- Who there is ------------------------------------------------------------------------------

Backend& BackendSelector::current() const {
  if (running_ != nullptr) return *running_;
  const std::vector<size_t> order = Order(std::nullopt);
  // There is always one: only what another has replaced is closed.
  const auto first = std::find_if(order.begin(), order.end(),
                                  [&](size_t i) { return candidates_[i].backend != nullptr; });
  return *candidates_[*first].backend;
}

std::vector<Backend*> BackendSelector::backends() const {
  std::vector<Backend*> backends;
  for (const Candidate& candidate : candidates_) {
    if (candidate.backend != nullptr) backends.push_back(candidate.backend.get());
  }
  return backends;
}

std::optional<BackendKind> BackendSelector::Other() const {
  for (const size_t i : Order(std::nullopt)) {
    if (running_ == nullptr || candidates_[i].backend.get() != running_) return candidates_[i].kind;
  }
  return std::nullopt;
}

std::vector<RefusalReport> BackendSelector::refusals() const {
  std::vector<RefusalReport> refusals;
  const Backend* serves = &current();
  bool is_behind = false;
  for (const Candidate& candidate : candidates_) {
    if (candidate.backend.get() == serves) is_behind = true;
    if (is_behind && running_ != nullptr) break;
    // Of those behind the one that would serve, only what was tried in vain is of interest.
    if (candidate.why_not.ok() || (is_behind && candidate.backend == nullptr)) continue;
    refusals.push_back({candidate.kind, std::string(candidate.why_not.message())});
  }
  return refusals;
}

void BackendSelector::CloseLeft() {
  for (Candidate& candidate : candidates_) {
    if (candidate.backend == nullptr || candidate.backend.get() == running_) continue;
    if (!candidate.was_started || candidate.make == nullptr) continue;
    if (!candidate.backend->holds_connections()) continue;
    retired_.push_back(std::move(candidate.backend));
    candidate.is_left = true;
  }
}

std::vector<std::unique_ptr<Backend>> BackendSelector::TakeRetired() {
  return std::exchange(retired_, {});
}

std::vector<kernel_abi::UniqueFd> BackendSelector::ReleaseFds() {
  std::vector<kernel_abi::UniqueFd> fds;
  for (const Candidate& candidate : candidates_) {
    if (candidate.backend == nullptr) continue;
    for (kernel_abi::UniqueFd& fd : candidate.backend->ReleaseFds()) fds.push_back(std::move(fd));
  }
  return fds;
}

}  // namespace vhost
