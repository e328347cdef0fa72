// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/contract/kernel_under_test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace contract {
namespace {

constexpr size_t kPageBytes = 4096;

}  // namespace

std::vector<Side> AllSides() {
  return {{.major = 6, .minor = 1},
          {.major = 6, .minor = 12},
          {.major = 7, .minor = 0},
          {.real = true}};
}

std::string Name(const Side& side) {
  return side.real ? "Real" : absl::StrCat("Fake", side.major, "_", side.minor);
}

Release RunningRelease() {
  utsname name = {};
  Release release;
  if (::uname(&name) != 0 ||
      std::sscanf(name.release, "%d.%d", &release.major, &release.minor) != 2)
    return {};
  return release;
}

void PrintTo(const Answer& answer, std::ostream* out) {
  *out << answer.result;
  if (answer.result < 0) *out << " " << kernel_abi::ErrnoText(static_cast<int>(-answer.result));
}

void KernelUnderTest::Begin(const Side& side, const char* node) {
  if (side.real) {
    if (::access(node, R_OK | W_OK) != 0) GTEST_SKIP() << "skipped: no " << node;
    kernel_ = &kernel_abi::LinuxKernel();
    release_ = RunningRelease();
    return;
  }
  fakes::FakeKernelOptions options;
  options.major = side.major;
  options.minor = side.minor;
  fake_ = std::make_unique<fakes::FakeKernel>(options);
  kernel_ = fake_.get();
  release_ = {side.major, side.minor};
}

kernel_abi::UniqueFd KernelUnderTest::Open(const char* path, int extra_flags) {
  const int fd = kernel_->Open(path, O_RDWR | extra_flags);
  EXPECT_GE(fd, 0) << path << ": " << kernel_abi::ErrnoText(-fd);
  return kernel_abi::UniqueFd(fd);
}

kernel_abi::UniqueFd KernelUnderTest::EventFd() {
  return kernel_abi::UniqueFd(kernel_->EventFd(0, 0));
}

kernel_abi::UniqueFd KernelUnderTest::DevNull() {
  return kernel_abi::UniqueFd(kernel_->Open("/dev/null", O_RDWR));
}

Memory::Memory() {
  void* mapped = ::mmap(nullptr, kSize + kPageBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  base_ = static_cast<std::byte*>(mapped);
  // The page behind the memory stays reserved and answers no access.
  ::mprotect(base_ + kSize, kPageBytes, PROT_NONE);
}

Memory::~Memory() { ::munmap(base_, kSize + kPageBytes); }

kernel_abi::MemoryTable Memory::Table() const {
  return kernel_abi::MemoryTable{
      {.guest_phys_addr = 0, .memory_size = kSize, .userspace_addr = address()}};
}

vhost_vring_addr Memory::Ring(unsigned index) const {
  const uint64_t at = address() + index * uint64_t{0x20000};
  return {.index = index,
          .flags = 0,
          .desc_user_addr = at,
          .used_user_addr = at + 0x10000,
          .avail_user_addr = at + 0x8000,
          .log_guest_addr = 0};
}

}  // namespace contract
