// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/backend.h"
#include "vhost/offload.h"
#include "vhost/report.h"

namespace vhost {

// One that might serve a device: a backend, or the reason why there is none (no node, no
// permission), which is kept for whoever asks why it does not serve.
struct BackendCandidate {
  BackendKind kind = BackendKind::kKernel;
  absl::StatusOr<std::unique_ptr<Backend>> backend;
};

// Which backend serves a device, and why not the one before it. Candidates are in order of
// preference. One of them at a time runs; the first that starts does.
//
// Thread safety: as Backend: one call at a time.
class BackendSelector {
 public:
  // Keeps the candidates that `policy` allows. Under kRequire and kNever, and when no candidate is
  // left, an error says why, with the refused candidate's own error (code and payloads) in it.
  static absl::StatusOr<BackendSelector> Create(OffloadPolicy policy,
                                                std::vector<BackendCandidate> candidates);

  OffloadPolicy policy() const { return policy_; }

  // Those of `wanted` that every candidate can serve, so that moving between them is always legal.
  VirtioFeatures Supported(VirtioFeatures wanted) const;
  // OK if the running backend could take `memory`, or, while none runs, any candidate.
  absl::Status CheckMemory(const MemoryTable& memory) const;

  // As Backend::Start, with the first candidate that manages. The refusals of those before it are
  // kept; if all refuse, the error names each with its reason.
  absl::Status Start(const BackendStart& start);
  std::vector<StoppedVring> Stop();

  // The one that runs; nullptr if none does.
  Backend* running() const { return running_; }
  // The one that runs, or would be tried first.
  Backend& current() const;
  std::span<const std::unique_ptr<Backend>> backends() const { return backends_; }
  // Candidates that stand before the one that serves, and why they do not.
  std::vector<RefusalReport> refusals() const;

  // See Backend::ReleaseFds. Of no use afterwards.
  std::vector<kernel_abi::UniqueFd> ReleaseFds();

 private:
  BackendSelector(OffloadPolicy policy, std::vector<std::unique_ptr<Backend>> backends,
                  std::vector<RefusalReport> refused_at_creation)
      : policy_(policy),
        backends_(std::move(backends)),
        refused_at_creation_(std::move(refused_at_creation)) {}

  OffloadPolicy policy_;
  std::vector<std::unique_ptr<Backend>> backends_;  // at least one
  std::vector<RefusalReport> refused_at_creation_;
  std::vector<RefusalReport> refused_at_start_;  // the last one
  Backend* running_ = nullptr;
};

}  // namespace vhost
