// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "vhost/device/device.h"
#include "vhost/report.h"
#include "vhost/transport/wiring.h"

namespace vhost {

// The notify registers of a device's queues: each bound to the queue's kick eventfd, so that a
// guest's write does not leave the kernel. Where binding fails the write comes as an exit, Notify()
// does the same by hand, and the report says why.
//
// A binding is made once and kept over resets: taking one back costs milliseconds (KVM waits for
// an RCU grace period), and a kick eventfd that nobody listens to does no harm.
//
// Thread safety: none, its transport locks; Notify() from any thread at any time.
class QueueNotifiers {
 public:
  QueueNotifiers(Wiring& wiring, Device& device);

  // Binds queue N at `first` with its address raised by N * stride, and the datamatch by N if there
  // is one. What is bound elsewhere is unbound first; bound there already: nothing happens.
  void BindAt(const NotifyAddress& first, uint32_t stride);
  void Unbind();
  std::optional<uint64_t> address() const { return address_; }

  // The guest's notification of `queue` came as an exit. Queues that are not there are ignored.
  void Notify(uint64_t queue);

  // Rows "WHAT N".
  void Describe(absl::string_view what, std::vector<WiringReport>& rows) const;

 private:
  struct Queue {
    NotifyAddress address;
    std::unique_ptr<Registration> binding;
    std::string problem;
    std::atomic<uint64_t> exits = 0;
  };
  Wiring& wiring_;
  Device& device_;
  std::optional<uint64_t> address_;
  std::vector<Queue> queues_;
};

}  // namespace vhost
