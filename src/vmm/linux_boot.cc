// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/linux_boot.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "src/vmm/layout.h"
#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using vhost::LoadLittleEndian;
using vhost::StoreLittleEndian;

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kSectorBytes = 512;

// Offsets in the zero page, which are the file's for the setup header (0x1F1 and on).
constexpr size_t kAcpiRsdp = 0x070;
constexpr size_t kE820Count = 0x1E8;
constexpr size_t kSetupSectors = 0x1F1;
constexpr size_t kBootFlag = 0x1FE;
constexpr size_t kJump = 0x200;
constexpr size_t kSignature = 0x202;
constexpr size_t kVersion = 0x206;
constexpr size_t kLoaderType = 0x210;
constexpr size_t kLoadFlags = 0x211;
constexpr size_t kInitrdAddress = 0x218;
constexpr size_t kInitrdSize = 0x21C;
constexpr size_t kCommandLine = 0x228;
constexpr size_t kInitrdMax = 0x22C;
constexpr size_t kXLoadFlags = 0x236;
constexpr size_t kCommandLineMax = 0x238;
constexpr size_t kPreferredAddress = 0x258;
constexpr size_t kInitSize = 0x260;
constexpr size_t kE820Table = 0x2D0;
constexpr size_t kE820EntryBytes = 20;

constexpr uint16_t kBootFlagValue = 0xAA55;
constexpr uint32_t kSignatureValue = 0x5372'6448;  // "HdrS"
constexpr uint16_t kOldestVersion = 0x020C;        // Linux 3.8: 64-bit entry and xloadflags
constexpr uint64_t kLoadedHigh = 1 << 0;
constexpr uint64_t kKernel64 = 1 << 0;
constexpr uint64_t kLoaderUndefined = 0xFF;
constexpr uint64_t kEntry64Offset = 0x200;

// Null, unused, code (64-bit), data: flat, present, ring 0.
constexpr std::array<uint64_t, 4> kGdt = {0, 0, 0x00AF'9B00'0000'FFFF, 0x00CF'9300'0000'FFFF};
static_assert(sizeof(kGdt) == kBootGdtBytes);

uint64_t Field(std::span<const std::byte> bytes, size_t offset, size_t size) {
  return LoadLittleEndian(bytes.subspan(offset, size));
}

void SetField(std::span<std::byte> bytes, size_t offset, size_t size, uint64_t value) {
  StoreLittleEndian(bytes.subspan(offset, size), value);
}

absl::Status FileError(int error, const std::string& path, const char* call) {
  return kernel_abi::MakeSystemError({.error = error, .subject = path, .call = call});
}

// Maps the first 4 GiB to themselves in pages of 2 MiB: one PML4, one PDPT, four page directories.
std::vector<std::byte> IdentityPageTables() {
  constexpr uint64_t kPresentWritable = 0b11;
  constexpr uint64_t kLargePage = 1 << 7;
  constexpr size_t kEntries = 512;
  constexpr size_t kDirectories = 4;
  std::vector<std::byte> tables((2 + kDirectories) * kPageBytes);
  const auto set = [&](size_t page, size_t entry, uint64_t value) {
    SetField(tables, page * kPageBytes + entry * 8, 8, value);
  };
  set(0, 0, (kPageTablesAddress + kPageBytes) | kPresentWritable);
  for (size_t directory = 0; directory < kDirectories; ++directory) {
    set(1, directory, (kPageTablesAddress + (2 + directory) * kPageBytes) | kPresentWritable);
    for (size_t entry = 0; entry < kEntries; ++entry) {
      const uint64_t address = (directory * kEntries + entry) * 2 * kMiB;
      set(2 + directory, entry, address | kPresentWritable | kLargePage);
    }
  }
  return tables;
}

absl::Status NotEnough(const std::string& what, uint64_t needed, uint64_t have) {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%s: needs %d MiB of guest memory below 3 GiB, there are %d; give --memory more", what,
      (needed + kMiB - 1) / kMiB, have / kMiB));
}

}  // namespace

std::vector<E820Entry> BuildE820(uint64_t low_size, uint64_t high_size) {
  using Type = E820Entry::Type;
  constexpr uint64_t kLegacyHoleStart = 0xA'0000;
  std::vector<E820Entry> entries = {
      {0, kLowRamEnd, Type::kRam},
      {kLowRamEnd, kLegacyHoleStart - kLowRamEnd, Type::kReserved},
      {kAcpiTablesAddress, kAcpiTablesEnd - kAcpiTablesAddress, Type::kReserved},
      {kKernelAddress, low_size - kKernelAddress, Type::kRam},
  };
  if (high_size != 0) entries.push_back({kHighMemoryStart, high_size, Type::kRam});
  return entries;
}

