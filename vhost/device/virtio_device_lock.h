// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// VirtioDevice's lock, for the files that it is made of.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "vhost/device/virtio_device.h"

namespace vhost {

// Watches that ended while the lock was held are destroyed after its release: that may wait for
// their callback, which waits for the lock. So are backends that are over, which is slow.
class VirtioDevice::Lock {
 public:
  explicit Lock(VirtioDevice& device) ABSL_EXCLUSIVE_LOCK_FUNCTION(device.mutex_)
      : device_(device) {
    device_.mutex_.Lock();
  }
  ~Lock() ABSL_UNLOCK_FUNCTION() {
    const std::vector<std::unique_ptr<Backend>> backends = device_.backends_.TakeRetired();
    // Ended before the backends whose eventfds they watch.
    std::vector<std::unique_ptr<Watch>> watches = device_.queues_->TakeRetired();
    for (const std::unique_ptr<Backend>& backend : backends) {
      const auto found = device_.error_watches_.find(backend.get());
      if (found == device_.error_watches_.end()) continue;
      for (std::unique_ptr<Watch>& watch : found->second) watches.push_back(std::move(watch));
      device_.error_watches_.erase(found);
    }
    device_.mutex_.Unlock();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  VirtioDevice& device_;
};

}  // namespace vhost
