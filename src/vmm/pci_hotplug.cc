// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/pci_hotplug.h"

#include <algorithm>
#include <utility>

#include "vhost/transport/register_map.h"

namespace vmm {

void PciHotplug::Announce(uint32_t slot) {
  {
    absl::MutexLock lock(&mutex_);
    plugged_ |= uint32_t{1} << slot;
    asked_ &= ~(uint32_t{1} << slot);
  }
  connections_.interrupt();
}

void PciHotplug::Ask(uint32_t slot) {
  {
    absl::MutexLock lock(&mutex_);
    asked_ |= uint32_t{1} << slot;
  }
  connections_.interrupt();
}

void PciHotplug::Reset() {
  absl::MutexLock lock(&mutex_);
  plugged_ = 0;
  asked_ = 0;
}

void PciHotplug::Read(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  // What was read in part would be lost: whole registers only.
  if (data.size() != sizeof(uint32_t)) return;
  absl::MutexLock lock(&mutex_);
  if (offset == kPlugged) vhost::StoreLittleEndian(data, std::exchange(plugged_, 0));
  if (offset == kAsked) vhost::StoreLittleEndian(data, std::exchange(asked_, 0));
}

void PciHotplug::Write(uint64_t offset, std::span<const std::byte> data) {
  if (offset != kEject || data.size() != sizeof(uint32_t)) return;
  const uint64_t slots = vhost::LoadLittleEndian(data);
  for (uint32_t slot = 0; slot < 32; ++slot) {
    if ((slots >> slot & 1) != 0) connections_.eject(slot);
  }
}

}  // namespace vmm
