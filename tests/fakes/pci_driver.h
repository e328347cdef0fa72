// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a guest's PCI code and virtio driver do with a function, in the order in which Linux does
// it: size and place BARs, walk the capability list, map the virtio structures, set up MSI-X.
// Everything is learned from configuration space; nothing is known from the function's side.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "vhost/transport/pci_function.h"
#include "vhost/transport/register_map.h"

namespace fakes {

class PciDriver {
 public:
  explicit PciDriver(vhost::PciFunction& function) : function_(function) {}

  // ---- Accesses ----
  uint32_t Config(uint32_t offset, size_t size = 4) {
    std::array<std::byte, 8> bytes{};
    function_.ConfigRead(offset, std::span(bytes).first(size));
    return static_cast<uint32_t>(vhost::LoadLittleEndian(std::span(bytes).first(size)));
  }
  void SetConfig(uint32_t offset, uint32_t value, size_t size = 4) {
    std::array<std::byte, 8> bytes{};
    vhost::StoreLittleEndian(bytes, value);
    function_.ConfigWrite(offset, std::span(bytes).first(size));
  }
  uint64_t Bar(int bar, uint64_t offset, size_t size) {
    std::array<std::byte, 8> bytes{};
    function_.BarRead(bar, offset, std::span(bytes).first(size));
    return vhost::LoadLittleEndian(std::span(bytes).first(size));
  }
  void SetBar(int bar, uint64_t offset, uint64_t value, size_t size) {
    std::array<std::byte, 8> bytes{};
    vhost::StoreLittleEndian(bytes, value);
    function_.BarWrite(bar, offset, std::span(bytes).first(size));
  }

  // ---- PCI: pci_read_bases(), pci_assign_resource(), pci_enable_device() ----
  struct FoundBar {
    uint64_t size;
    bool is_64bit;
    bool is_io = false;
  };
  // Sizes every BAR with decoding off, as Linux does, and leaves what it found.
  std::map<int, FoundBar> SizeBars() {
    const uint32_t command = Config(4, 2);
    SetConfig(4, command & ~uint32_t{3}, 2);
    std::map<int, FoundBar> found;
    for (int bar = 0; bar < 6; ++bar) {
      const uint32_t low = SizeOne(bar);
      if (low == 0) continue;
      if ((low & 1) != 0) {
        found[bar] = {.size = ~(low & ~uint32_t{0x3}) + 1, .is_64bit = false, .is_io = true};
        continue;
      }
      const bool wide = (low & 0x6) == 0x4;
      uint64_t mask = low & ~uint32_t{0xf};
      if (wide) {
        mask |= uint64_t{SizeOne(bar + 1)} << 32;
      } else {
        mask |= uint64_t{0xffffffff} << 32;
      }
      found[bar] = {.size = ~mask + 1, .is_64bit = wide};
      if (wide) ++bar;
    }
    SetConfig(4, command, 2);
    return found;
  }
  void PlaceBar(int bar, uint64_t address, bool is_64bit) {
    SetConfig(BarRegister(bar), static_cast<uint32_t>(address));
    if (is_64bit) SetConfig(BarRegister(bar) + 4, static_cast<uint32_t>(address >> 32));
  }
  void SetCommand(uint16_t bits) { SetConfig(4, bits, 2); }

  // ---- Capabilities: virtio_pci_find_capability(), vp_modern_probe() ----
  struct Structure {
    int bar;
    uint32_t offset;
    uint32_t length;
    uint8_t at;  // of the capability
  };
  // False if the list loops or leads out of the space.
  bool WalkCapabilities() {
    structures.clear();
    if ((Config(6, 2) & 0x10) == 0) return false;
    int budget = 48;
    for (uint8_t at = static_cast<uint8_t>(Config(0x34, 1)); at != 0;
         at = static_cast<uint8_t>(Config(at + 1u, 1))) {
      if (--budget == 0 || at < 0x40 || at % 4 != 0) return false;
      const uint32_t id = Config(at, 1);
      if (id == 0x11) msix_at = at;
      if (id != 0x09) continue;
      const uint8_t type = static_cast<uint8_t>(Config(at + 3u, 1));
      structures[type] = {.bar = static_cast<int>(Config(at + 4u, 1)),
                          .offset = Config(at + 8u),
                          .length = Config(at + 12u),
                          .at = at};
      if (type == 2) notify_multiplier = Config(at + 16u);
    }
    return true;
  }

