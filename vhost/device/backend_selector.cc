// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/backend_selector.h"

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

}  // namespace

absl::StatusOr<BackendSelector> BackendSelector::Create(OffloadPolicy policy,
                                                        std::vector<BackendCandidate> candidates) {
  std::vector<std::unique_ptr<Backend>> backends;
  std::vector<RefusalReport> refused;
  std::optional<absl::Status> first_refusal;
  for (BackendCandidate& candidate : candidates) {
    if (!Allowed(policy, candidate.kind)) continue;
    if (candidate.backend.ok()) {
      backends.push_back(*std::move(candidate.backend));
      continue;
    }
    // Only what stands before a usable candidate was preferred to it.
    const absl::Status& status = candidate.backend.status();
    if (!first_refusal.has_value()) first_refusal = status;
    if (backends.empty()) refused.push_back({candidate.kind, std::string(status.message())});
  }
  if (backends.empty()) return NobodyLeft(policy, first_refusal);
  return BackendSelector(policy, std::move(backends), std::move(refused));
}

VirtioFeatures BackendSelector::Supported(VirtioFeatures wanted) const {
  for (const std::unique_ptr<Backend>& backend : backends_) wanted = backend->Supported(wanted);
  return wanted;
}

absl::Status BackendSelector::CheckMemory(const MemoryTable& memory) const {
  if (running_ != nullptr) return running_->CheckMemory(memory);
  absl::Status first;
  for (const std::unique_ptr<Backend>& backend : backends_) {
    absl::Status status = backend->CheckMemory(memory);
    if (status.ok()) return status;
    if (first.ok()) first = status;
  }
  return first;
}

absl::Status BackendSelector::Start(const BackendStart& start) {
  if (running_ != nullptr) return absl::FailedPreconditionError("a backend runs already");
  refused_at_start_.clear();
  absl::Status first;
  std::string others;
  for (const std::unique_ptr<Backend>& backend : backends_) {
    absl::Status status = backend->Start(start);
    if (status.ok()) {
      running_ = backend.get();
      return status;
    }
    refused_at_start_.push_back({backend->kind(), std::string(status.message())});
    status = kernel_abi::AddContext(status, absl::StrCat(Name(backend->kind()), " backend"));
    if (first.ok()) {
      first = status;
    } else {
      absl::StrAppend(&others, others.empty() ? "" : "; ", std::string(status.message()));
    }
  }
  return others.empty() ? first : kernel_abi::AddAdvice(first, others);
}

std::vector<StoppedVring> BackendSelector::Stop() {
  Backend* backend = std::exchange(running_, nullptr);
  return backend == nullptr ? std::vector<StoppedVring>{} : backend->Stop();
}

Backend& BackendSelector::current() const {
  return running_ != nullptr ? *running_ : *backends_.front();
}

std::vector<RefusalReport> BackendSelector::refusals() const {
  std::vector<RefusalReport> refusals = refused_at_creation_;
  refusals.insert(refusals.end(), refused_at_start_.begin(), refused_at_start_.end());
  return refusals;
}

std::vector<kernel_abi::UniqueFd> BackendSelector::ReleaseFds() {
  std::vector<kernel_abi::UniqueFd> fds;
  for (const std::unique_ptr<Backend>& backend : backends_) {
    for (kernel_abi::UniqueFd& fd : backend->ReleaseFds()) fds.push_back(std::move(fd));
  }
  return fds;
}

}  // namespace vhost
