// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/metrics/http_request.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace vhost::ctl {
namespace {

constexpr absl::string_view kOpenMetrics = "application/openmetrics-text";
constexpr absl::string_view kText = "text/plain";

// The weight that an Accept header gives to a type; 0: it is not wanted, or not named.
double WeightOf(absl::string_view accept, absl::string_view type) {
  double best = 0;
  for (const absl::string_view range : absl::StrSplit(accept, ',')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(range, ';');
    if (!absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(parts[0]), type)) continue;
    double weight = 1;
    for (size_t i = 1; i < parts.size(); ++i) {
      absl::string_view parameter = absl::StripAsciiWhitespace(parts[i]);
      if (!absl::ConsumePrefix(&parameter, "q=")) continue;
      if (!absl::SimpleAtod(parameter, &weight) || !(weight >= 0 && weight <= 1)) weight = 0;
    }
    best = std::max(best, weight);
  }
  return best;
}

bool IsToken(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           absl::StrContains("!#$%&'*+-.^_`|~", absl::string_view(&c, 1));
  });
}

// What a header line says, or nullopt if it is none.
struct Header {
  absl::string_view name;
  absl::string_view value;
};
std::optional<Header> HeaderOf(absl::string_view line) {
  const size_t colon = line.find(':');
  if (colon == absl::string_view::npos || !IsToken(line.substr(0, colon))) return std::nullopt;
  return Header{line.substr(0, colon), absl::StripAsciiWhitespace(line.substr(colon + 1))};
}

const char* ReasonOf(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Bad Request";
  }
}

int StatusOfLine(absl::string_view line, HttpVerdict* verdict) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  if (words.size() != 3 || !IsToken(words[0]) || words[1].empty()) return 400;
  if (!absl::StartsWith(words[2], "HTTP/")) return 400;
  if (words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0") return 505;
  const absl::string_view path = words[1].substr(0, words[1].find('?'));
  verdict->head_only = words[0] == "HEAD";
  if (words[0] != "GET" && words[0] != "HEAD") return 405;
  return path == "/metrics" ? 200 : 404;
}

}  // namespace

std::optional<HttpVerdict> JudgeRequest(absl::string_view bytes) {
  // A bare line feed ends a line as well (RFC 9112, 2.2).
  size_t end = bytes.find("\r\n\r\n");
  end = std::min(end, bytes.find("\n\n"));
  if (end == absl::string_view::npos) {
    if (bytes.size() >= kMaxHeadBytes) return HttpVerdict{.status = 431};
    return std::nullopt;
  }
  if (end > kMaxHeadBytes) return HttpVerdict{.status = 431};
  std::string accept;
  HttpVerdict verdict;
  bool is_first = true;
  for (absl::string_view line : absl::StrSplit(bytes.substr(0, end), '\n')) {
    absl::ConsumeSuffix(&line, "\r");
    if (std::exchange(is_first, false)) {
      verdict.status = StatusOfLine(line, &verdict);
      if (verdict.status != 200) return verdict;
      continue;
    }
    const std::optional<Header> header = HeaderOf(line);
    if (!header.has_value()) {
      verdict.status = 400;
      return verdict;
    }
    if (absl::EqualsIgnoreCase(header->name, "accept")) {
      absl::StrAppend(&accept, accept.empty() ? "" : ",", header->value);
    }
    // Nobody who wants metrics has anything more to say, and none of it would be read.
    const bool has_body =
        absl::EqualsIgnoreCase(header->name, "transfer-encoding") ||
        (absl::EqualsIgnoreCase(header->name, "content-length") && header->value != "0");
    if (has_body) {
      verdict.status = 413;
      return verdict;
    }
  }
  const double open_metrics = WeightOf(accept, kOpenMetrics);
  if (open_metrics > 0 && open_metrics >= WeightOf(accept, kText)) {
    verdict.format = MetricFormat::kOpenMetrics;
  }
  return verdict;
}

std::string HttpReply(const HttpVerdict& verdict, absl::string_view body) {
  const std::string wrong = absl::StrCat(verdict.status, " ", ReasonOf(verdict.status),
                                         verdict.status == 404 ? "; see /metrics\n" : "\n");
  const bool is_ok = verdict.status == 200;
  if (!is_ok) body = wrong;
  std::string reply = absl::StrCat(
      "HTTP/1.1 ", verdict.status, " ", ReasonOf(verdict.status), "\r\nContent-Type: ",
      is_ok && verdict.format == MetricFormat::kOpenMetrics
          ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
      : is_ok ? "text/plain; version=0.0.4; charset=utf-8"
              : "text/plain",
      "\r\nContent-Length: ", body.size(), verdict.status == 405 ? "\r\nAllow: GET, HEAD" : "",
      "\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n");
  if (!verdict.head_only) absl::StrAppend(&reply, body);
  return reply;
}

}  // namespace vhost::ctl
