// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/memory_limits.h"

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/node.h"
#include "kernel-abi/vhost.h"

namespace vhost {
namespace {

uint32_t ReadParameter(kernel_abi::Kernel& kernel, const char* path, uint32_t fallback) {
  const absl::StatusOr<long> value = kernel_abi::ReadNumber(kernel, path);
  // A sandbox may have no /sys. Whatever a parameter below 1 means, the module takes nothing then.
  if (!value.ok()) return fallback;
  return *value < 0 ? 0 : static_cast<uint32_t>(*value);
}

absl::Status TooMany(const MemoryTable& table, const char* parameter, uint32_t limit) {
  const size_t needed = table.merged().size();
  return absl::ResourceExhaustedError(
      absl::StrCat("guest memory needs ", needed, " regions, and the vhost module takes ", limit,
                   " (", parameter, "); raise it: put `options vhost ", parameter, "=", needed,
                   "` into /etc/modprobe.d/vhost.conf and load the module anew (modprobe vhost ",
                   parameter, "=", needed, "), or use fewer, larger regions"));
}

}  // namespace

MemoryLimits MemoryLimits::Read(kernel_abi::Kernel& kernel) {
  return {.max_regions = ReadParameter(kernel, kernel_abi::kVhostMaxMemRegionsPath,
                                       kernel_abi::kVhostDefaultMaxMemRegions),
          .max_iotlb_entries = ReadParameter(kernel, kernel_abi::kVhostMaxIotlbEntriesPath,
                                             kernel_abi::kVhostDefaultMaxIotlbEntries)};
}

absl::Status MemoryLimits::Check(const MemoryTable& table) const {
  if (table.merged().size() > max_regions) return TooMany(table, "max_mem_regions", max_regions);
  if (table.merged().size() > max_iotlb_entries) {
    return TooMany(table, "max_iotlb_entries", max_iotlb_entries);
  }
  return absl::OkStatus();
}

}  // namespace vhost
