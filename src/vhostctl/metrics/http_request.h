// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// As much of HTTP/1.1 as a scraper speaks: one request of one head, and the reply to it. Plain text
// in, plain text out; whoever moves the bytes is elsewhere.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "src/vhostctl/metrics/exposition.h"

namespace vhost::ctl {

// The longest head of a request, in bytes.
inline constexpr size_t kMaxHeadBytes = 8192;

// What is to be done about what a client has said.
struct HttpVerdict {
  int status = 200;  // 200: metrics are wanted; otherwise what is wrong
  bool head_only = false;
  MetricFormat format = MetricFormat::kText;
};

// nullopt: the head is not complete yet.
std::optional<HttpVerdict> JudgeRequest(absl::string_view bytes);

// A whole reply, after which the connection is closed. `body` is that of a status of 200; others
// have one line that says what is wrong.
std::string HttpReply(const HttpVerdict& verdict, absl::string_view body);

}  // namespace vhost::ctl
