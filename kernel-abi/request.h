// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// An ioctl as a value: its number, its name, the type of its argument, and the kernel that brought
// it. Each header of this folder lists the requests of one kernel subsystem in this form; Call()
// is the one way to make them, and turns a refusal into a Status that names the subject, the
// request, its decoded arguments and the errno:
//
//   /dev/vhost-net: VHOST_SET_VRING_NUM(index=1 num=300): EINVAL (Invalid argument)
//
// An argument type `A` has an overload `std::string Describe(const A&)` in its own namespace (the
// global one for the structs of <linux/*>), where Call() finds it whatever was included first.
// Where the type does not say what is meant (a u64 that is a feature word, or a CID), the request
// brings its own. Either is only called when there is something to report.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/system_error.h"

namespace kernel_abi {

// The kernel release that brought a request, where that is newer than Linux 6.1 (the oldest that
// this project runs on).
struct Since {
  int major = 0;
  int minor = 0;
};

// A request whose argument is nothing.
struct Nothing {};
inline std::string Describe(Nothing) { return {}; }

// A request that takes a number where others take a pointer (TUNSETOFFLOAD, KVM_CHECK_EXTENSION).
template <typename Number>
struct ByValue {
  Number value;
};
template <typename Number>
std::string Describe(ByValue<Number> argument) {
  return std::to_string(argument.value);
}

inline std::string Describe(int value) { return std::to_string(value); }
inline std::string Describe(unsigned value) { return std::to_string(value); }
std::string Describe(uint64_t value);  // in hexadecimal: features, addresses

template <typename Argument>
struct Request {
  unsigned long number;
  const char* name;
  Since since{};
  std::string (*describe)(const Argument&) = nullptr;  // null: Describe(argument)
};

// Whom a request is made of: an open fd that stays the caller's, and its name in messages.
struct Subject {
  Kernel& kernel;
  int fd;
  absl::string_view name;
};

namespace internal {

template <typename T>
inline constexpr bool kIsByValue = false;
template <typename Number>
inline constexpr bool kIsByValue<ByValue<Number>> = true;

// A type that owns what it points the kernel to says where that is.
template <typename T>
concept HasKernelArgument = requires(T& t) {
  t.kernel_argument();
};

template <typename Argument>
uintptr_t AsRegister(Argument& argument) {
  using Plain = std::remove_const_t<Argument>;
  if constexpr (std::is_same_v<Plain, Nothing>) {
    return 0;
  } else if constexpr (kIsByValue<Plain>) {
    return static_cast<uintptr_t>(argument.value);
  } else if constexpr (HasKernelArgument<Argument>) {
    return reinterpret_cast<uintptr_t>(argument.kernel_argument());
  } else {
    return reinterpret_cast<uintptr_t>(&argument);
  }
}

}  // namespace internal

// Makes `request` of `subject`. The argument is read by the kernel, written, or both, as the
// request has it. Returns what the kernel returned (0 for most requests), or the error described
// above. Blocks as long as the kernel does.
template <typename Argument, typename Given>
absl::StatusOr<int> Call(const Subject& subject, const Request<Argument>& request,
                         Given&& argument) {
  static_assert(std::is_same_v<std::remove_cvref_t<Given>, Argument>,
                "the argument must be of the request's own type");
  const int result =
      subject.kernel.Ioctl(subject.fd, request.number, internal::AsRegister(argument));
  if (result >= 0) return result;
  return MakeSystemError(
      {.error = -result,
       .subject = std::string(subject.name),
       .call = request.name,
       .arguments = request.describe != nullptr ? request.describe(argument) : Describe(argument)});
}

inline absl::StatusOr<int> Call(const Subject& subject, const Request<Nothing>& request) {
  return Call(subject, request, Nothing{});
}

}  // namespace kernel_abi
