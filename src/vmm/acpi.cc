// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/acpi.h"

#include <cstring>
#include <numeric>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "src/vmm/aml.h"
#include "src/vmm/layout.h"
#include "src/vmm/pci_host.h"
#include "src/vmm/power.h"

namespace vmm {
namespace {

constexpr char kOemId[] = "VHOST ";
constexpr char kOemTableId[] = "VMM     ";
constexpr size_t kHeaderBytes = 36;
constexpr size_t kRsdpBytes = 36;
constexpr size_t kTableAlignment = 64;  // the FACS needs it, the others do not mind

// A table under construction. Offsets are those of the specification.
class Table {
 public:
  explicit Table(size_t size) : bytes_(size, '\0') {}
  Table(absl::string_view signature, uint8_t revision, size_t size) : Table(size) {
    Put(0, signature);
    Put<uint8_t>(8, revision);
    Put(10, kOemId);
    Put(16, kOemTableId);
    Put<uint32_t>(24, 1);  // OEM revision
    Put(28, "VMM ");       // creator
    Put<uint32_t>(32, 1);
  }

  template <typename Number>
  void Put(size_t offset, Number number) {
    std::memcpy(&bytes_[offset], &number, sizeof(number));
  }
  void Put(size_t offset, const char* text) { Put(offset, absl::string_view(text)); }
  void Put(size_t offset, absl::string_view text) {
    std::memcpy(&bytes_[offset], text.data(), text.size());
  }
  template <typename Number>
  void Append(Number number) {
    bytes_.append(reinterpret_cast<const char*>(&number), sizeof(number));
  }
  void Append(const std::string& bytes) { bytes_ += bytes; }

  // A generic address structure (5.2.3.2) for an I/O port.
  void PutPort(size_t offset, uint16_t port, uint8_t bits, uint8_t access_bytes) {
    Put<uint8_t>(offset, 1);  // system I/O
    Put<uint8_t>(offset + 1, bits);
    Put<uint8_t>(offset + 3, access_bytes == 4 ? 3 : access_bytes);  // 1 byte, 2 word, 3 dword
    Put<uint64_t>(offset + 4, port);
  }

  // Makes the first `length` bytes add up to 0.
  void SetChecksum(size_t checksum_offset, size_t length) {
    bytes_[checksum_offset] = 0;
    const unsigned sum = std::accumulate(
        bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(length), 0U,
        [](unsigned total, char byte) { return total + static_cast<unsigned char>(byte); });
    bytes_[checksum_offset] = static_cast<char>(-sum);
  }

