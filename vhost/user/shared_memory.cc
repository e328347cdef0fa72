// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/shared_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"

namespace vhost::user {
namespace {

constexpr uint64_t kPageBytes = 4096;

bool Wraps(uint64_t start, uint64_t size) { return start + (size - 1) < start; }

bool Overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a <= b + (b_size - 1) && b <= a + (a_size - 1);
}

absl::Status Wrong(const SharedRegion& region, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("memory region ", Describe(region), " ", what));
}

absl::Status Check(const SharedRegion& region) {
  if (region.size == 0) return Wrong(region, "is empty");
  if (Wraps(region.guest_address, region.size) || Wraps(region.user_address, region.size) ||
      Wraps(region.offset, region.size)) {
    return Wrong(region, "wraps around the end of an address space");
  }
  if ((region.guest_address | region.size | region.offset) % kPageBytes != 0) {
    return Wrong(region, "is not aligned to 4096 bytes in guest address, size and offset");
  }
  return absl::OkStatus();
}

}  // namespace

std::string Describe(const SharedRegion& region) {
  return absl::StrFormat("[guest %#x size %#x user %#x offset %#x]", region.guest_address,
                         region.size, region.user_address, region.offset);
}

// Bytes of a file, mapped for as long as the object lives.
class SharedMemory::Mapping {
 public:
  Mapping(kernel_abi::Kernel& kernel, void* map, uint64_t map_bytes, uint64_t skip)
      : kernel_(kernel), map_(map), map_bytes_(map_bytes), skip_(skip) {}
  ~Mapping() { kernel_.Unmap(map_, map_bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* host() const { return static_cast<std::byte*>(map_) + skip_; }

 private:
  kernel_abi::Kernel& kernel_;
  void* const map_;
  const uint64_t map_bytes_;
  const uint64_t skip_;  // bytes of the map before the region
};

SharedMemory::SharedMemory() : table_(std::make_shared<const MemoryTable>()) {}

absl::StatusOr<SharedMemory::Part> SharedMemory::Map(kernel_abi::Kernel& kernel,
                                                     const SharedRegion& region,
                                                     const kernel_abi::UniqueFd& fd) {
  if (absl::Status status = Check(region); !status.ok()) return status;
  struct stat file {};
  if (fstat(fd.get(), &file) != 0) {
    return kernel_abi::MakeSystemError(
        {.error = errno, .subject = Describe(region), .call = "fstat"});
  }
  if (!S_ISREG(file.st_mode)) return Wrong(region, "has an fd that is no file of memory");
  const auto file_bytes = static_cast<uint64_t>(file.st_size);
  if (region.size > file_bytes || region.offset > file_bytes - region.size) {
    return Wrong(region, absl::StrCat("ends beyond its file, which has ", file.st_size, " bytes"));
  }
  // A map of huge pages begins and ends with one.
  const auto block = static_cast<uint64_t>(file.st_blksize);
  const uint64_t unit = std::has_single_bit(block) && block > kPageBytes ? block : kPageBytes;
  const uint64_t skip = region.offset % unit;
  const uint64_t bytes = (region.size + skip + unit - 1) / unit * unit;
  void* map = nullptr;
  const int error = kernel.Map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(),
                               static_cast<off_t>(region.offset - skip), &map);
  if (error < 0) {
    return kernel_abi::MakeSystemError(
        {.error = -error, .subject = Describe(region), .call = "mmap"});
  }
  return Part{region, std::make_shared<const Mapping>(kernel, map, bytes, skip)};
}

absl::StatusOr<SharedMemory> SharedMemory::Assemble(std::vector<Part> parts) {
  std::vector<MemoryRegion> regions;
  for (size_t i = 0; i < parts.size(); ++i) {
    const SharedRegion& region = parts[i].region;
    for (size_t j = 0; j < i; ++j) {
      const SharedRegion& other = parts[j].region;
      if (Overlap(region.user_address, region.size, other.user_address, other.size)) {
        return Wrong(region, absl::StrCat("overlaps ", Describe(other), " in user addresses"));
      }
    }
    regions.push_back({.start = GuestAddress{region.guest_address},
                       .size = region.size,
                       .host = parts[i].mapping->host()});
  }
  absl::StatusOr<MemoryTable> table = MemoryTable::Create(std::move(regions));
  if (!table.ok()) return table.status();
  SharedMemory memory;
  memory.parts_ = std::move(parts);
  memory.table_ = std::make_shared<const MemoryTable>(*std::move(table));
  return memory;
}

absl::StatusOr<SharedMemory> SharedMemory::Create(kernel_abi::Kernel& kernel,
                                                  std::span<const SharedRegion> regions,
                                                  std::vector<kernel_abi::UniqueFd> fds) {
  if (regions.size() != fds.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(regions.size(), " memory regions, but ", fds.size(), " fds"));
  }
  if (regions.size() > kMostRegions) {
    return absl::ResourceExhaustedError(absl::StrCat("more than ", kMostRegions, " regions"));
  }
  std::vector<Part> parts;
  for (size_t i = 0; i < regions.size(); ++i) {
    absl::StatusOr<Part> part = Map(kernel, regions[i], fds[i]);
    if (!part.ok()) return part.status();
    parts.push_back(*std::move(part));
  }
  return Assemble(std::move(parts));
}

absl::StatusOr<SharedMemory> SharedMemory::With(kernel_abi::Kernel& kernel,
                                                const SharedRegion& region,
                                                kernel_abi::UniqueFd fd) const {
  if (parts_.size() >= kMostRegions) {
    return absl::ResourceExhaustedError(absl::StrCat("more than ", kMostRegions, " regions"));
  }
  absl::StatusOr<Part> part = Map(kernel, region, fd);
  if (!part.ok()) return part.status();
  std::vector<Part> parts = parts_;
  parts.push_back(*std::move(part));
  return Assemble(std::move(parts));
}

absl::StatusOr<SharedMemory> SharedMemory::Without(const SharedRegion& region) const {
  std::vector<Part> parts;
  for (const Part& part : parts_) {
    const bool is_meant = part.region.guest_address == region.guest_address &&
                          part.region.user_address == region.user_address &&
                          part.region.size == region.size;
    if (!is_meant) parts.push_back(part);
  }
  if (parts.size() == parts_.size()) {
    return absl::NotFoundError(absl::StrCat("no memory region ", Describe(region), " is there"));
  }
  return Assemble(std::move(parts));
}

absl::StatusOr<std::byte*> SharedMemory::Translate(uint64_t user_address, uint64_t length) const {
  for (const Part& part : parts_) {
    const uint64_t offset = user_address - part.region.user_address;
    if (user_address >= part.region.user_address && offset < part.region.size && length != 0 &&
        length <= part.region.size - offset) {
      return part.mapping->host() + offset;
    }
  }
  return absl::OutOfRangeError(absl::StrFormat(
      "%d bytes at user address %#x are not in shared memory (one region)", length, user_address));
}

}  // namespace vhost::user