  // ---- The common configuration ----
  uint64_t Common(uint32_t offset, size_t size) {
    return Bar(structures[1].bar, structures[1].offset + offset, size);
  }
  void SetCommon(uint32_t offset, uint64_t value, size_t size) {
    SetBar(structures[1].bar, structures[1].offset + offset, value, size);
  }
  uint8_t Isr() { return static_cast<uint8_t>(Bar(structures[3].bar, structures[3].offset, 1)); }
  uint8_t Status() { return static_cast<uint8_t>(Common(0x14, 1)); }
  void SetStatus(uint8_t status) { SetCommon(0x14, status, 1); }
  uint64_t Features() {
    SetCommon(0, 0, 4);
    const uint64_t low = Common(4, 4);
    SetCommon(0, 1, 4);
    return low | Common(4, 4) << 32;
  }
  void AcceptFeatures(uint64_t features) {
    SetCommon(8, 0, 4);
    SetCommon(0xc, features & 0xffffffff, 4);
    SetCommon(8, 1, 4);
    SetCommon(0xc, features >> 32, 4);
  }
  void Select(uint16_t queue) { SetCommon(0x16, queue, 2); }
  uint16_t SetQueueVector(uint16_t queue, uint16_t vector) {
    Select(queue);
    SetCommon(0x1a, vector, 2);
    return static_cast<uint16_t>(Common(0x1a, 2));
  }
  uint16_t SetConfigVector(uint16_t vector) {
    SetCommon(0x10, vector, 2);
    return static_cast<uint16_t>(Common(0x10, 2));
  }
  void SetAddress(uint32_t offset, uint64_t address) {
    SetCommon(offset, address & 0xffffffff, 4);
    SetCommon(offset + 4, address >> 32, 4);
  }
  // vp_active_vq()
  void SetUpQueue(uint16_t queue, uint16_t size, uint64_t desc, uint64_t avail, uint64_t used) {
    Select(queue);
    SetCommon(0x18, size, 2);
    SetAddress(0x20, desc);
    SetAddress(0x28, avail);
    SetAddress(0x30, used);
    SetCommon(0x1c, 1, 2);
  }
  // Of the guest address that notifies a queue, the part after the BAR's.
  uint64_t NotifyOffset(uint16_t queue) {
    Select(queue);
    return structures[2].offset + Common(0x1e, 2) * notify_multiplier;
  }

  // ---- The legacy interface: drivers/virtio/virtio_pci_legacy_dev.c ----
  uint64_t Legacy(uint64_t offset, size_t size) { return Bar(0, offset, size); }
  void SetLegacy(uint64_t offset, uint64_t value, size_t size) { SetBar(0, offset, value, size); }
  // The ring is a page number; its size is the device's choice.
  void SetUpLegacyQueue(uint16_t queue, uint32_t page) {
    SetLegacy(14, queue, 2);
    SetLegacy(8, page, 4);
  }
  uint16_t SetLegacyQueueVector(uint16_t queue, uint16_t vector) {
    SetLegacy(14, queue, 2);
    SetLegacy(22, vector, 2);
    return static_cast<uint16_t>(Legacy(22, 2));
  }

  // ---- MSI-X: msix_capability_init(), mask and unmask ----
  uint16_t VectorCount() { return static_cast<uint16_t>((Config(msix_at + 2u, 2) & 0x7ff) + 1); }
  void SetMsixControl(uint16_t bits) { SetConfig(msix_at + 2u, bits, 2); }
  void SetMessage(uint16_t vector, uint64_t address, uint32_t data) {
    const uint64_t entry = Table() + vector * 16u;
    SetBar(TableBar(), entry, address & 0xffffffff, 4);
    SetBar(TableBar(), entry + 4, address >> 32, 4);
    SetBar(TableBar(), entry + 8, data, 4);
  }
  void Mask(uint16_t vector) { SetBar(TableBar(), Table() + vector * 16u + 12, 1, 4); }
  void Unmask(uint16_t vector) { SetBar(TableBar(), Table() + vector * 16u + 12, 0, 4); }
  bool Pending(uint16_t vector) {
    const uint32_t pba = Config(msix_at + 8u);
    const uint64_t word = Bar(static_cast<int>(pba & 7), (pba & ~7u) + vector / 64 * 8u, 8);
    return (word >> (vector % 64) & 1) != 0;
  }
  int TableBar() { return static_cast<int>(Config(msix_at + 4u) & 7); }
  uint64_t Table() { return Config(msix_at + 4u) & ~7u; }
  // Enabled with everything masked, then the function's mask goes: as Linux does.
  void EnableMsix() {
    SetMsixControl(0xc000);
    for (uint16_t vector = 0; vector < VectorCount(); ++vector) Mask(vector);
    SetMsixControl(0x8000);
  }

  static constexpr uint64_t kMsiAddress = 0xfee00000;

  std::map<uint8_t, Structure> structures;  // by cfg_type
  uint32_t notify_multiplier = 0;
  uint8_t msix_at = 0;

 private:
  static uint32_t BarRegister(int bar) { return 0x10 + 4 * static_cast<uint32_t>(bar); }
  uint32_t SizeOne(int bar) {
    const uint32_t before = Config(BarRegister(bar));
    SetConfig(BarRegister(bar), 0xffffffff);
    const uint32_t answer = Config(BarRegister(bar));
    SetConfig(BarRegister(bar), before);
    return answer;
  }

  vhost::PciFunction& function_;
};

}  // namespace fakes
