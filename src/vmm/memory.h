// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/guest_memory.h"

namespace vmm {

enum class MemoryBackend {
  kMemFd,      // can be shared with a backend in another process
  kAnonymous,  // private to this process
};

// The guest's RAM: one mapping of this process, shown to the guest below the PCI hole and, what
// does not fit there, above 4 GiB. Owns the mapping and the library's GuestMemory that describes
// it; whoever listens to that must be gone before this is.
class Ram {
 public:
  // `size` in bytes, a multiple of 4 KiB.
  static absl::StatusOr<std::unique_ptr<Ram>> Create(kernel_abi::Kernel& kernel, uint64_t size,
                                                     MemoryBackend backend);
  ~Ram();
  Ram(const Ram&) = delete;
  Ram& operator=(const Ram&) = delete;

  vhost::GuestMemory& guest_memory() { return guest_memory_; }
  // Bytes below the PCI hole, from address 0, and bytes from 4 GiB on.
  uint64_t low_size() const;
  uint64_t high_size() const { return size_ - low_size(); }

 private:
  Ram(kernel_abi::Kernel& kernel, uint64_t size) : kernel_(kernel), size_(size) {}

  kernel_abi::Kernel& kernel_;
  const uint64_t size_;
  kernel_abi::UniqueFd memfd_;  // invalid for anonymous memory
  void* mapping_ = nullptr;
  vhost::GuestMemory guest_memory_;
};

}  // namespace vmm
