// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A socket device for a vhost-user front end, over unix sockets of this host
// (docs/vsock-in-process.md). Its event queue may be the front end's, or be set up here: there is
// never an event, since connections of a front end that comes back have gone on meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "vhost/inprocess/vsock_backend.h"
#include "vhost/user/served_device.h"

namespace vhost::user {

struct ServedVsockOptions {
  inprocess::InProcessVsockOptions backend;
  VirtioFeatures withheld;  // not to be offered, although they could be
};

class ServedVsock final : public ServedDevice {
 public:
  static absl::StatusOr<std::unique_ptr<ServedVsock>> Create(kernel_abi::Kernel& kernel,
                                                             ServedVsockOptions options);

  DeviceId id() const override { return DeviceId::kVsock; }
  Backend& backend() override { return *backend_; }
  int queue_count() const override { return 3; }
  bool is_served(int queue) const override { return queue < 2; }
  VirtioFeatures features() const override { return features_; }
  std::vector<std::byte> config() const override;
  // A driver that begins anew knows of no connection.
  void DriverIsNew() override { backend_->DropConnections(); }

 private:
  ServedVsock(std::unique_ptr<inprocess::InProcessVsockBackend> backend, VirtioFeatures features)
      : backend_(std::move(backend)), features_(features) {}

  const std::unique_ptr<inprocess::InProcessVsockBackend> backend_;
  const VirtioFeatures features_;
};

}  // namespace vhost::user
