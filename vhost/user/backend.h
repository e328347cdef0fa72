// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The backend whose vrings another process serves. All that is to say to that process is said by a
// Peer (peer.h); here is what a Backend owes its device: checks before anything is wanted, and the
// report.
//
// Start succeeds whether or not there is somebody to serve: what the driver makes available waits
// in the rings, and its kicks in their eventfds.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "vhost/backend.h"
#include "vhost/user/peer.h"

namespace vhost::user {

class UserBackend final : public Backend {
 public:
  explicit UserBackend(std::shared_ptr<Peer> peer);
  ~UserBackend() override;

  BackendKind kind() const override { return BackendKind::kVhostUser; }
  VirtioFeatures Supported(VirtioFeatures wanted) const override;
  absl::Status CheckMemory(const MemoryTable& memory) const override;
  absl::Status Start(const BackendStart& start) override;
  std::vector<StoppedVring> Stop() override;
  absl::Status StartVring(const BackendVring& vring) override;
  absl::StatusOr<VringBase> StopVring(int queue) override;
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory) override;
  absl::Status SetCall(int queue, int call_fd) override;
  int error_fd(int queue) const override;
  void CountError(int queue) override;
  BackendReport Report() const override;

 private:
  struct Slot {
    std::optional<BackendVring> vring;  // while it is wanted
    uint64_t errors = 0;
  };

  absl::Status CheckVring(const BackendVring& vring) const;
  bool Has(int queue) const { return queue >= 0 && queue < static_cast<int>(slots_.size()); }

  const std::shared_ptr<Peer> peer_;
  std::vector<Slot> slots_;  // by queue
  bool running_ = false;
  VirtioFeatures acked_;
};

}  // namespace vhost::user
