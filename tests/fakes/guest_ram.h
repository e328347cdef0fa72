// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "kernel-abi/unique_fd.h"
#include "vhost/guest_address.h"
#include "vhost/guest_memory.h"

namespace fakes {

// One region of memory that plays a guest's RAM, with an allocator that never frees.
// Pages beyond its end are not mapped, so that a stray access faults.
class GuestRam {
 public:
  static constexpr uint64_t kDefaultBytes = 1 << 20;
  static constexpr uint64_t kDefaultStart = 0x10'0000;

  // `shared`: behind a memfd, which another process can map.
  explicit GuestRam(uint64_t bytes = kDefaultBytes, uint64_t start = kDefaultStart,
                    bool shared = false)
      : start_(start), bytes_(bytes) {
    // One inaccessible page on either side. Tests may ask for more than a machine has.
    map_ = mmap(nullptr, bytes_ + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
    if (map_ == MAP_FAILED) std::abort();
    host_ = static_cast<std::byte*>(map_) + kPage;
    if (shared) {
      memfd_.Reset(memfd_create("guest-ram", MFD_CLOEXEC));
      if (ftruncate(memfd_.get(), static_cast<off_t>(bytes_)) != 0) std::abort();
      if (mmap(host_, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd_.get(), 0) ==
          MAP_FAILED) {
        std::abort();
      }
    } else if (mprotect(host_, bytes_, PROT_READ | PROT_WRITE) != 0) {
      std::abort();
    }
    next_ = start_;
  }
  ~GuestRam() { munmap(map_, bytes_ + 2 * kPage); }
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  vhost::MemoryRegion region() const {
    return {
        .start = vhost::GuestAddress{start_}, .size = bytes_, .host = host_, .memfd = memfd_.get()};
  }
  // A table of this region alone.
  std::shared_ptr<const vhost::MemoryTable> table() const {
    return std::make_shared<const vhost::MemoryTable>(*vhost::MemoryTable::Create({region()}));
  }
  // The first address behind it, where no memory is.
  vhost::GuestAddress end() const { return vhost::GuestAddress{start_ + bytes_}; }

  vhost::GuestAddress Allocate(uint64_t bytes, uint64_t alignment = 16) {
    const uint64_t at = (next_ + alignment - 1) / alignment * alignment;
    if (at + bytes > start_ + bytes_) std::abort();  // The test needs more RAM.
    next_ = at + bytes;
    return vhost::GuestAddress{at};
  }

  std::byte* Host(vhost::GuestAddress address) const {
    return host_ + (vhost::Value(address) - start_);
  }
  std::vector<std::byte> Bytes(vhost::GuestAddress address, uint64_t length) const {
    return {Host(address), Host(address) + length};
  }
  void Put(vhost::GuestAddress address, std::span<const std::byte> bytes) const {
    std::copy(bytes.begin(), bytes.end(), Host(address));
  }

 private:
  static constexpr uint64_t kPage = 4096;
  uint64_t start_;
  uint64_t bytes_;
  kernel_abi::UniqueFd memfd_;  // none: anonymous memory
  void* map_ = nullptr;
  std::byte* host_ = nullptr;
  uint64_t next_ = 0;
};

}  // namespace fakes
