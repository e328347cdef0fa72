// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/virtio_pci_legacy.h"

#include <algorithm>

#include "kernel-abi/virtio.h"
#include "vhost/transport/legacy.h"
#include "vhost/transport/msix_table.h"
#include "vhost/transport/register_map.h"
#include "vhost/transport/selected_registers.h"

namespace vhost {
namespace {

namespace abi = kernel_abi;

constexpr Register kRegisters[] = {
    {abi::kPciLegacyDeviceFeatures, 4}, {abi::kPciLegacyDriverFeatures, 4},
    {abi::kPciLegacyQueuePfn, 4},       {abi::kPciLegacyQueueSize, 2},
    {abi::kPciLegacyQueueSelect, 2},    {abi::kPciLegacyQueueNotify, 2},
    {abi::kPciLegacyDeviceStatus, 1},   {abi::kPciLegacyIsr, 1},
    {abi::kPciLegacyConfigVector, 2},   {abi::kPciLegacyQueueVector, 2},
};

}  // namespace

uint32_t VirtioPciLegacy::header_bytes() const {
  return function_.msix_enabled() ? abi::kPciLegacyMsixBytes : abi::kPciLegacyBytes;
}

void VirtioPciLegacy::Read(uint64_t offset, std::span<std::byte> to) {
  const uint32_t header = header_bytes();
  const size_t here = offset < header ? std::min<size_t>(to.size(), header - offset) : 0;
  ReadRegisters(kRegisters, offset, to.first(here),
                [this](uint32_t at) { return ReadRegister(at); });
  if (here == to.size()) return;
  device_.ReadConfig(static_cast<uint32_t>(offset + here - header), to.subspan(here));
}

void VirtioPciLegacy::Write(uint64_t offset, std::span<const std::byte> from) {
  const uint32_t header = header_bytes();
  const size_t here = offset < header ? std::min<size_t>(from.size(), header - offset) : 0;
  WriteRegisters(
      kRegisters, offset, from.first(here), [this](uint32_t at) { return ReadRegister(at); },
      [this](uint32_t at, uint64_t value) { WriteRegister(at, value); });
  if (here == from.size()) return;
  device_.WriteConfig(static_cast<uint32_t>(offset + here - header), from.subspan(here));
}

uint64_t VirtioPciLegacy::ReadRegister(uint32_t offset) {
  switch (offset) {
    case abi::kPciLegacyDeviceFeatures:
      return FeatureWord(device_.offered_to_legacy(), 0);
    case abi::kPciLegacyDriverFeatures:
      return FeatureWord(device_.acked(), 0);
    case abi::kPciLegacyQueueSelect:
      return queue_select_;
    case abi::kPciLegacyDeviceStatus:
      return LegacyStatus(device_);
    case abi::kPciLegacyIsr:
      return function_.ReadIsr();
    case abi::kPciLegacyConfigVector:
      return function_.vector(device_.queue_count());
    default:
      return ReadQueueRegister(offset);
  }
}

uint64_t VirtioPciLegacy::ReadQueueRegister(uint32_t offset) const {
  const int queue = queue_select_;
  if (queue >= device_.queue_count()) return offset == abi::kPciLegacyQueueVector ? kNoVector : 0;
  switch (offset) {
    case abi::kPciLegacyQueuePfn:
      return LegacyRing(device_, queue) / abi::kPciLegacyPageBytes;
    case abi::kPciLegacyQueueSize:  // The driver cannot choose another.
      return device_.queue_max_size(queue);
    case abi::kPciLegacyQueueVector:
      return function_.vector(queue);
    default:
      return 0;
  }
}

void VirtioPciLegacy::WriteRegister(uint32_t offset, uint64_t value) {
  switch (offset) {
    case abi::kPciLegacyDriverFeatures:
      device_.WriteDriverFeatures(0, static_cast<uint32_t>(value));
      return;
    case abi::kPciLegacyQueueSelect:
      queue_select_ = static_cast<uint16_t>(value);
      return;
    case abi::kPciLegacyQueueNotify:
      function_.Notify(value);
      return;
    case abi::kPciLegacyDeviceStatus:
      function_.WriteLegacyStatus(static_cast<uint8_t>(value));
      return;
    case abi::kPciLegacyConfigVector:
      function_.SetVector(device_.queue_count(), static_cast<uint16_t>(value));
      return;
    default:
      WriteQueueRegister(offset, value);
  }
}

void VirtioPciLegacy::WriteQueueRegister(uint32_t offset, uint64_t value) {
  const int queue = queue_select_;
  if (queue >= device_.queue_count()) return;
  switch (offset) {
    case abi::kPciLegacyQueuePfn:
      // The queue's vector stays, as legacy drivers set it on their own.
      WriteLegacyRing(device_, queue, value * abi::kPciLegacyPageBytes, abi::kPciLegacyPageBytes);
      return;
    case abi::kPciLegacyQueueVector:
      function_.SetVector(queue, static_cast<uint16_t>(value));
      return;
    default:  // Others are read-only.
      return;
  }
}

}  // namespace vhost
