// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace vmm {

// What the tables have to say about a machine.
struct AcpiMachine {
  uint32_t cpus = 1;      // local APIC ids 0..cpus-1; at most 255
  bool has_8259s = true;  // beside the I/O APIC
  struct VirtioMmio {
    uint64_t address = 0;
    uint32_t size = 0;  // bytes
    uint32_t gsi = 0;
  };
  std::vector<VirtioMmio> virtio_mmio;
};

// RSDP, XSDT, FADT, FACS, MADT and DSDT (ACPI 6.5, chapter 5), as one block that belongs at guest
// address `base` (aligned to 64) with the RSDP first. A kernel finds by them: the CPUs, the I/O
// APIC, the power and reset registers, the serial port, the PCI host bridge with its windows and
// INTx wiring, and the virtio-mmio devices (which nothing else would tell it about).
std::vector<std::byte> BuildAcpiTables(const AcpiMachine& machine, uint64_t base);

// The DSDT alone: the machine in AML.
std::string BuildDsdt(const AcpiMachine& machine);

}  // namespace vmm
