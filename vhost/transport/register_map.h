// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A block of registers that a guest may touch with any access: aligned or not, across two
// registers, or a part of one. Device blocks are little endian (virtio 1.3, 4.1.3.1 and 4.2.2.2).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace vhost {

inline uint64_t LoadLittleEndian(std::span<const std::byte> from) {
  uint64_t value = 0;
  for (size_t i = 0; i < std::min(from.size(), sizeof(value)); ++i) {
    value |= std::to_integer<uint64_t>(from[i]) << (8 * i);
  }
  return value;
}

// Fills `to` with the low bytes of `value`; bytes from the ninth on become 0.
inline void StoreLittleEndian(std::span<std::byte> to, uint64_t value) {
  for (size_t i = 0; i < to.size(); ++i) {
    to[i] = i < sizeof(value) ? static_cast<std::byte>(value >> (8 * i)) : std::byte{0};
  }
}

struct Register {
  uint16_t offset;
  uint8_t size;  // bytes, at most 8
};

// Fills `to` with what is at `offset`: `read(offset)` gives the value of the register that starts
// there. Bytes that no register has read as 0.
template <typename ReadOne>
void ReadRegisters(std::span<const Register> map, uint64_t offset, std::span<std::byte> to,
                   ReadOne read) {
  std::ranges::fill(to, std::byte{0});
  for (const Register& reg : map) {
    const uint64_t first = std::max<uint64_t>(offset, reg.offset);
    const uint64_t end = std::min<uint64_t>(offset + to.size(), reg.offset + reg.size);
    if (first >= end) continue;
    const uint64_t value = read(reg.offset);
    StoreLittleEndian(to.subspan(first - offset, end - first), value >> (8 * (first - reg.offset)));
  }
}

// Calls `write(offset, value)` for each register that `from` reaches, lowest first. Of a register
// that is reached in part, the other bytes stay as `read(offset)` gives them.
template <typename ReadOne, typename WriteOne>
void WriteRegisters(std::span<const Register> map, uint64_t offset, std::span<const std::byte> from,
                    ReadOne read, WriteOne write) {
  for (const Register& reg : map) {
    const uint64_t first = std::max<uint64_t>(offset, reg.offset);
    const uint64_t end = std::min<uint64_t>(offset + from.size(), reg.offset + reg.size);
    if (first >= end) continue;
    const uint64_t bytes = LoadLittleEndian(from.subspan(first - offset, end - first));
    if (end - first == reg.size) {
      write(reg.offset, bytes);
      continue;
    }
    const uint64_t shift = 8 * (first - reg.offset);
    const uint64_t mask = ((uint64_t{1} << (8 * (end - first))) - 1) << shift;
    write(reg.offset, (read(reg.offset) & ~mask) | (bytes << shift));
  }
}

}  // namespace vhost
