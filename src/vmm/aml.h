// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The part of the ACPI Machine Language (ACPI 6.5, chapter 20) that describes this machine: terms
// are strings of bytes, and bigger terms are built from smaller ones.
//
//   aml::Scope("\\_SB", aml::Device("COM1", aml::Name("_HID", aml::EisaId("PNP0501")) +
//                                           aml::Name("_CRS", aml::ResourceTemplate(...))))
//
// Names and sizes are ours, not the guest's: a wrong one is a bug here, and checked by the tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace vmm::aml {

using Term = std::string;

// Data.
Term Integer(uint64_t value);
Term String(absl::string_view text);
Term EisaId(absl::string_view id);  // "PNP0A03"
Term Package(const std::vector<Term>& elements);

// Objects. `path` may begin with a backslash and has four-letter segments divided by dots; shorter
// segments are padded with underscores.
Term Name(absl::string_view path, const Term& data);
Term Scope(absl::string_view path, const Term& body);
Term Device(absl::string_view path, const Term& body);

// Code. A method takes `arguments` of them and needs no more than these statements.
Term Method(absl::string_view path, uint8_t arguments, const Term& body);
// I/O ports as a region, and the region's content from its beginning as registers of 32 bits.
Term IoRegion(absl::string_view path, uint16_t base, uint8_t length);
Term Registers32(absl::string_view region, const std::vector<std::string>& names);
Term Path(absl::string_view path);  // what has that name
Term Local(uint8_t index);
Term Store(const Term& value, const Term& to);
// If any bit of `mask` is set in `value`.
Term IfAnyBit(const Term& value, uint64_t mask, const Term& body);
Term Notify(absl::string_view path, uint8_t value);

// A buffer of resource descriptors (ACPI 6.5, 6.4), each made by one of the functions below.
Term ResourceTemplate(const std::vector<Term>& descriptors);
// An I/O port range that the device itself decodes.
Term IoPorts(uint16_t base, uint8_t length);
// ISA interrupt: edge triggered, active high, exclusive.
Term IsaInterrupt(uint32_t irq);
Term Memory32(uint32_t base, uint32_t length);
enum class Trigger { kEdge, kLevel };
// Active high, exclusive.
Term Interrupt(uint32_t gsi, Trigger trigger);
// What a bridge passes on to the bus behind it.
Term BusNumbers(uint16_t first, uint16_t last);
Term IoWindow(uint16_t first, uint16_t last);
Term MemoryWindow(uint32_t first, uint32_t last);

}  // namespace vmm::aml