absl::StatusOr<SetupHeader> ParseSetupHeader(std::span<const std::byte> image) {
  if (image.size() < kSetupHeaderBytes || Field(image, kBootFlag, 2) != kBootFlagValue ||
      Field(image, kSignature, 4) != kSignatureValue) {
    return absl::InvalidArgumentError(
        "is not a bzImage (give the vmlinuz of a distribution, or arch/x86/boot/bzImage)");
  }
  const uint64_t version = Field(image, kVersion, 2);
  if (version < kOldestVersion) {
    return absl::InvalidArgumentError(
        absl::StrFormat("boot protocol %d.%d is too old: 2.12 (Linux 3.8) is needed", version >> 8,
                        version & 0xFF));
  }
  if ((Field(image, kXLoadFlags, 2) & kKernel64) == 0 ||
      (Field(image, kLoadFlags, 1) & kLoadedHigh) == 0) {
    return absl::InvalidArgumentError("is a kernel without a 64-bit entry point (not x86-64?)");
  }
  // The jump at 0x200 goes over the header, and so tells its end.
  const uint64_t end = kSignature + Field(image, kJump + 1, 1);
  if (end < kInitSize + 4 || end > kSetupHeaderBytes || end > kE820Table) {
    return absl::InvalidArgumentError(absl::StrFormat("has a setup header that ends at %#x", end));
  }
  // 0 stands for 4, for kernels that are older than the field.
  const uint64_t sectors = Field(image, kSetupSectors, 1);
  SetupHeader header{
      .kernel_offset = ((sectors == 0 ? 4 : sectors) + 1) * kSectorBytes,
      .load_address = Field(image, kPreferredAddress, 8),
      .init_size = Field(image, kInitSize, 4),
      .initrd_max = Field(image, kInitrdMax, 4),
      .command_line_max = Field(image, kCommandLineMax, 4),
      .raw = {image.begin() + kSetupSectors, image.begin() + static_cast<std::ptrdiff_t>(end)},
  };
  if (header.load_address < kKernelAddress || header.load_address % kPageBytes != 0 ||
      header.load_address >= kLowMemoryEnd) {
    return absl::InvalidArgumentError(
        absl::StrFormat("wants to be loaded at %#x", header.load_address));
  }
  return header;
}

LinuxBoot::LinuxBoot(File image, std::optional<File> initrd, SetupHeader header,
                     std::string command_line)
    : image_(std::move(image)),
      initrd_(std::move(initrd)),
      header_(std::move(header)),
      command_line_(std::move(command_line)) {}

absl::StatusOr<LinuxBoot::File> LinuxBoot::OpenFile(kernel_abi::Kernel& kernel,
                                                    const std::string& path) {
  const int fd = kernel.Open(path.c_str(), O_RDONLY);
  if (fd < 0) return FileError(-fd, path, "open");
  File file{.path = path, .fd = kernel_abi::UniqueFd(fd)};
  struct stat status {};
  if (::fstat(fd, &status) < 0) return FileError(errno, path, "fstat");
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  }
  file.size = static_cast<uint64_t>(status.st_size);
  return file;
}

absl::StatusOr<LinuxBoot> LinuxBoot::Open(kernel_abi::Kernel& kernel, const std::string& image,
                                          const std::string& initrd, std::string command_line) {
  absl::StatusOr<File> image_file = OpenFile(kernel, image);
  if (!image_file.ok()) return image_file.status();
  std::vector<std::byte> beginning(std::min<uint64_t>(kSetupHeaderBytes, image_file->size));
  const ssize_t got = ::pread(image_file->fd.get(), beginning.data(), beginning.size(), 0);
  if (got < 0) return FileError(errno, image, "pread");
  beginning.resize(static_cast<size_t>(got));
  absl::StatusOr<SetupHeader> header = ParseSetupHeader(beginning);
  if (!header.ok()) return kernel_abi::AddContext(header.status(), image);
  if (image_file->size <= header->kernel_offset + kEntry64Offset) {
    return absl::InvalidArgumentError(absl::StrCat(image, ": is cut off"));
  }
  const uint64_t longest = std::min(header->command_line_max, kCommandLineMaxBytes - 1);
  if (command_line.size() > longest) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the kernel command line has %d bytes, %s takes %d", command_line.size(), image, longest));
  }
  std::optional<File> initrd_file;
  if (!initrd.empty()) {
    absl::StatusOr<File> file = OpenFile(kernel, initrd);
    if (!file.ok()) return file.status();
    initrd_file = *std::move(file);
  }
  return LinuxBoot(*std::move(image_file), std::move(initrd_file), *std::move(header),
                   std::move(command_line));
}

