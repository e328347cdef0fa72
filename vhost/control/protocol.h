// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What passes over the control socket: one JSON object a line, from the client a request, from the
// server its reply. docs/control-protocol.md has it in full.
//
//   {"version":1,"id":7,"command":"show","device":"net0"}
//   {"version":1,"id":7,"ok":true,"result":{...}}
//   {"version":1,"id":7,"ok":false,"error":{"code":"NOT_FOUND","message":"..."}}
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vhost::control {

inline constexpr int kProtocolVersion = 1;
// The longest request line that a server takes, newline included. Short, because the time to parse
// a hostile one grows with its square, and it is spent on the control thread.
inline constexpr size_t kMaxRequestBytes = 4096;

struct Request {
  std::string id = "null";  // as JSON: a number, a string or null; the reply bears the same
  std::string command;
  std::string device;             // empty: none named
  std::string to;                 // of `handover`: the backend's kind, "in-process"
  std::string reason;             // why something is asked for, for reports; may be empty
  std::optional<uint64_t> after;  // of `capture`: `next` of the one before
  uint32_t snaplen = 0;           // of `capture`: bytes of a packet; 0: all
  std::string description;        // of `plug`: the device, in the VMM's words
};

// INVALID_ARGUMENT says what is wrong with the line; UNIMPLEMENTED: a version that is not ours.
// `id` is set as far as it could be read, so that also an error's reply bears it.
absl::StatusOr<Request> ParseRequest(absl::string_view line, std::string* id);
std::string RequestLine(const Request& request);

// Lines with their newline. `result` is JSON.
std::string OkLine(absl::string_view id, absl::string_view result);
std::string ErrorLine(absl::string_view id, const absl::Status& status);
// An event (JSON) for a client that asked for them. `dropped`: how many before it did not reach it.
std::string EventLine(absl::string_view id, absl::string_view event, uint64_t dropped);

// The result in a reply, as JSON; or the error that it bears, with its code and message.
// DATA_LOSS: it is no reply of this protocol. `server`: the process that answered, where the kernel
// tells; it stands in `process` then, whatever that process says of itself.
absl::StatusOr<std::string> ParseReply(absl::string_view line,
                                       std::optional<pid_t> server = std::nullopt);

// ---- Results -----------------------------------------------------------------------------------

// The process that serves the socket.
struct ProcessInfo {
  std::string vm;
  int pid = 0;
  std::string library_version;
};
std::string ToJson(const ProcessInfo& info);

// Members of a result: `Member(result, "devices")` is JSON, NOT_FOUND if there is none.
absl::StatusOr<std::string> Member(absl::string_view object, absl::string_view key);
// The elements of a JSON list, each as JSON.
absl::StatusOr<std::vector<std::string>> Elements(absl::string_view list);
absl::StatusOr<ProcessInfo> ProcessInfoFromJson(absl::string_view json);

// `text` as a JSON string, quotes included.
std::string Quoted(absl::string_view text);

// `json` with line breaks and two spaces a level, for people.
absl::StatusOr<std::string> Indent(absl::string_view json);

}  // namespace vhost::control
