// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/system_error.h"

#include <cstring>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace kernel_abi {
namespace {

constexpr char kPayloadUrl[] = "vhost/system-error";
// Fields of the payload stand in this order, divided by a byte that no field contains.
constexpr char kDivider = '\0';

absl::Status WithMessage(const absl::Status& status, absl::string_view message) {
  absl::Status changed(status.code(), message);
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { changed.SetPayload(url, payload); });
  return changed;
}

}  // namespace

std::string ErrnoText(int error) {
  const char* name = ::strerrorname_np(error);
  const char* text = ::strerrordesc_np(error);
  return absl::StrCat(name != nullptr ? std::string(name) : absl::StrCat("errno ", error), " (",
                      text != nullptr ? text : "unknown error", ")");
}

absl::Status MakeSystemError(const SystemError& error, absl::string_view advice) {
  absl::Status status(
      absl::ErrnoToStatusCode(error.error),
      absl::StrCat(error.subject, ": ", error.call,
                   error.arguments.empty() ? "" : absl::StrCat("(", error.arguments, ")"), ": ",
                   ErrnoText(error.error), advice.empty() ? "" : "; ", advice));
  std::string payload = absl::StrCat(error.error);
  for (const std::string* field : {&error.subject, &error.call, &error.arguments}) {
    payload.push_back(kDivider);
    payload.append(*field);
  }
  status.SetPayload(kPayloadUrl, absl::Cord(payload));
  return status;
}

std::optional<SystemError> GetSystemError(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayloadUrl);
  if (!payload.has_value()) return std::nullopt;
  const std::string text(*payload);
  const std::vector<std::string> fields = absl::StrSplit(text, kDivider);
  SystemError error;
  if (fields.size() != 4 || !absl::SimpleAtoi(fields[0], &error.error)) return std::nullopt;
  error.subject = fields[1];
  error.call = fields[2];
  error.arguments = fields[3];
  return error;
}

int GetErrno(const absl::Status& status) {
  if (status.ok()) return 0;
  const std::optional<SystemError> error = GetSystemError(status);
  return error.has_value() ? error->error : 0;
}

absl::Status AddContext(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return WithMessage(status, absl::StrCat(context, ": ", status.message()));
}

absl::Status AddAdvice(const absl::Status& status, absl::string_view advice) {
  if (status.ok() || advice.empty()) return status;
  return WithMessage(status, absl::StrCat(status.message(), "; ", advice));
}

}  // namespace kernel_abi
