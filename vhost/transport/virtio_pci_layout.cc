// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/virtio_pci_layout.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>
#include <vector>

#include "kernel-abi/virtio.h"

namespace vhost {
namespace {

constexpr uint8_t kCapabilityMsix = 0x11;
constexpr uint8_t kCapabilityVendor = 0x09;

namespace abi = kernel_abi;

constexpr uint32_t kPageBytes = 0x1000;

void Append(std::vector<uint8_t>& body, uint32_t word) {
  for (int i = 0; i < 4; ++i) body.push_back(static_cast<uint8_t>(word >> (8 * i)));
}

// struct virtio_pci_cap from cap_len on, and room for `extra_bytes` more.
std::vector<uint8_t> VirtioCapability(uint8_t type, uint8_t bar, uint32_t offset, uint32_t length,
                                      uint8_t extra_bytes = 0) {
  std::vector<uint8_t> body = {static_cast<uint8_t>(16 + extra_bytes), type, bar, 0, 0, 0};
  Append(body, offset);
  Append(body, length);
  return body;
}

}  // namespace

VirtioPciLayout::VirtioPciLayout(VirtioPciForm wanted, int queues, uint32_t config_bytes,
                                 const MsixTable& msix)
    : form(wanted),
      notify_bytes(
          std::max(kPageBytes, std::bit_ceil(static_cast<uint32_t>(queues) * kNotifyStride))),
      legacy_bar_bytes(std::bit_ceil(uint64_t{abi::kPciLegacyMsixBytes} + config_bytes)),
      virtio_bar_bytes(std::bit_ceil(uint64_t{kNotifyOffset} + notify_bytes)),
      pending_offset((msix.table_bytes() + kPageBytes / 2 - 1) / (kPageBytes / 2) *
                     (kPageBytes / 2)) {
  msix_bar_bytes = std::bit_ceil(
      std::max<uint64_t>(kPageBytes, uint64_t{pending_offset} + msix.pending_bytes()));
}

VirtioPciCapabilities AddTo(PciConfigSpace& space, const VirtioPciLayout& layout,
                            const MsixTable& msix) {
  using Layout = VirtioPciLayout;
  VirtioPciCapabilities capabilities;
  if (HasLegacy(layout.form)) {
    space.AddBar(Layout::kLegacyBar, layout.legacy_bar_bytes, PciConfigSpace::BarType::kIo);
  }
  if (msix.size() != 0) {
    space.AddBar(Layout::kMsixBar, layout.msix_bar_bytes, PciConfigSpace::BarType::k32Bit);
    std::vector<uint8_t> body;
    const uint16_t last = static_cast<uint16_t>(msix.size() - 1);
    body.push_back(static_cast<uint8_t>(last));
    body.push_back(static_cast<uint8_t>(last >> 8));
    Append(body, Layout::kMsixBar);  // table: offset 0
    Append(body, layout.pending_offset | Layout::kMsixBar);
    constexpr std::array<uint8_t, 2> kWritable = {
        0, (MsixTable::kEnable | MsixTable::kFunctionMask) >> 8};
    capabilities.msix = space.AddCapability(kCapabilityMsix, body, kWritable);
  }
  if (!HasModern(layout.form)) return capabilities;
  space.AddBar(Layout::kVirtioBar, layout.virtio_bar_bytes,
               PciConfigSpace::BarType::k64BitPrefetchable);
  const auto add = [&space](const std::vector<uint8_t>& body,
                            std::span<const uint8_t> writable = {}) {
    return space.AddCapability(kCapabilityVendor, body, writable);
  };
  add(VirtioCapability(abi::kPciCapCommonCfg, Layout::kVirtioBar, Layout::kCommonOffset,
                       Layout::kCommonBytes));
  add(VirtioCapability(abi::kPciCapIsrCfg, Layout::kVirtioBar, Layout::kIsrOffset,
                       Layout::kIsrBytes));
  add(VirtioCapability(abi::kPciCapDeviceCfg, Layout::kVirtioBar, Layout::kDeviceOffset,
                       Layout::kDeviceBytes));
  std::vector<uint8_t> notify = VirtioCapability(abi::kPciCapNotifyCfg, Layout::kVirtioBar,
                                                 Layout::kNotifyOffset, layout.notify_bytes, 4);
  Append(notify, Layout::kNotifyStride);
  add(notify);
  // The window through which firmware that maps no BAR reaches them (virtio 1.3, 4.1.4.9): BAR,
  // offset, length and data are the driver's to write.
  std::vector<uint8_t> window = VirtioCapability(abi::kPciCapPciCfg, 0, 0, 0, 4);
  Append(window, 0);
  std::vector<uint8_t> writable(window.size(), 0);
  writable[2] = 0xff;
  std::fill(writable.begin() + 6, writable.end(), uint8_t{0xff});
  capabilities.window = add(window, writable);
  return capabilities;
}

}  // namespace vhost
