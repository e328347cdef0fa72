// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/virtio_pci_common.h"

#include "kernel-abi/virtio.h"
#include "vhost/transport/msix_table.h"
#include "vhost/transport/register_map.h"
#include "vhost/transport/selected_registers.h"

namespace vhost {
namespace {

namespace abi = kernel_abi;

// The 64-bit addresses are two registers each, as drivers write them (4.1.3.1).
constexpr Register kRegisters[] = {
    {abi::kPciCommonDeviceFeatureSelect, 4}, {abi::kPciCommonDeviceFeature, 4},
    {abi::kPciCommonDriverFeatureSelect, 4}, {abi::kPciCommonDriverFeature, 4},
    {abi::kPciCommonConfigMsixVector, 2},    {abi::kPciCommonNumQueues, 2},
    {abi::kPciCommonDeviceStatus, 1},        {abi::kPciCommonConfigGeneration, 1},
    {abi::kPciCommonQueueSelect, 2},         {abi::kPciCommonQueueSize, 2},
    {abi::kPciCommonQueueMsixVector, 2},     {abi::kPciCommonQueueEnable, 2},
    {abi::kPciCommonQueueNotifyOff, 2},      {abi::kPciCommonQueueDesc, 4},
    {abi::kPciCommonQueueDesc + 4, 4},       {abi::kPciCommonQueueDriver, 4},
    {abi::kPciCommonQueueDriver + 4, 4},     {abi::kPciCommonQueueDevice, 4},
    {abi::kPciCommonQueueDevice + 4, 4},     {abi::kPciCommonQueueNotifData, 2},
    {abi::kPciCommonQueueReset, 2},
};

}  // namespace

void VirtioPciCommon::Read(uint64_t offset, std::span<std::byte> to) const {
  ReadRegisters(kRegisters, offset, to, [this](uint32_t at) { return ReadRegister(at); });
}

void VirtioPciCommon::Write(uint64_t offset, std::span<const std::byte> from) {
  WriteRegisters(
      kRegisters, offset, from, [this](uint32_t at) { return ReadRegister(at); },
      [this](uint32_t at, uint64_t value) { WriteRegister(at, value); });
}

void VirtioPciCommon::Reset() {
  device_feature_select_ = 0;
  driver_feature_select_ = 0;
  queue_select_ = 0;
}

uint64_t VirtioPciCommon::ReadRegister(uint32_t offset) const {
  switch (offset) {
    case abi::kPciCommonDeviceFeatureSelect:
      return device_feature_select_;
    case abi::kPciCommonDeviceFeature:
      return FeatureWord(device_.offered(), device_feature_select_);
    case abi::kPciCommonDriverFeatureSelect:
      return driver_feature_select_;
    case abi::kPciCommonDriverFeature:
      return FeatureWord(device_.acked(), driver_feature_select_);
    case abi::kPciCommonConfigMsixVector:
      return function_.vector(device_.queue_count());
    case abi::kPciCommonNumQueues:
      return static_cast<uint64_t>(device_.queue_count());
    case abi::kPciCommonDeviceStatus:
      return device_.status();
    case abi::kPciCommonConfigGeneration:
      return device_.config_generation() & 0xff;
    case abi::kPciCommonQueueSelect:
      return queue_select_;
    default:
      return ReadQueueRegister(offset);
  }
}

uint64_t VirtioPciCommon::ReadQueueRegister(uint32_t offset) const {
  const int queue = queue_select_;
  if (queue >= device_.queue_count())
    return offset == abi::kPciCommonQueueMsixVector ? kNoVector : 0;
  switch (offset) {
    case abi::kPciCommonQueueSize:
      return QueueSize(device_, queue);
    case abi::kPciCommonQueueMsixVector:
      return function_.vector(queue);
    case abi::kPciCommonQueueEnable:
      return device_.queue_enabled(queue) ? 1 : 0;
    case abi::kPciCommonQueueNotifyOff:
      return queue_select_;
    case abi::kPciCommonQueueNotifData:
      return device_.acked().Has(VirtioFeature::kNotifConfigData) ? queue_select_ : 0;
    case abi::kPciCommonQueueReset:  // A reset is over before the write of it is (4.1.4.3.1).
      return 0;
    default:
      return ReadQueueAddress(device_, queue, (offset - abi::kPciCommonQueueDesc) / 4);
  }
}

void VirtioPciCommon::WriteRegister(uint32_t offset, uint64_t value) {
  const uint32_t word = static_cast<uint32_t>(value);
  switch (offset) {
    case abi::kPciCommonDeviceFeatureSelect:
      device_feature_select_ = word;
      return;
    case abi::kPciCommonDriverFeatureSelect:
      driver_feature_select_ = word;
      return;
    case abi::kPciCommonDriverFeature:
      if (driver_feature_select_ <= 3) device_.WriteDriverFeatures(driver_feature_select_, word);
      return;
    case abi::kPciCommonConfigMsixVector:
      function_.SetVector(device_.queue_count(), static_cast<uint16_t>(value));
      return;
    case abi::kPciCommonDeviceStatus:
      function_.WriteStatus(static_cast<uint8_t>(value));
      return;
    case abi::kPciCommonQueueSelect:
      queue_select_ = static_cast<uint16_t>(value);
      return;
    case abi::kPciCommonDeviceFeature:
    case abi::kPciCommonNumQueues:
    case abi::kPciCommonConfigGeneration:
      return;
    default:
      WriteQueueRegister(offset, word);
  }
}

void VirtioPciCommon::WriteQueueRegister(uint32_t offset, uint32_t value) {
  const int queue = queue_select_;
  if (queue >= device_.queue_count()) return;
  switch (offset) {
    case abi::kPciCommonQueueSize:
      WriteQueueSize(device_, queue, static_cast<uint16_t>(value));
      return;
    case abi::kPciCommonQueueMsixVector:
      function_.SetVector(queue, static_cast<uint16_t>(value));
      return;
    case abi::kPciCommonQueueEnable:  // Writing 0 is forbidden to the driver and does nothing
                                      // (4.1.4.3.2).
      if (value == 1) EnableQueue(device_, queue);
      return;
    case abi::kPciCommonQueueReset:
      if (value == 1 && device_.acked().Has(VirtioFeature::kRingReset)) function_.ResetQueue(queue);
      return;
    case abi::kPciCommonQueueNotifyOff:
    case abi::kPciCommonQueueNotifData:
      return;
    default:
      WriteQueueAddress(device_, queue, (offset - abi::kPciCommonQueueDesc) / 4, value);
  }
}

}  // namespace vhost
