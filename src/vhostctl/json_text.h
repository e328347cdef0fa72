// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// JSON put together from text, for what vhostctl itself has to say. Reports of others are passed on
// as they came.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "vhost/control/protocol.h"

namespace vhost::ctl {

class JsonObject {
 public:
  JsonObject& Text(absl::string_view key, absl::string_view value) {
    return Json(key, control::Quoted(value));
  }
  template <typename Number>
  requires std::is_arithmetic_v<Number> JsonObject& Value(absl::string_view key, Number value) {
    if constexpr (std::is_same_v<Number, bool>) return Json(key, value ? "true" : "false");
    return Json(key, absl::StrCat(value));
  }
  // What is JSON already.
  JsonObject& Json(absl::string_view key, absl::string_view value) {
    absl::StrAppend(&members_, members_.empty() ? "" : ",", control::Quoted(key), ":", value);
    return *this;
  }
  std::string Done() const { return absl::StrCat("{", members_, "}"); }

 private:
  std::string members_;
};

inline std::string JsonList(const std::vector<std::string>& values) {
  return absl::StrCat("[", absl::StrJoin(values, ","), "]");
}
inline std::string JsonStrings(const std::vector<std::string>& values) {
  std::vector<std::string> quoted;
  for (const std::string& value : values) quoted.push_back(control::Quoted(value));
  return JsonList(quoted);
}

}  // namespace vhost::ctl
