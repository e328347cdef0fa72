// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhost/device/net_port.h"

namespace fakes {

// A network behind a device that keeps what it was told.
class FakeNetPort final : public vhost::NetPort {
 public:
  struct State {
    int header_bytes = 0;
    vhost::NetOffloads offloads;
    std::map<int, bool> attached;  // by pair
    vhost::ReceiveFilter filter;
    std::vector<std::string>* calls = nullptr;  // "attach 1", "detach 1" are added here

    // What it answers.
    int queue_pairs = 1;
    vhost::NetOffloads to_guest{true, true, true, true, true, true, true};
    vhost::NetOffloads from_guest{true, true, true, true, true, true, true};
    absl::Status header_error;
    absl::Status offload_error;
    int link_fd = -1;
    Link link;
    std::map<int, absl::Status> attach_errors;
    std::map<int, absl::Status> detach_errors;
  };
  explicit FakeNetPort(std::shared_ptr<State> state) : state_(std::move(state)) {}

  int queue_pairs() const override { return state_->queue_pairs; }
  vhost::NetOffloads to_guest() const override { return state_->to_guest; }
  vhost::NetOffloads from_guest() const override { return state_->from_guest; }
  absl::Status SetHeaderBytes(int bytes) override {
    if (state_->header_error.ok()) state_->header_bytes = bytes;
    return state_->header_error;
  }
  absl::Status SetOffloads(const vhost::NetOffloads& offloads) override {
    if (state_->offload_error.ok()) state_->offloads = offloads;
    return state_->offload_error;
  }
  absl::Status SetQueueAttached(int pair, bool attached) override {
    const auto& errors = attached ? state_->attach_errors : state_->detach_errors;
    if (const auto error = errors.find(pair); error != errors.end()) return error->second;
    const bool before = std::exchange(state_->attached[pair], attached);
    if (state_->calls != nullptr && before != attached) {
      state_->calls->push_back(absl::StrCat(attached ? "attach " : "detach ", pair));
    }
    return absl::OkStatus();
  }
  std::string SetReceiveFilter(const vhost::ReceiveFilter& filter) override {
    state_->filter = filter;
    return "fake";
  }
  int link_fd() const override { return state_->link_fd; }
  Link ReadLink() override { return state_->link; }
  vhost::TapReport Report() const override { return {.name = "fake0"}; }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace fakes
