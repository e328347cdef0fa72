// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "vhost/device/net_port.h"
#include "vhost/host/link.h"
#include "vhost/host/tap.h"

namespace vhost {

// A TAP behind a network device: queue n of the one is queue pair n of the other.
//
// The receive filter is the TAP's own (TUNSETTXFILTER): frames that the guest does not want are
// dropped before a vhost worker wakes up for them. It knows addresses, not VLANs, and takes at most
// eight addresses that are not of a group; a guest that asks for more gets everything.
class TapPort final : public NetPort {
 public:
  explicit TapPort(std::unique_ptr<Tap> tap);
  ~TapPort() override;

  const Tap& tap() const { return *tap_; }

  int queue_pairs() const override { return tap_->queues(); }
  NetOffloads to_guest() const override;
  NetOffloads from_guest() const override;
  absl::Status SetHeaderBytes(int bytes) override { return tap_->SetHeaderBytes(bytes); }
  absl::Status SetOffloads(const NetOffloads& offloads) override;
  absl::Status SetQueueAttached(int pair, bool attached) override {
    return tap_->SetQueueAttached(pair, attached);
  }
  std::string SetReceiveFilter(const ReceiveFilter& filter) override;
  int link_fd() const override { return watch_ == nullptr ? -1 : watch_->fd(); }
  Link ReadLink() override;
  TapReport Report() const override;

 private:
  // Drops nothing any more. What went wrong, if anything.
  absl::Status LetAllThrough();

  const std::unique_ptr<Tap> tap_;
  // For the interface's state in reports. Without it (no netlink in this sandbox) they leave it
  // out.
  mutable std::optional<Links> links_;
  std::unique_ptr<LinkWatch> watch_;  // nullptr: nobody tells what becomes of the interface
  bool is_filtering_ = false;
};

}  // namespace vhost
