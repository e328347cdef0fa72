// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Loads a Linux kernel as a boot loader does: Documentation/arch/x86/boot.rst of the kernel, the
// 64-bit boot protocol. A vCPU then starts in the kernel's 64-bit entry point with the zero page in
// RSI, identity-mapped page tables and a flat GDT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/guest_memory.h"

namespace vmm {

// What the kernel is told about the guest's addresses (struct boot_e820_entry).
struct E820Entry {
  enum class Type : uint32_t { kRam = 1, kReserved = 2 };
  uint64_t start = 0;
  uint64_t size = 0;
  Type type = Type::kRam;
  friend bool operator==(const E820Entry&, const E820Entry&) = default;
};
std::vector<E820Entry> BuildE820(uint64_t low_size, uint64_t high_size);

// The fields of a bzImage's setup header that matter to a loader.
struct SetupHeader {
  uint64_t kernel_offset = 0;  // bytes of the file before the protected-mode kernel
  uint64_t load_address = 0;   // where the kernel prefers to be
  uint64_t init_size = 0;      // bytes that it needs there until it has found its memory map
  uint64_t initrd_max = 0;     // highest address that the initramfs may occupy
  uint64_t command_line_max = 0;
  std::vector<std::byte> raw;  // what goes into the zero page, from offset 0x1F1
};
// `image` is the beginning of the file, at least kSetupHeaderBytes of it if the file has them.
absl::StatusOr<SetupHeader> ParseSetupHeader(std::span<const std::byte> image);
inline constexpr size_t kSetupHeaderBytes = 0x280;

// Kernel and initramfs as open files, so that a guest that reboots gets the same again, even if the
// files were replaced in the meantime.
class LinuxBoot {
 public:
  // `initrd` may be empty. Errors name the file and what is wrong with it.
  static absl::StatusOr<LinuxBoot> Open(kernel_abi::Kernel& kernel, const std::string& image,
                                        const std::string& initrd, std::string command_line);

  struct Entry {
    uint64_t rip = 0;
    uint64_t zero_page = 0;
  };
  // Writes kernel, initramfs, command line, zero page, page tables and GDT. `acpi_rsdp` is where
  // the ACPI tables begin. RESOURCE_EXHAUSTED says how much memory it would take.
  absl::StatusOr<Entry> Load(const vhost::MemoryTable& memory, uint64_t low_size,
                             uint64_t high_size, uint64_t acpi_rsdp) const;

 private:
  struct File {
    std::string path;
    kernel_abi::UniqueFd fd;
    uint64_t size = 0;
  };
  static absl::StatusOr<File> OpenFile(kernel_abi::Kernel& kernel, const std::string& path);
  static absl::Status Copy(const File& file, uint64_t offset, uint64_t bytes,
                           const vhost::MemoryTable& memory, uint64_t to);

  LinuxBoot(File image, std::optional<File> initrd, SetupHeader header, std::string command_line);

  File image_;
  std::optional<File> initrd_;
  SetupHeader header_;
  std::string command_line_;
};

// Selectors of the GDT that Load writes, and where its page tables begin: what a vCPU needs.
inline constexpr uint16_t kBootCodeSelector = 0x10;
inline constexpr uint16_t kBootDataSelector = 0x18;
inline constexpr uint16_t kBootGdtBytes = 4 * 8;

}  // namespace vmm
