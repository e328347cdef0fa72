// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/msix_table.h"

#include <utility>

#include "vhost/transport/register_map.h"

namespace vhost {
namespace {

constexpr uint32_t kVectorMasked = 1;  // of an entry's control word

}  // namespace

bool MsixTable::set_control(uint16_t control) {
  const uint16_t before = std::exchange(control_, control & (kEnable | kFunctionMask));
  return before != control_;
}

MsixTable::Message MsixTable::message(uint16_t vector) const {
  if (vector >= size()) return {};
  const Entry& entry = entries_[vector];
  return {.address = uint64_t{entry.words[1]} << 32 | entry.words[0], .data = entry.words[2]};
}

bool MsixTable::Sends(uint16_t vector) const {
  return vector < size() && (control_ & (kEnable | kFunctionMask)) == kEnable &&
         (entries_[vector].words[3] & kVectorMasked) == 0;
}

void MsixTable::Read(uint64_t offset, std::span<std::byte> to) const {
  for (size_t i = 0; i < to.size(); ++i) {
    const uint64_t at = offset + i;
    if (at >= table_bytes()) {
      to[i] = std::byte{0};
      continue;
    }
    const uint32_t word = entries_[at / kEntryBytes].words[at % kEntryBytes / 4];
    to[i] = static_cast<std::byte>(word >> (8 * (at % 4)));
  }
}

std::optional<uint16_t> MsixTable::Write(uint64_t offset, std::span<const std::byte> from) {
  if ((from.size() != 4 && from.size() != 8) || offset % from.size() != 0) return std::nullopt;
  if (offset >= table_bytes()) return std::nullopt;
  Entry& entry = entries_[offset / kEntryBytes];
  for (size_t i = 0; i < from.size(); i += 4) {
    const size_t word = (offset + i) % kEntryBytes / 4;
    uint32_t value = static_cast<uint32_t>(LoadLittleEndian(from.subspan(i, 4)));
    if (word == 0) value &= ~uint32_t{3};  // reserved bits of the message address
    if (word == 3) value &= kVectorMasked;
    entry.words[word] = value;
  }
  return static_cast<uint16_t>(offset / kEntryBytes);
}

void MsixTable::ReadPending(uint64_t offset, std::span<std::byte> to,
                            const std::function<bool(uint16_t)>& pending) const {
  for (size_t i = 0; i < to.size(); ++i) {
    unsigned bits = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
      const uint64_t vector = (offset + i) * 8 + bit;
      if (vector < size() && pending(static_cast<uint16_t>(vector))) bits |= 1u << bit;
    }
    to[i] = static_cast<std::byte>(bits);
  }
}

void MsixTable::Reset() {
  control_ = 0;
  for (Entry& entry : entries_) entry = Entry{{0, 0, 0, kVectorMasked}};
}

}  // namespace vhost