  // Length and checksum of a table that begins with the common header.
  std::string Finish() {
    Put<uint32_t>(4, static_cast<uint32_t>(bytes_.size()));
    SetChecksum(9, bytes_.size());
    return bytes_;
  }
  std::string bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Fixed ACPI Description Table (5.2.9), of revision 6.
std::string Fadt(uint64_t facs, uint64_t dsdt) {
  constexpr uint32_t kWbinvd = 1 << 0;
  constexpr uint32_t kProcC1 = 1 << 2;
  constexpr uint32_t kPowerButtonIsNoFixedHardware = 1 << 4;
  constexpr uint32_t kSleepButtonIsNoFixedHardware = 1 << 5;
  constexpr uint32_t kResetRegisterSupported = 1 << 10;
  constexpr uint16_t kBootLegacyDevices = 1 << 0;  // there is a serial port on an "ISA" bus
  constexpr uint16_t kBootNoVga = 1 << 2;
  constexpr uint8_t kCenturyInRtc = 0x32;

  Table fadt("FACP", 6, 276);
  fadt.Put<uint32_t>(36, static_cast<uint32_t>(facs));
  fadt.Put<uint32_t>(40, static_cast<uint32_t>(dsdt));
  fadt.Put<uint16_t>(46, static_cast<uint16_t>(kSciGsi));
  // No SMI command port (48): the machine is always in ACPI mode.
  fadt.Put<uint32_t>(56, kPm1EventPort);
  fadt.Put<uint32_t>(64, kPm1ControlPort);
  fadt.Put<uint32_t>(76, kPmTimerPort);
  fadt.Put<uint8_t>(88, 4);        // bytes of the PM1 event block
  fadt.Put<uint8_t>(89, 2);        // of the control block
  fadt.Put<uint8_t>(91, 4);        // of the timer
  fadt.Put<uint16_t>(96, 0xFFFF);  // C2 and C3 are not to be had
  fadt.Put<uint16_t>(98, 0xFFFF);
  fadt.Put<uint8_t>(108, kCenturyInRtc);
  fadt.Put<uint16_t>(109, kBootLegacyDevices | kBootNoVga);  // no 8042
  fadt.Put<uint32_t>(112, kWbinvd | kProcC1 | kPowerButtonIsNoFixedHardware |
                              kSleepButtonIsNoFixedHardware | kResetRegisterSupported);
  fadt.PutPort(116, kResetPort, 8, 1);
  fadt.Put<uint8_t>(128, kResetValue);
  fadt.Put<uint8_t>(131, 5);  // minor version
  // The 64-bit twin of the FACS's address (132) stays 0: it is below 4 GiB, and there is one.
  fadt.Put<uint64_t>(140, dsdt);
  fadt.PutPort(148, kPm1EventPort, 32, 2);
  fadt.PutPort(172, kPm1ControlPort, 16, 2);
  fadt.PutPort(208, kPmTimerPort, 32, 4);
  fadt.Put(268, "VHOSTVMM");  // hypervisor vendor
  return fadt.Finish();
}

std::string Facs() {
  Table facs(64);
  facs.Put(0, "FACS");
  facs.Put<uint32_t>(4, 64);
  facs.Put<uint8_t>(32, 2);  // version
  return facs.bytes();
}

// Multiple APIC Description Table (5.2.12).
std::string Madt(const AcpiMachine& machine) {
  constexpr uint32_t kPcatCompatible = 1;
  Table madt("APIC", 5, kHeaderBytes);
  madt.Append<uint32_t>(kLocalApicAddress);
  madt.Append<uint32_t>(machine.has_8259s ? kPcatCompatible : 0);
  for (uint32_t cpu = 0; cpu < machine.cpus; ++cpu) {
    madt.Append<uint16_t>(8 << 8 | 0);  // length, type: processor local APIC
    madt.Append<uint8_t>(static_cast<uint8_t>(cpu));
    madt.Append<uint8_t>(static_cast<uint8_t>(cpu));
    madt.Append<uint32_t>(1);  // enabled
  }
  madt.Append<uint16_t>(12 << 8 | 1);  // I/O APIC
  madt.Append<uint16_t>(0);            // id, reserved
  madt.Append<uint32_t>(kIoApicAddress);
  madt.Append<uint32_t>(0);  // its first GSI
  // ISA interrupts are the pins of the same number, edge triggered. Only the SCI is not.
  constexpr uint16_t kLevelHigh = 0b1101;
  madt.Append<uint16_t>(10 << 8 | 2);                              // interrupt source override
  madt.Append<uint16_t>(static_cast<uint16_t>(kSciGsi << 8 | 0));  // IRQ, bus 0
  madt.Append<uint32_t>(kSciGsi);
  madt.Append<uint16_t>(kLevelHigh);
  madt.Append<uint16_t>(6 << 8 | 4);  // local APIC NMI: LINT1 of all processors
  madt.Append<uint8_t>(0xFF);
  madt.Append<uint16_t>(0);
  madt.Append<uint8_t>(1);
  return madt.Finish();
}

std::string Xsdt(const std::vector<uint64_t>& tables) {
  Table xsdt("XSDT", 1, kHeaderBytes);
  for (uint64_t table : tables) xsdt.Append<uint64_t>(table);
  return xsdt.Finish();
}

std::string Rsdp(uint64_t xsdt) {
  Table rsdp(kRsdpBytes);
  rsdp.Put(0, "RSD PTR ");
  rsdp.Put(9, kOemId);
  rsdp.Put<uint8_t>(15, 2);  // revision
  rsdp.Put<uint32_t>(20, kRsdpBytes);
  rsdp.Put<uint64_t>(24, xsdt);
  rsdp.SetChecksum(8, 20);
  rsdp.SetChecksum(32, kRsdpBytes);
  return rsdp.bytes();
}

std::string SlotName(uint32_t slot) { return absl::StrFormat("S%02X", slot); }

// A slot of bus 0 that can be ejected.
aml::Term HotplugSlot(uint32_t slot) {
  return aml::Device(SlotName(slot), aml::Name("_ADR", aml::Integer(uint64_t{slot} << 16)) +
                                         aml::Name("_SUN", aml::Integer(slot)) +
                                         aml::Method("_EJ0", 1,
                                                     aml::Store(aml::Integer(uint64_t{1} << slot),
                                                                aml::Path("\\_SB.GED.PEJ"))));
}

// The "generic event device" (ACPI 6.5, 5.6.9): at its interrupt the guest runs _EVT, which tells
// the slots of what PciHotplug's registers say.
aml::Term HotplugEvents() {
  constexpr uint8_t kDeviceCheck = 1;
  constexpr uint8_t kEjectRequest = 3;
  const aml::Term plugged = aml::Local(0);
  const aml::Term asked = aml::Local(1);
  aml::Term events = aml::Store(aml::Path("PUP"), plugged) + aml::Store(aml::Path("PDN"), asked);
  for (uint32_t slot = 1; slot < PciHost::kSlots; ++slot) {
    const uint64_t bit = uint64_t{1} << slot;
    const std::string path = "\\_SB.PCI0." + SlotName(slot);
    events += aml::IfAnyBit(plugged, bit, aml::Notify(path, kDeviceCheck)) +
              aml::IfAnyBit(asked, bit, aml::Notify(path, kEjectRequest));
  }
  return aml::Device(
      "GED", aml::Name("_HID", aml::String("ACPI0013")) + aml::Name("_UID", aml::Integer(0)) +
                 aml::Name("_CRS", aml::ResourceTemplate(
                                       {aml::Interrupt(kHotplugGsi, aml::Trigger::kEdge)})) +
                 aml::IoRegion("HPR", kHotplugPort, kHotplugPorts) +
                 aml::Registers32("HPR", {"PUP", "PDN", "PEJ"}) + aml::Method("_EVT", 1, events));
}

aml::Term PciHostBridge() {
  std::vector<aml::Term> routes;
  for (uint32_t slot = 0; slot < 32; ++slot) {
    for (uint32_t pin = 1; pin <= 4; ++pin) {
      constexpr uint32_t kAnyFunction = 0xFFFF;
      routes.push_back(aml::Package({aml::Integer(slot << 16 | kAnyFunction), aml::Integer(pin - 1),
                                     aml::Integer(0), aml::Integer(IntxGsi(slot, pin))}));
    }
  }
  aml::Term slots;
  for (uint32_t slot = 1; slot < PciHost::kSlots; ++slot) slots += HotplugSlot(slot);
  return aml::Device(
      "PCI0",
      aml::Name("_HID", aml::EisaId("PNP0A03")) + aml::Name("_UID", aml::Integer(0)) +
          aml::Name("_BBN", aml::Integer(0)) + aml::Name("_SEG", aml::Integer(0)) +
          aml::Name(
              "_CRS",
              aml::ResourceTemplate(
                  {aml::BusNumbers(0, 0), aml::IoPorts(kPciConfigPort, 8),
                   aml::IoWindow(0, kPciConfigPort - 1), aml::IoWindow(kPciConfigPort + 8, 0xFFFF),
                   aml::MemoryWindow(kBarWindowStart, kBarWindowStart + (kBarWindowSize - 1))})) +
          aml::Name("_PRT", aml::Package(routes)) + slots);
}

}  // namespace

std::string BuildDsdt(const AcpiMachine& machine) {
  aml::Term devices = PciHostBridge() + HotplugEvents();
  devices += aml::Device(
      "COM1", aml::Name("_HID", aml::EisaId("PNP0501")) + aml::Name("_UID", aml::Integer(0)) +
                  aml::Name("_CRS", aml::ResourceTemplate({aml::IoPorts(kSerialPort, kSerialPorts),
                                                           aml::IsaInterrupt(kSerialGsi)})));
  devices += aml::Device(
      "RTC", aml::Name("_HID", aml::EisaId("PNP0B00")) +
                 aml::Name("_CRS", aml::ResourceTemplate(
                                       {aml::IoPorts(kCmosPort, 2), aml::IsaInterrupt(kRtcGsi)})));
  for (size_t i = 0; i < machine.virtio_mmio.size(); ++i) {
    const AcpiMachine::VirtioMmio& device = machine.virtio_mmio[i];
    // LNRO0005 is what Linux's virtio_mmio driver binds to.
    devices += aml::Device(
        absl::StrFormat("VR%02X", i),
        aml::Name("_HID", aml::String("LNRO0005")) + aml::Name("_UID", aml::Integer(i)) +
            aml::Name("_CCA", aml::Integer(1)) +
            aml::Name("_CRS",
                      aml::ResourceTemplate(
                          {aml::Memory32(static_cast<uint32_t>(device.address), device.size),
                           aml::Interrupt(device.gsi, aml::Trigger::kEdge)})));
  }
  const aml::Term s5 = aml::Package({aml::Integer(AcpiPmDevice::kSleepTypeS5), aml::Integer(0),
                                     aml::Integer(0), aml::Integer(0)});
  Table dsdt("DSDT", 2, kHeaderBytes);
  dsdt.Append(aml::Scope("\\_SB", devices) + aml::Name("\\_S5", s5));
  return dsdt.Finish();
}

std::vector<std::byte> BuildAcpiTables(const AcpiMachine& machine, uint64_t base) {
  std::string block(kRsdpBytes, '\0');
  const auto place = [&](const std::string& table) {
    block.resize((block.size() + kTableAlignment - 1) / kTableAlignment * kTableAlignment);
    const uint64_t address = base + block.size();
    block += table;
    return address;
  };
  const uint64_t dsdt = place(BuildDsdt(machine));
  const uint64_t facs = place(Facs());
  const uint64_t fadt = place(Fadt(facs, dsdt));
  const uint64_t madt = place(Madt(machine));
  const uint64_t xsdt = place(Xsdt({fadt, madt}));
  block.replace(0, kRsdpBytes, Rsdp(xsdt));

  std::vector<std::byte> bytes(block.size());
  std::memcpy(bytes.data(), block.data(), block.size());
  return bytes;
}

}  // namespace vmm
