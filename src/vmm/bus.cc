// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/bus.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_format.h"

namespace vmm {

absl::Status Bus::Insert(absl::string_view name, uint64_t base, uint64_t size, BusDevice& device) {
  if (size == 0 || base + (size - 1) < base) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: no such range: %#x of %#x bytes", name, base, size));
  }
  absl::WriterMutexLock lock(&mutex_);
  // The only one that can overlap is the last that starts before our end.
  auto next = ranges_.upper_bound(base + (size - 1));
  if (next != ranges_.begin()) {
    const auto& [other_base, other] = *std::prev(next);
    if (other_base + (other.size - 1) >= base) {
      return absl::AlreadyExistsError(absl::StrFormat("%s: %#x of %#x bytes overlaps %s at %#x",
                                                      name, base, size, other.name, other_base));
    }
  }
  ranges_.emplace(base, Range{.size = size, .device = &device, .name = std::string(name)});
  return absl::OkStatus();
}

void Bus::Remove(uint64_t base) {
  absl::WriterMutexLock lock(&mutex_);
  ranges_.erase(base);
}

BusDevice* Bus::Find(uint64_t address, uint64_t size, uint64_t* offset) {
  absl::ReaderMutexLock lock(&mutex_);
  auto next = ranges_.upper_bound(address);
  if (next == ranges_.begin()) return nullptr;
  const auto& [base, range] = *std::prev(next);
  *offset = address - base;
  if (*offset >= range.size || range.size - *offset < size) return nullptr;
  return range.device;
}

void Bus::WaitForCalls() { absl::WriterMutexLock lock(&calls_); }

bool Bus::Read(uint64_t address, std::span<std::byte> data) {
  absl::ReaderMutexLock call(&calls_);
  uint64_t offset = 0;
  BusDevice* device = Find(address, data.size(), &offset);
  if (device == nullptr) {
    std::ranges::fill(data, std::byte{0xFF});
    return false;
  }
  device->Read(offset, data);
  return true;
}

bool Bus::Write(uint64_t address, std::span<const std::byte> data) {
  absl::ReaderMutexLock call(&calls_);
  uint64_t offset = 0;
  BusDevice* device = Find(address, data.size(), &offset);
  if (device == nullptr) return false;
  device->Write(offset, data);
  return true;
}

}  // namespace vmm
