// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vhost::kvm {

// Whoever owns a VM's GSI routing table. KVM takes the table as a whole, so there can be one owner
// only: RoutingTable (routing_table.h), or the VMM, where it has a table of its own.
//
// Thread safety: any thread. Transports call with locks of their own held: no calls back.
class MsiRouter {
 public:
  virtual ~MsiRouter() = default;
  // A GSI that nobody else uses. RESOURCE_EXHAUSTED if there is none.
  virtual absl::StatusOr<uint32_t> Allocate() = 0;
  virtual void Free(uint32_t gsi) = 0;
  // From when this returns, `gsi` sends that message.
  virtual absl::Status SetMessage(uint32_t gsi, uint64_t address, uint32_t data) = 0;
};

}  // namespace vhost::kvm
