// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/proc_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernel-abi/unique_fd.h"

namespace vhost::ctl {
namespace {

void SetError(int* error) {
  if (error != nullptr) *error = errno;
}

}  // namespace

std::optional<std::string> ReadText(const std::string& path, int* error) {
  constexpr size_t kMostBytes = 8 << 20;
  // O_NONBLOCK: a FIFO that somebody put there must not keep us.
  const kernel_abi::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    SetError(error);
    return std::nullopt;
  }
  std::string text;
  std::array<char, 16384> buffer;
  ssize_t length = 0;
  while (text.size() < kMostBytes && (length = read(fd.get(), buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<size_t>(length));
  }
  if (length < 0) {
    SetError(error);
    return std::nullopt;
  }
  return text;
}

std::optional<long> ReadNumber(const std::string& path) {
  const std::optional<std::string> text = ReadText(path);
  long number = 0;
  if (!text.has_value() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &number)) {
    return std::nullopt;
  }
  return number;
}

std::vector<std::string> NamesIn(const std::string& folder, int* error) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(folder.c_str()), &closedir);
  if (directory == nullptr) {
    SetError(error);
    return names;
  }
  while (const dirent* entry = readdir(directory.get())) {
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> ReadLink(const std::string& path, int* error) {
  std::array<char, 4096> buffer;
  const ssize_t length = readlink(path.c_str(), buffer.data(), buffer.size());
  if (length < 0) {
    SetError(error);
    return std::nullopt;
  }
  return std::string(buffer.data(), static_cast<size_t>(length));
}

std::string StatusField(absl::string_view text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::ConsumePrefix(&line, key) && absl::ConsumePrefix(&line, ":")) {
      return std::string(absl::StripAsciiWhitespace(line));
    }
  }
  return {};
}

std::string UserName(uid_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  std::array<char, 4096> buffer;
  getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found);
  return found != nullptr ? found->pw_name : absl::StrCat(uid);
}

std::string GroupName(gid_t gid) {
  group entry{};
  group* found = nullptr;
  std::array<char, 16384> buffer;
  getgrgid_r(gid, &entry, buffer.data(), buffer.size(), &found);
  return found != nullptr ? found->gr_name : absl::StrCat(gid);
}

}  // namespace vhost::ctl
