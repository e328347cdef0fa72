// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The JSON library, for the few .cc files of this folder that need it (it compiles slowly, so no
// other header includes this one, and it is not installed). Parsing is always done without
// exceptions, and every access is preceded by a check of the type.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace vhost::control {

// Keys stay in the order in which they were written: replies read like the text of `show`.
using Json = nlohmann::ordered_json;

// One line, no spaces. Bytes that are not UTF-8 (a thread's name may be anything) become U+FFFD.
inline std::string ToLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace vhost::control
