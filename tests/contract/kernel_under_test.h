// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The contract suite: the same cases on the fake kernel and on Linux's own nodes. Where the two
// answer differently the fake is wrong, and every unit test that trusts it with it.
//
// Cases on real nodes skip where the node is not there; the test VM has them all, on three kernels.
// They are made of raw calls, so that an errno is compared and not a text.
#pragma once

#include <cerrno>
#include <memory>
#include <ostream>
#include <string>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/request.h"
#include "kernel-abi/unique_fd.h"
#include "kernel-abi/vhost.h"
#include "tests/fakes/fake_kernel.h"

namespace contract {

// One of the kernels that the cases run on.
struct Side {
  bool real = false;
  int major = 0;  // of the fake; the real one says itself
  int minor = 0;
};
std::vector<Side> AllSides();
std::string Name(const Side& side);  // "Real", "Fake6_12"
inline void PrintTo(const Side& side, std::ostream* out) { *out << Name(side); }

// The release of the running kernel.
struct Release {
  int major = 0;
  int minor = 0;
};
Release RunningRelease();

// Errno by name in failures: EXPECT_EQ(Answer(-16), Answer(-22)) says EBUSY and EINVAL.
struct Answer {
  explicit Answer(long returned) : result(returned) {}
  long result;
  friend bool operator==(const Answer&, const Answer&) = default;
};
void PrintTo(const Answer& answer, std::ostream* out);
inline Answer Ok() { return Answer(0); }
inline Answer Refused(int error) { return Answer(-error); }

class KernelUnderTest : public testing::Test {
 protected:
  // To be called in SetUp, with the node that the cases need.
  void Begin(const Side& side, const char* node);

  kernel_abi::Kernel& kernel() { return *kernel_; }
  bool is_real() const { return fake_ == nullptr; }
  bool AtLeast(int major, int minor) const {
    return release_.major > major || (release_.major == major && release_.minor >= minor);
  }

  // Opens a node; the case fails if that does.
  kernel_abi::UniqueFd Open(const char* path, int extra_flags = 0);

  // The argument is read and written in place; a constant or a temporary is only read.
  template <typename Argument>
  Answer Ask(int fd, const kernel_abi::Request<Argument>& request,
             std::type_identity_t<Argument>& argument) {
    return Answer(kernel_->Ioctl(fd, request.number, kernel_abi::internal::AsRegister(argument)));
  }
  template <typename Argument>
  Answer Ask(int fd, const kernel_abi::Request<Argument>& request,
             const std::type_identity_t<Argument>& argument) {
    Argument copy = argument;
    return Ask(fd, request, copy);
  }
  Answer Ask(int fd, const kernel_abi::Request<kernel_abi::Nothing>& request) {
    return Answer(kernel_->Ioctl(fd, request.number, 0));
  }
  // With a null pointer for an argument.
  template <typename Argument>
  Answer AskNull(int fd, const kernel_abi::Request<Argument>& request) {
    return Answer(kernel_->Ioctl(fd, request.number, 0));
  }

  kernel_abi::UniqueFd EventFd();
  // Descriptors of the wrong kind.
  kernel_abi::UniqueFd DevNull();
  static constexpr int kBadFd = 9999;

  std::unique_ptr<fakes::FakeKernel> fake_;

 private:
  kernel_abi::Kernel* kernel_ = nullptr;
  Release release_;
};

// Guest memory for rings: pages of this process, and addresses where nothing is.
class Memory {
 public:
  Memory();
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  static constexpr size_t kSize = 1 << 20;
  uint64_t address() const { return reinterpret_cast<uintptr_t>(base_); }
  std::byte* base() const { return base_; }
  // A page that is not mapped, but could be.
  uint64_t hole() const { return address() + kSize; }
  static constexpr uint64_t kKernelAddress = 0xffff888000000000;

  // One region that covers all of it, at guest address 0.
  kernel_abi::MemoryTable Table() const;
  // Ring `index` of up to 1024 entries.
  vhost_vring_addr Ring(unsigned index) const;

 private:
  std::byte* base_ = nullptr;
};

}  // namespace contract
