// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How the fake kernel touches memory of the process that it serves: as Linux does, with a fault for
// an answer where nothing is mapped. A test may hand it any address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace fakes {

// 0 or -EFAULT.
int CopyFromUser(void* to, uint64_t address, size_t size);
int CopyToUser(uint64_t address, const void* from, size_t size);

template <typename T>
int Get(T* to, uint64_t address) {
  static_assert(std::is_trivially_copyable_v<T>);
  return CopyFromUser(to, address, sizeof(T));
}
template <typename T>
int Put(uint64_t address, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return CopyToUser(address, &value, sizeof(T));
}

// Linux's access_ok() on x86-64: below the kernel's half, without a wrap. Nothing is said about
// whether anything is mapped there.
bool AccessOk(uint64_t address, uint64_t size);

}  // namespace fakes
