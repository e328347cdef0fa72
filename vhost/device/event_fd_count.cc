// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/event_fd_count.h"

#include <fcntl.h>

#include <array>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernel-abi/unique_fd.h"

namespace vhost {

std::optional<uint64_t> ReadEventFdCount(kernel_abi::Kernel& kernel, int fd) {
  const kernel_abi::UniqueFd info(
      kernel.Open(absl::StrCat("/proc/self/fdinfo/", fd).c_str(), O_RDONLY));
  if (!info.valid()) return std::nullopt;
  std::array<char, 512> text;
  const ssize_t length = kernel.Read(info.get(), text.data(), text.size());
  if (length <= 0) return std::nullopt;
  const absl::string_view all(text.data(), static_cast<size_t>(length));
  constexpr absl::string_view kKey = "eventfd-count:";
  const size_t at = all.find(kKey);
  if (at == absl::string_view::npos) return std::nullopt;
  absl::string_view value = all.substr(at + kKey.size());
  value = value.substr(0, value.find('\n'));
  uint64_t count = 0;
  // In hexadecimal, padded with spaces.
  if (!absl::SimpleHexAtoi(value, &count)) return std::nullopt;
  return count;
}

}  // namespace vhost
