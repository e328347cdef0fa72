// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "src/vmm/layout.h"

namespace vmm {
namespace {

absl::Status MemoryError(int error, const char* call, uint64_t size) {
  return kernel_abi::MakeSystemError({.error = error,
                                      .subject = "guest memory",
                                      .call = call,
                                      .arguments = absl::StrFormat("%d MiB", size >> 20)});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ram>> Ram::Create(kernel_abi::Kernel& kernel, uint64_t size,
                                                 MemoryBackend backend) {
  std::unique_ptr<Ram> ram(new Ram(kernel, size));
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (backend == MemoryBackend::kMemFd) {
    const int fd = kernel.MemFd("guest-memory", 0);
    if (fd < 0) return MemoryError(-fd, "memfd_create", size);
    ram->memfd_.Reset(fd);
    const int result = kernel.Truncate(fd, static_cast<off_t>(size));
    if (result < 0) return MemoryError(-result, "ftruncate", size);
    flags = MAP_SHARED | MAP_NORESERVE;
  }
  const int result =
      kernel.Map(size, PROT_READ | PROT_WRITE, flags, ram->memfd_.get(), 0, &ram->mapping_);
  if (result < 0) return MemoryError(-result, "mmap", size);

  auto* host = static_cast<std::byte*>(ram->mapping_);
  std::vector<vhost::MemoryRegion> regions = {{.start = vhost::GuestAddress{0},
                                               .size = ram->low_size(),
                                               .host = host,
                                               .memfd = ram->memfd_.get()}};
  if (ram->high_size() != 0) {
    regions.push_back({.start = vhost::GuestAddress{kHighMemoryStart},
                       .size = ram->high_size(),
                       .host = host + ram->low_size(),
                       .memfd = ram->memfd_.get(),
                       .memfd_offset = ram->low_size()});
  }
  if (absl::Status status = ram->guest_memory_.Change(regions, {}); !status.ok()) return status;
  return ram;
}

Ram::~Ram() {
  if (mapping_ != nullptr) kernel_.Unmap(mapping_, size_);
}

uint64_t Ram::low_size() const { return std::min(size_, kLowMemoryEnd); }

}  // namespace vmm
