// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "vhost/backend.h"

namespace fakes {

// A backend that keeps what it was given and serves nothing. Its state is public: a test looks at
// what the world is like after a call. One that outlives the device that owns it: State.
class FakeBackend final : public vhost::Backend {
 public:
  struct State {
    bool running = false;
    vhost::VirtioFeatures acked;
    std::shared_ptr<const vhost::MemoryTable> memory;
    std::map<int, vhost::BackendVring> vrings;  // by queue
    std::map<int, vhost::VringBase> reached;    // where a ring got to; its base without an entry
    int starts = 0;
    int stops = 0;
    int prepares = 0;
    std::map<int, uint64_t> errors;
    std::map<int, vhost::VringPosition> positions;  // what it tells of packed rings
    std::vector<std::string> calls;  // "start 0 1", "start-vring 2", "stop-vring 2", "stop"

    // What it answers.
    std::vector<vhost::WorkerReport> workers;
    std::optional<vhost::VirtioFeatures> cannot;  // features that it does not serve
    bool holds_connections = false;
    absl::Status prepare_error;
    absl::Status start_error;
    absl::Status memory_error;
    std::map<int, absl::Status> start_vring_errors;  // by queue
    std::map<int, absl::Status> stop_vring_errors;
  };

  FakeBackend(std::shared_ptr<State> state, vhost::BackendKind kind = vhost::BackendKind::kKernel,
              int queues = 2)
      : state_(std::move(state)), kind_(kind) {
    for (int queue = 0; queue < queues; ++queue) {
      errors_.push_back(*kernel_abi::EventFd::Create(kernel_abi::LinuxKernel()));
    }
  }
  ~FakeBackend() override { Stop(); }

  vhost::BackendKind kind() const override { return kind_; }
  vhost::VirtioFeatures Supported(vhost::VirtioFeatures wanted) const override {
    return wanted - state_->cannot.value_or(vhost::VirtioFeatures());
  }
  absl::Status CheckMemory(const vhost::MemoryTable&) const override {
    return state_->memory_error;
  }
  absl::Status Prepare(const vhost::BackendStart&) override {
    if (state_->running) return absl::FailedPreconditionError("fake backend runs already");
    ++state_->prepares;
    return state_->prepare_error;
  }
  absl::Status Start(const vhost::BackendStart& start) override {
    if (state_->running) return absl::FailedPreconditionError("fake backend runs already");
    if (!state_->start_error.ok()) return state_->start_error;
    state_->running = true;
    state_->acked = start.acked;
    state_->memory = start.memory;
    ++state_->starts;
    std::string call = "start";
    for (const vhost::BackendVring& vring : start.vrings) {
      state_->vrings.insert_or_assign(vring.queue, vring);
      absl::StrAppend(&call, " ", vring.queue);
    }
    state_->calls.push_back(call);
    return absl::OkStatus();
  }
  std::vector<vhost::StoppedVring> Stop() override {
    std::vector<vhost::StoppedVring> stopped;
    if (!state_->running) return stopped;
    for (const auto& [queue, vring] : state_->vrings) stopped.push_back({queue, Reached(queue)});
    state_->vrings.clear();
    state_->memory = nullptr;
    state_->running = false;
    ++state_->stops;
    state_->calls.push_back("stop");
    return stopped;
  }
  absl::Status StartVring(const vhost::BackendVring& vring) override {
    if (!state_->running) return absl::FailedPreconditionError("fake backend does not run");
    if (const auto error = state_->start_vring_errors.find(vring.queue);
        error != state_->start_vring_errors.end()) {
      return error->second;
    }
    state_->vrings.insert_or_assign(vring.queue, vring);
    state_->calls.push_back(absl::StrCat("start-vring ", vring.queue));
    return absl::OkStatus();
  }
  absl::StatusOr<vhost::VringBase> StopVring(int queue) override {
    if (const auto error = state_->stop_vring_errors.find(queue);
        error != state_->stop_vring_errors.end()) {
      return error->second;
    }
    const vhost::VringBase base = Reached(queue);
    if (state_->vrings.erase(queue) == 0) return absl::NotFoundError("no such vring runs");
    state_->calls.push_back(absl::StrCat("stop-vring ", queue));
    return base;
  }
  absl::Status SetMemory(const std::shared_ptr<const vhost::MemoryTable>& memory) override {
    if (!state_->memory_error.ok()) return state_->memory_error;
    state_->memory = memory;
    return absl::OkStatus();
  }
  absl::Status SetCall(int queue, int call_fd) override {
    const auto vring = state_->vrings.find(queue);
    if (vring != state_->vrings.end()) vring->second.call_fd = call_fd;
    return absl::OkStatus();
  }
  std::optional<vhost::VringPosition> Position(int queue) const override {
    const auto position = state_->positions.find(queue);
    if (position == state_->positions.end()) return std::nullopt;
    return position->second;
  }
  int error_fd(int queue) const override {
    return queue < static_cast<int>(errors_.size()) ? errors_[queue].get() : -1;
  }
  void CountError(int queue) override { ++state_->errors[queue]; }
  bool holds_connections() const override { return state_->holds_connections; }
  vhost::BackendReport Report() const override {
    vhost::BackendReport report;
    report.kind = kind_;
    report.node = "fake";
    report.running = state_->running;
    report.workers = state_->workers;
    return report;
  }

  // The ring `queue` turns out to be broken.
  void SignalError(int queue) const { errors_[queue].Signal(); }

 private:
  vhost::VringBase Reached(int queue) const {
    const auto reached = state_->reached.find(queue);
    if (reached != state_->reached.end()) return reached->second;
    const auto vring = state_->vrings.find(queue);
    return vring == state_->vrings.end() ? 0 : vring->second.base;
  }

  std::shared_ptr<State> state_;
  vhost::BackendKind kind_;
  std::vector<kernel_abi::EventFd> errors_;
};

}  // namespace fakes