absl::Status LinuxBoot::Copy(const File& file, uint64_t offset, uint64_t bytes,
                             const vhost::MemoryTable& memory, uint64_t to) {
  std::vector<std::byte> chunk(std::min<uint64_t>(bytes, kMiB));
  while (bytes > 0) {
    const size_t wanted = std::min<uint64_t>(bytes, chunk.size());
    const ssize_t got = ::pread(file.fd.get(), chunk.data(), wanted, static_cast<off_t>(offset));
    if (got < 0) return FileError(errno, file.path, "pread");
    if (got == 0) return absl::DataLossError(absl::StrCat(file.path, ": became shorter"));
    const auto size = static_cast<size_t>(got);
    absl::Status status =
        memory.Write(vhost::GuestAddress{to}, std::span<const std::byte>(chunk).first(size));
    if (!status.ok()) return kernel_abi::AddContext(status, file.path);
    offset += size;
    to += size;
    bytes -= size;
  }
  return absl::OkStatus();
}

absl::StatusOr<LinuxBoot::Entry> LinuxBoot::Load(const vhost::MemoryTable& memory,
                                                 uint64_t low_size, uint64_t high_size,
                                                 uint64_t acpi_rsdp) const {
  const uint64_t kernel_bytes = image_.size - header_.kernel_offset;
  const uint64_t kernel_end = header_.load_address + std::max(kernel_bytes, header_.init_size);
  if (kernel_end > low_size) return NotEnough(image_.path, kernel_end, low_size);
  absl::Status status =
      Copy(image_, header_.kernel_offset, kernel_bytes, memory, header_.load_address);
  if (!status.ok()) return status;

  // As high as it may be, so that the kernel has the room below for itself.
  uint64_t initrd_address = 0;
  if (initrd_.has_value()) {
    const uint64_t top = std::min(low_size, header_.initrd_max + 1);
    if (initrd_->size > top || kernel_end > (top - initrd_->size) / kPageBytes * kPageBytes) {
      return NotEnough(initrd_->path, kernel_end + initrd_->size, low_size);
    }
    initrd_address = (top - initrd_->size) / kPageBytes * kPageBytes;
    status = Copy(*initrd_, 0, initrd_->size, memory, initrd_address);
    if (!status.ok()) return status;
  }

  std::vector<std::byte> zero_page(kPageBytes);
  std::ranges::copy(header_.raw, zero_page.begin() + kSetupSectors);
  SetField(zero_page, kLoaderType, 1, kLoaderUndefined);
  SetField(zero_page, kCommandLine, 4, kCommandLineAddress);
  SetField(zero_page, kInitrdAddress, 4, initrd_address);
  SetField(zero_page, kInitrdSize, 4, initrd_.has_value() ? initrd_->size : 0);
  SetField(zero_page, kAcpiRsdp, 8, acpi_rsdp);
  const std::vector<E820Entry> e820 = BuildE820(low_size, high_size);
  SetField(zero_page, kE820Count, 1, e820.size());
  for (size_t i = 0; i < e820.size(); ++i) {
    const size_t at = kE820Table + i * kE820EntryBytes;
    SetField(zero_page, at, 8, e820[i].start);
    SetField(zero_page, at + 8, 8, e820[i].size);
    SetField(zero_page, at + 16, 4, static_cast<uint32_t>(e820[i].type));
  }

  std::vector<std::byte> command_line(command_line_.size() + 1);
  std::memcpy(command_line.data(), command_line_.data(), command_line_.size());
  const std::vector<std::byte> page_tables = IdentityPageTables();
  const std::pair<uint64_t, std::span<const std::byte>> pieces[] = {
      {kZeroPageAddress, zero_page},
      {kCommandLineAddress, command_line},
      {kPageTablesAddress, page_tables},
      {kGdtAddress, std::as_bytes(std::span(kGdt))},
  };
  for (const auto& [address, bytes] : pieces) {
    status = memory.Write(vhost::GuestAddress{address}, bytes);
    if (!status.ok()) return status;
  }
  return Entry{.rip = header_.load_address + kEntry64Offset, .zero_page = kZeroPageAddress};
}

}  // namespace vmm
