// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/virtio_mmio_legacy.h"

#include <algorithm>

#include "kernel-abi/virtio.h"
#include "vhost/transport/legacy.h"

namespace vhost {

uint32_t VirtioMmioLegacy::Read(uint64_t offset, int queue) const {
  if (offset != kernel_abi::kMmioQueuePfn || page_bytes_ == 0) return 0;
  return static_cast<uint32_t>(LegacyRing(device_, queue) / page_bytes_);
}

void VirtioMmioLegacy::Write(uint64_t offset, int queue, uint32_t value) {
  uint32_t& alignment = alignments_[static_cast<size_t>(queue)];
  if (offset == kernel_abi::kMmioQueueAlign) alignment = value;
  if (offset != kernel_abi::kMmioQueuePfn) return;
  // A ring whose page nobody can know is nowhere: not an address, and not the wish to take the
  // queue back.
  if (value != 0 && page_bytes_ == 0) return;
  WriteLegacyRing(device_, queue, uint64_t{value} * page_bytes_, alignment);
}

void VirtioMmioLegacy::Reset() {
  page_bytes_ = 0;
  std::ranges::fill(alignments_, 0);
}

}  // namespace vhost
