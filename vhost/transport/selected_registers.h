// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What both transports do with registers that select: features by words, queues by index. A
// transport calls with its lock held, so that reading a setup and writing it back is one step.
#pragma once

#include <cstdint>

#include "vhost/device/device.h"

namespace vhost {

// 32 bits of a feature set; words beyond the last are 0.
uint32_t FeatureWord(VirtioFeatures features, uint32_t word);

// A queue's size as the driver finds it: the largest until it wrote another.
uint16_t QueueSize(const Device& device, int queue);
void WriteQueueSize(Device& device, int queue, uint16_t size);

// 32 bits of the six halves of a queue's addresses: descriptor low, high, driver low, high, device
// low, high.
uint32_t ReadQueueAddress(const Device& device, int queue, uint32_t half);
void WriteQueueAddress(Device& device, int queue, uint32_t half, uint32_t value);

// Enables the queue, with the largest size if the driver wrote none.
void EnableQueue(Device& device, int queue);

}  // namespace vhost
