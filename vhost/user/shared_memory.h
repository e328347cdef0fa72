// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The memory that a vhost-user front end shares with this process: regions that it names by a guest
// address and by a "user" address (its own), each with an fd to be mapped. Buffers are found by
// guest addresses, as everywhere (table()); where the rings lie is told in user addresses.
//
// A set is immutable. Another one is made from it (With, Without), which keeps the mappings that
// both have; a mapping ends with the last set that has it. So whoever changes memory makes the new
// set, has everybody use it, and lets the old one go.
//
// What a front end says is checked here: regions that are empty, wrap, overlap in either address,
// are not aligned, or reach beyond the end of their file. One thing cannot be: a front end that
// truncates the file later. The access that finds out ends this process (SIGBUS), which is why a
// process serves one front end. See docs/threat-model.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/guest_memory.h"

namespace vhost::user {

// As the front end describes it; all in bytes.
struct SharedRegion {
  uint64_t guest_address = 0;
  uint64_t size = 0;
  uint64_t user_address = 0;
  uint64_t offset = 0;  // in the file behind the fd
};

std::string Describe(const SharedRegion& region);

// Thread safety: immutable.
class SharedMemory {
 public:
  // As many as KVM's slots at their fewest: no front end has more.
  static constexpr size_t kMostRegions = 509;

  SharedMemory();  // No memory at all.
  // All or nothing. The fds are closed in any case: a mapping needs none.
  // INVALID_ARGUMENT: a region that is none; RESOURCE_EXHAUSTED: too many of them; else what the
  // system says of a mapping.
  static absl::StatusOr<SharedMemory> Create(kernel_abi::Kernel& kernel,
                                             std::span<const SharedRegion> regions,
                                             std::vector<kernel_abi::UniqueFd> fds);
  // The same set with one region more; as Create.
  absl::StatusOr<SharedMemory> With(kernel_abi::Kernel& kernel, const SharedRegion& region,
                                    kernel_abi::UniqueFd fd) const;
  // With one fewer: the one of these addresses and this size. NOT_FOUND: there is none.
  absl::StatusOr<SharedMemory> Without(const SharedRegion& region) const;

  size_t size() const { return parts_.size(); }
  const std::shared_ptr<const MemoryTable>& table() const { return table_; }
  // Where `length` bytes at `user_address` are mapped here, which must lie in one region.
  absl::StatusOr<std::byte*> Translate(uint64_t user_address, uint64_t length) const;

 private:
  class Mapping;
  struct Part {
    SharedRegion region;
    std::shared_ptr<const Mapping> mapping;
  };

  static absl::StatusOr<Part> Map(kernel_abi::Kernel& kernel, const SharedRegion& region,
                                  const kernel_abi::UniqueFd& fd);
  static absl::StatusOr<SharedMemory> Assemble(std::vector<Part> parts);

  std::vector<Part> parts_;
  std::shared_ptr<const MemoryTable> table_;
};

}  // namespace vhost::user
