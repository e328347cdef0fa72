// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How much of a memory table the host's vhost module takes. Its answers to too much of it are a
// bare E2BIG, and none at all: beyond max_iotlb_entries it forgets the oldest regions silently, and
// the guest's I/O fails later. So a table is checked here first, before a guest is touched.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernel-abi/kernel.h"
#include "vhost/guest_memory.h"

namespace vhost {

struct MemoryLimits {
  uint32_t max_regions;        // max_mem_regions
  uint32_t max_iotlb_entries;  // max_iotlb_entries; one a region

  // As the module's parameters in /sys say, or its defaults where /sys cannot be read.
  static MemoryLimits Read(kernel_abi::Kernel& kernel);

  // RESOURCE_EXHAUSTED names the limit, how many regions are needed, and how to raise it.
  absl::Status Check(const MemoryTable& table) const;
};

}  // namespace vhost
