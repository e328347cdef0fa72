// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <poll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "vhost/event_loop.h"

namespace fakes {

// An event loop that runs when the test says so, on the test's thread.
class ManualLoop final : public vhost::EventLoop {
 public:
  absl::StatusOr<std::unique_ptr<vhost::Watch>> WatchReadable(
      int fd, std::function<void()> ready) override {
    if (fail_next_watch) {
      fail_next_watch = false;
      return absl::ResourceExhaustedError("event loop: no more watches");
    }
    const uint64_t id = next_id_++;
    entries_[id] = {fd, std::make_shared<std::function<void()>>(std::move(ready))};
    return std::make_unique<ManualWatch>(this, id);
  }

  // Calls what is ready, until nothing is or `rounds` are over. Returns how many calls there were.
  int Pump(int rounds = 100) {
    int calls = 0;
    while (rounds-- > 0) {
      std::vector<uint64_t> ready;
      for (const auto& [id, entry] : entries_) {
        pollfd waiting{.fd = entry.fd, .events = POLLIN, .revents = 0};
        if (poll(&waiting, 1, 0) == 1) ready.push_back(id);
      }
      if (ready.empty()) break;
      for (const uint64_t id : ready) {
        const auto found = entries_.find(id);
        if (found == entries_.end()) continue;
        const std::shared_ptr<std::function<void()>> callback = found->second.ready;
        (*callback)();
        ++calls;
      }
    }
    return calls;
  }

  size_t watches() const { return entries_.size(); }
  bool Watches(int fd) const {
    for (const auto& [id, entry] : entries_) {
      if (entry.fd == fd) return true;
    }
    return false;
  }

  bool fail_next_watch = false;

 private:
  struct Entry {
    int fd;
    std::shared_ptr<std::function<void()>> ready;
  };
  class ManualWatch final : public vhost::Watch {
   public:
    ManualWatch(ManualLoop* loop, uint64_t id) : loop_(loop), id_(id) {}
    ~ManualWatch() override { loop_->entries_.erase(id_); }

   private:
    ManualLoop* loop_;
    uint64_t id_;
  };

  std::map<uint64_t, Entry> entries_;
  uint64_t next_id_ = 1;
};

}  // namespace fakes
