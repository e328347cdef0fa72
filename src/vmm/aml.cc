// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/aml.h"

#include <cstddef>

#include "absl/strings/str_split.h"

namespace vmm::aml {
namespace {

// Opcodes and prefixes (ACPI 6.5, 20.2).
constexpr char kZeroOp = 0x00;
constexpr char kOneOp = 0x01;
constexpr char kNameOp = 0x08;
constexpr char kBytePrefix = 0x0A;
constexpr char kWordPrefix = 0x0B;
constexpr char kDWordPrefix = 0x0C;
constexpr char kStringPrefix = 0x0D;
constexpr char kQWordPrefix = 0x0E;
constexpr char kScopeOp = 0x10;
constexpr char kBufferOp = 0x11;
constexpr char kPackageOp = 0x12;
constexpr char kMethodOp = 0x14;
constexpr char kDualNamePrefix = 0x2E;
constexpr char kMultiNamePrefix = 0x2F;
constexpr char kExtendedOp = 0x5B;
constexpr char kLocal0Op = 0x60;
constexpr char kStoreOp = 0x70;
constexpr char kAndOp = 0x7B;
constexpr char kNotifyOp = '\x86';
constexpr char kIfOp = '\xA0';
constexpr char kRegionOp = '\x80';  // these after kExtendedOp
constexpr char kFieldOp = '\x81';
constexpr char kDeviceOp = '\x82';

Term LittleEndian(uint64_t value, size_t bytes) {
  Term term;
  for (size_t i = 0; i < bytes; ++i) term.push_back(static_cast<char>(value >> (8 * i)));
  return term;
}

// PkgLength counts itself: 1 byte holds up to 63, 2 to 4 bytes hold 4 + 8n bits (20.2.4).
Term WithPackageLength(const Term& body) {
  if (body.size() + 1 <= 0x3F) return Term(1, static_cast<char>(body.size() + 1)) + body;
  size_t bytes = 2;
  while (body.size() + bytes >= size_t{1} << (8 * (bytes - 1) + 4)) ++bytes;
  const size_t length = body.size() + bytes;
  Term encoded(1, static_cast<char>((bytes - 1) << 6 | (length & 0xF)));
  return encoded + LittleEndian(length >> 4, bytes - 1) + body;
}

Term NameString(absl::string_view path) {
  Term encoded;
  if (!path.empty() && path[0] == '\\') {
    encoded.push_back('\\');
    path.remove_prefix(1);
  }
  const std::vector<std::string> segments = absl::StrSplit(path, '.', absl::SkipEmpty());
  if (segments.empty()) encoded.push_back(kZeroOp);  // NullName
  if (segments.size() == 2) encoded.push_back(kDualNamePrefix);
  if (segments.size() > 2) {
    encoded.push_back(kMultiNamePrefix);
    encoded.push_back(static_cast<char>(segments.size()));
  }
  for (std::string segment : segments) {
    segment.resize(4, '_');
    encoded += segment;
  }
  return encoded;
}

Term Buffer(const Term& bytes) {
  return Term(1, kBufferOp) + WithPackageLength(Integer(bytes.size()) + bytes);
}

// Address space descriptors (6.4.3.5) for a producer with fixed ends, decoded positively.
enum class Space : uint8_t { kMemory = 0, kIo = 1, kBus = 2 };
Term AddressSpace(Space space, uint8_t type_flags, uint64_t first, uint64_t last, size_t width) {
  const uint8_t tag = width == 2 ? 0x88 : width == 4 ? 0x87 : 0x8A;
  constexpr uint8_t kMinimumAndMaximumFixed = 0x0C;
  Term body;
  body.push_back(static_cast<char>(space));
  body.push_back(kMinimumAndMaximumFixed);
  body.push_back(static_cast<char>(type_flags));
  body += LittleEndian(0, width);  // granularity
  body += LittleEndian(first, width) + LittleEndian(last, width);
  body += LittleEndian(0, width);  // translation
  body += LittleEndian(last - first + 1, width);
  return LittleEndian(tag, 1) + LittleEndian(body.size(), 2) + body;
}

}  // namespace

Term Integer(uint64_t value) {
  if (value == 0) return Term(1, kZeroOp);
  if (value == 1) return Term(1, kOneOp);
  if (value <= 0xFF) return Term(1, kBytePrefix) + LittleEndian(value, 1);
  if (value <= 0xFFFF) return Term(1, kWordPrefix) + LittleEndian(value, 2);
  if (value <= 0xFFFF'FFFF) return Term(1, kDWordPrefix) + LittleEndian(value, 4);
  return Term(1, kQWordPrefix) + LittleEndian(value, 8);
}

Term String(absl::string_view text) {
  return Term(1, kStringPrefix) + std::string(text) + Term(1, '\0');
}

Term EisaId(absl::string_view id) {
  // Three letters of five bits, then four hexadecimal digits; big-endian (ACPI 6.5, 19.3.4).
  uint32_t value = 0;
  for (size_t i = 0; i < 3 && i < id.size(); ++i) {
    value = value << 5 | static_cast<uint32_t>(id[i] - 'A' + 1);
  }
  for (size_t i = 3; i < 7 && i < id.size(); ++i) {
    const char digit = id[i];
    value = value << 4 | static_cast<uint32_t>(digit <= '9' ? digit - '0' : digit - 'A' + 10);
  }
  return Term(1, kDWordPrefix) + LittleEndian(__builtin_bswap32(value), 4);
}

Term Package(const std::vector<Term>& elements) {
  Term body(1, static_cast<char>(elements.size()));
  for (const Term& element : elements) body += element;
  return Term(1, kPackageOp) + WithPackageLength(body);
}

Term Name(absl::string_view path, const Term& data) {
  return Term(1, kNameOp) + NameString(path) + data;
}

Term Scope(absl::string_view path, const Term& body) {
  return Term(1, kScopeOp) + WithPackageLength(NameString(path) + body);
}

Term Device(absl::string_view path, const Term& body) {
  return Term{kExtendedOp, kDeviceOp} + WithPackageLength(NameString(path) + body);
}

Term Method(absl::string_view path, uint8_t arguments, const Term& body) {
  return Term(1, kMethodOp) +
         WithPackageLength(NameString(path) + LittleEndian(arguments, 1) + body);
}

Term IoRegion(absl::string_view path, uint16_t base, uint8_t length) {
  constexpr char kSystemIo = 1;
  return Term{kExtendedOp, kRegionOp} + NameString(path) + Term(1, kSystemIo) + Integer(base) +
         Integer(length);
}

Term Registers32(absl::string_view region, const std::vector<std::string>& names) {
  constexpr char kDWordAccessNoLockPreserve = 3;
  Term body = NameString(region) + Term(1, kDWordAccessNoLockPreserve);
  for (const std::string& name : names) {
    constexpr char kBits = 32;  // as a package length, which it is
    body += NameString(name) + Term(1, kBits);
  }
  return Term{kExtendedOp, kFieldOp} + WithPackageLength(body);
}

Term Path(absl::string_view path) { return NameString(path); }

Term Local(uint8_t index) { return Term(1, static_cast<char>(kLocal0Op + index)); }

Term Store(const Term& value, const Term& to) { return Term(1, kStoreOp) + value + to; }

Term IfAnyBit(const Term& value, uint64_t mask, const Term& body) {
  const Term masked = Term(1, kAndOp) + value + Integer(mask) + Term(1, kZeroOp);  // to nowhere
  return Term(1, kIfOp) + WithPackageLength(masked + body);
}

Term Notify(absl::string_view path, uint8_t value) {
  return Term(1, kNotifyOp) + NameString(path) + Integer(value);
}

Term ResourceTemplate(const std::vector<Term>& descriptors) {
  Term bytes;
  for (const Term& descriptor : descriptors) bytes += descriptor;
  bytes += Term{'\x79', '\0'};  // end tag; a checksum of 0 counts as right
  return Buffer(bytes);
}

Term IoPorts(uint16_t base, uint8_t length) {
  constexpr char kDecodes16Bits = 1;
  return Term{'\x47', kDecodes16Bits} + LittleEndian(base, 2) + LittleEndian(base, 2) +
         LittleEndian(1, 1) + LittleEndian(length, 1);
}

Term IsaInterrupt(uint32_t irq) { return Term(1, '\x22') + LittleEndian(uint64_t{1} << irq, 2); }

Term Memory32(uint32_t base, uint32_t length) {
  constexpr char kReadWrite = 1;
  return Term(1, '\x86') + LittleEndian(9, 2) + Term(1, kReadWrite) + LittleEndian(base, 4) +
         LittleEndian(length, 4);
}

Term Interrupt(uint32_t gsi, Trigger trigger) {
  // Bit 0: consumer; bit 1: edge; bits 2 and 3 clear: active high, exclusive.
  const uint64_t flags = trigger == Trigger::kEdge ? 0b11 : 0b01;
  return Term(1, '\x89') + LittleEndian(6, 2) + LittleEndian(flags, 1) + LittleEndian(1, 1) +
         LittleEndian(gsi, 4);
}

Term BusNumbers(uint16_t first, uint16_t last) {
  return AddressSpace(Space::kBus, 0, first, last, 2);
}

Term IoWindow(uint16_t first, uint16_t last) {
  constexpr uint8_t kEntireRange = 3;
  return AddressSpace(Space::kIo, kEntireRange, first, last, 2);
}

Term MemoryWindow(uint32_t first, uint32_t last) {
  constexpr uint8_t kReadWriteNotCacheable = 1;
  return AddressSpace(Space::kMemory, kReadWriteNotCacheable, first, last, 4);
}

}  // namespace vmm::aml
