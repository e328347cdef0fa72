// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where things are in the guest's address spaces and which interrupt belongs to whom. This is the
// one place that says so: memory, ACPI tables, devices and the boot code all take it from here.
#pragma once

#include <array>
#include <cstdint>

namespace vmm {

// Guest-physical memory:
//
//   0          RAM (below 1 MiB: page tables, zero page, command line, then ACPI tables)
//   1 MiB      RAM with the kernel; the initramfs at its upper end
//   3 GiB      the PCI hole: BAR window, then virtio-mmio, then the interrupt controllers
//   4 GiB      RAM, if there is more than 3 GiB of it
inline constexpr uint64_t kLowMemoryEnd = 0xC000'0000;
inline constexpr uint64_t kHighMemoryStart = 0x1'0000'0000;

inline constexpr uint64_t kBarWindowStart = 0xC000'0000;
inline constexpr uint64_t kBarWindowSize = 0x3E00'0000;  // up to kVirtioMmioStart
inline constexpr uint64_t kVirtioMmioStart = 0xFE00'0000;
inline constexpr uint64_t kVirtioMmioStride = 0x1000;
inline constexpr uint64_t kIoApicAddress = 0xFEC0'0000;
inline constexpr uint64_t kLocalApicAddress = 0xFEE0'0000;
// What KVM needs for real mode on Intel without "unrestricted guest": four pages that no memory
// and no device uses.
inline constexpr uint64_t kIdentityMapAddress = 0xFFFB'C000;
inline constexpr uint64_t kTssAddress = 0xFFFB'D000;

// Low memory that the boot code fills.
inline constexpr uint64_t kGdtAddress = 0x500;
inline constexpr uint64_t kZeroPageAddress = 0x7000;
inline constexpr uint64_t kPageTablesAddress = 0x9000;  // six pages
inline constexpr uint64_t kBootStackTop = 0x1'9000;
inline constexpr uint64_t kCommandLineAddress = 0x2'0000;
inline constexpr uint64_t kCommandLineMaxBytes = 0x1'0000;
inline constexpr uint64_t kLowRamEnd = 0x9'FC00;          // where a PC has its EBDA
inline constexpr uint64_t kAcpiTablesAddress = 0xE'0000;  // where a kernel looks for an RSDP
inline constexpr uint64_t kAcpiTablesEnd = 0x10'0000;
inline constexpr uint64_t kKernelAddress = 0x10'0000;

// I/O ports.
inline constexpr uint16_t kI8042DataPort = 0x60;
inline constexpr uint16_t kI8042CommandPort = 0x64;
inline constexpr uint16_t kCmosPort = 0x70;  // index, data
inline constexpr uint16_t kSerialPort = 0x3F8;
inline constexpr uint16_t kSerialPorts = 8;
inline constexpr uint16_t kPm1EventPort = 0x600;  // status (2), enable (2)
inline constexpr uint16_t kPm1ControlPort = 0x604;
inline constexpr uint16_t kPmTimerPort = 0x608;
inline constexpr uint16_t kPmPorts = 12;
inline constexpr uint16_t kHotplugPort = 0x620;  // PciHotplug's three registers
inline constexpr uint16_t kHotplugPorts = 12;
inline constexpr uint16_t kPciConfigPort = 0xCF8;  // address (4), data (4)
inline constexpr uint16_t kResetPort = 0xCF9;      // inside it, as on a PC
inline constexpr uint8_t kResetValue = 0x06;
inline constexpr uint16_t kBarPortsStart = 0xC000;  // BARs in I/O space
inline constexpr uint16_t kBarPorts = 0x4000;

// Global system interrupts. The I/O APIC has pins 0 to 23; pins below 16 are also ISA interrupts.
inline constexpr uint32_t kIoApicPins = 24;
inline constexpr uint32_t kRtcGsi = 8;
inline constexpr uint32_t kSerialGsi = 4;
inline constexpr uint32_t kSciGsi = 9;
inline constexpr uint32_t kHotplugGsi = 14;    // edge triggered
inline constexpr uint32_t kFirstIntxGsi = 16;  // 16..19, level triggered, shared by PCI functions
inline constexpr uint32_t kIntxGsis = 4;
// One each for virtio-mmio devices, edge triggered and never shared: an irqfd can deliver an edge
// without anybody in this process looking at it.
inline constexpr std::array<uint32_t, 11> kVirtioMmioGsis = {20, 21, 22, 23, 5, 6,
                                                             7,  10, 11, 12, 15};

// The GSI of a PCI function's interrupt pin (1 = INTA), swizzled over the slots as on a real board.
constexpr uint32_t IntxGsi(uint32_t slot, uint32_t pin) {
  return kFirstIntxGsi + (slot + pin - 1) % kIntxGsis;
}

}  // namespace vmm
