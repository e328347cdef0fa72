// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where a virtio-pci function keeps what, and the capabilities that tell the driver (virtio 1.3,
// 4.1.4):
//
//   BAR 0   I/O space: the legacy interface (4.1.4.10), of functions that have one
//   BAR 1   32 bits, MSI-X: table, then pending bits
//   BAR 4   64 bits (and 5), prefetchable: four structures, each on pages of its own
//             0x0000  common configuration     0x1000  ISR status
//             0x2000  device configuration     0x3000  notification, 4 bytes a queue
//
// These are the BARs that QEMU's modern devices have, which drivers of all ages have seen. A page
// of its own for each structure lets a VMM treat notification apart from the rest. Every queue has
// a notify address of its own, so that an ioeventfd needs no datamatch.
//
// A transitional function has both BAR 0 and BAR 4; one that is legacy alone has no BAR 4 and none
// of the capabilities that lead there.
#pragma once

#include <cstdint>

#include "vhost/transport/msix_table.h"
#include "vhost/transport/pci_config_space.h"

namespace vhost {

// Which drivers a function is for: those of virtio 1, those from before it, or both.
enum class VirtioPciForm : uint8_t { kModern, kTransitional, kLegacy };
constexpr bool HasLegacy(VirtioPciForm form) { return form != VirtioPciForm::kModern; }
constexpr bool HasModern(VirtioPciForm form) { return form != VirtioPciForm::kLegacy; }

struct VirtioPciLayout {
  static constexpr int kLegacyBar = 0;
  static constexpr int kMsixBar = 1;
  static constexpr int kVirtioBar = 4;
  static constexpr uint32_t kCommonOffset = 0x0000;
  static constexpr uint32_t kCommonBytes = 0x40;
  static constexpr uint32_t kIsrOffset = 0x1000;
  static constexpr uint32_t kIsrBytes = 1;
  static constexpr uint32_t kDeviceOffset = 0x2000;
  static constexpr uint32_t kDeviceBytes = 0x1000;
  static constexpr uint32_t kNotifyOffset = 0x3000;
  static constexpr uint32_t kNotifyStride = 4;  // notify_off_multiplier

  // For a device of `queues` virtqueues, with `config_bytes` of configuration, and a table of MSI-X
  // vectors (none: no BAR 1).
  VirtioPciLayout(VirtioPciForm form, int queues, uint32_t config_bytes, const MsixTable& msix);

  VirtioPciForm form;
  uint32_t notify_bytes;
  uint64_t legacy_bar_bytes;
  uint64_t virtio_bar_bytes;
  uint64_t msix_bar_bytes;
  uint32_t pending_offset;  // of MSI-X's pending bits, in their BAR
};

// Where capabilities whose registers are acted upon stand in configuration space.
struct VirtioPciCapabilities {
  uint8_t msix = 0;  // message control is 2 bytes into it; 0: no MSI-X
  // VIRTIO_PCI_CAP_PCI_CFG: BAR at +4, offset +8, length +12, data +16; 0: a legacy function
  uint8_t window = 0;
};

// Adds the BARs and the capabilities to `space`.
VirtioPciCapabilities AddTo(PciConfigSpace& space, const VirtioPciLayout& layout,
                            const MsixTable& msix);

}  // namespace vhost
