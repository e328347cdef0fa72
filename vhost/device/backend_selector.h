// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
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
  // Makes it once more: one that was refused, when it is asked for by name; one that has failed for
  // good; and one that holds connections and was left. Empty: that is not possible. What it refers
  // to must live as long as the device.
  std::function<absl::StatusOr<std::unique_ptr<Backend>>()> make = nullptr;
  // It is not there (`backend` says so), and is made when all others fail or it is asked for. It
  // must be able to serve whatever the others can.
  bool on_demand = false;
};

// Which backend serves a device, and why not the one before it. Candidates are in order of
// preference. One of them at a time runs: the first that starts, or the one that it was moved to.
//
// Thread safety: as Backend: one call at a time.
class BackendSelector {
 public:
  using Clock = std::chrono::steady_clock;

  // Keeps the candidates that `policy` allows. Under kRequire and kNever, and when no candidate is
  // left, an error says why, with the refused candidate's own error (code and payloads) in it.
  static absl::StatusOr<BackendSelector> Create(OffloadPolicy policy,
                                                std::vector<BackendCandidate> candidates);

  OffloadPolicy policy() const { return policy_; }

  // Those of `wanted` that every candidate can serve, so that moving between them is always legal.
  VirtioFeatures Supported(VirtioFeatures wanted) const;
  // OK if `memory` could be served: by the one that runs, or by one that it could be moved to.
  absl::Status CheckMemory(const MemoryTable& memory) const;

  // As Backend::Start, with the first candidate that manages: `first` if given, then the one that
  // was asked for, then the others in order, then those that are barred. The refusals of those
  // before it are kept; if all refuse, the error names each with its reason.
  absl::Status Start(const BackendStart& start, std::optional<BackendKind> first = std::nullopt);
  std::vector<StoppedVring> Stop();

  // The one that could serve as `kind`, made anew if need be; or why there is none.
  absl::StatusOr<Backend*> Find(BackendKind kind);

  // How a move went.
  struct Moved {
    absl::Status status;  // OK: the other one serves
    // How long nobody served; without: nothing was stopped.
    std::optional<uint64_t> stopped_us;
    // Neither of the two could be started; nothing runs.
    bool nobody_runs = false;
  };
  // From the one that runs to `to`, which Find gave. `start` is what `to` is to be started with;
  // the bases in it are filled in from the stop. `old_memory` is what the running one has. All or
  // nothing: after an error the old one serves on, where the new one left off.
  Moved MoveTo(Backend& to, BackendStart& start,
               const std::shared_ptr<const MemoryTable>& old_memory, const std::string& why);

  // Starts try `kind` before any other from now on. FAILED_PRECONDITION: there is none.
  absl::Status Ask(BackendKind kind, const std::string& why);
  std::optional<BackendKind> asked() const { return asked_; }
  // Starts try `kind` after all others until `until`; Ask ends that too.
  void Bar(BackendKind kind, const std::string& why, Clock::time_point until);

  // The one that runs; nullptr if none does.
  Backend* running() const { return running_; }
  // The one that runs, or would be tried first.
  Backend& current() const;
  // All that there are at the moment, those in preference first.
  std::vector<Backend*> backends() const;
  // Another one that may serve, in the order of a start; nullopt: there is none.
  std::optional<BackendKind> Other() const;
  // Candidates that are preferred to the one that serves, and why they do not.
  std::vector<RefusalReport> refusals() const;

  // Closes a backend that was left, where what it holds (connections) is to end with that and it
  // can be made anew. It goes among the retired.
  void CloseLeft();
  // Backends that are over. Whoever watches their error eventfds ends that before they are
  // destroyed.
  [[nodiscard]] std::vector<std::unique_ptr<Backend>> TakeRetired();

  // See Backend::ReleaseFds. Of no use afterwards.
  std::vector<kernel_abi::UniqueFd> ReleaseFds();

 private:
  struct Candidate {
    BackendKind kind;
    std::unique_ptr<Backend> backend;  // nullptr: none at the moment
    std::function<absl::StatusOr<std::unique_ptr<Backend>>()> make;
    absl::Status why_not;  // the last reason why it does not serve
    std::optional<Clock::time_point> barred_until;
    bool was_started = false;  // since it was made
    bool is_left = false;      // closed by CloseLeft; made anew when it is its turn
  };

  BackendSelector(OffloadPolicy policy, std::vector<Candidate> candidates)
      : policy_(policy), candidates_(std::move(candidates)) {}

  Candidate* FindCandidate(BackendKind kind);
  Candidate& CandidateOf(const Backend& backend);
  // Indices of those that there are or that were left, in the order in which a start tries them.
  std::vector<size_t> Order(std::optional<BackendKind> first) const;
  absl::Status Renew(Candidate& candidate);

  OffloadPolicy policy_;
  std::vector<Candidate> candidates_;  // at least one with a backend
  std::optional<BackendKind> asked_;
  Backend* running_ = nullptr;
  std::vector<std::unique_ptr<Backend>> retired_;
};

}  // namespace vhost
