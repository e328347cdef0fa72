// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/protocol.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "vhost/control/json.h"

namespace vhost::control {
namespace {

// A request or reply that is not even JSON has no type to complain about.
Json ParseJson(absl::string_view text) {
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

// The member if it is there and a string; empty if it is not there.
absl::Status TakeString(const Json& object, const char* key, std::string* to) {
  const auto found = object.find(key);
  if (found == object.end()) return absl::OkStatus();
  if (!found->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("request: \"", key, "\" must be a string"));
  }
  *to = found->get_ref<const std::string&>();
  return absl::OkStatus();
}

// The member if it is there and a number from 0 to `most`.
template <typename Number>
absl::Status TakeNumber(const Json& object, const char* key, uint64_t most, Number* to) {
  const auto found = object.find(key);
  if (found == object.end()) return absl::OkStatus();
  if (!found->is_number_unsigned() || found->get<uint64_t>() > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("request: \"", key, "\" must be a number from 0 to ", most));
  }
  *to = static_cast<Number>(found->get<uint64_t>());
  return absl::OkStatus();
}

absl::Status CheckVersion(const Json& object) {
  const auto version = object.find("version");
  if (version == object.end() || !version->is_number_integer()) {
    return absl::InvalidArgumentError("request: \"version\" must be a number; this is version 1");
  }
  if (*version != kProtocolVersion) {
    return absl::UnimplementedError(absl::StrCat("request: version ", version->dump(),
                                                 " is not spoken here; this is version ",
                                                 kProtocolVersion));
  }
  return absl::OkStatus();
}

absl::StatusCode CodeFromName(absl::string_view name) {
  for (int code = 0; code <= 16; ++code) {
    const auto status_code = static_cast<absl::StatusCode>(code);
    if (absl::StatusCodeToString(status_code) == name) return status_code;
  }
  return absl::StatusCode::kUnknown;
}

// The parser and the printer call themselves once a level, and a reply comes from whoever listens
// at a socket. Ours have less than ten levels.
constexpr int kMaxLevels = 64;

bool HasTooManyLevels(absl::string_view json) {
  int levels = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++levels > kMaxLevels) return true;
    } else if (c == ']' || c == '}') {
      --levels;
    }
  }
  return false;
}

absl::StatusOr<Json> ParseObject(absl::string_view text, absl::string_view what) {
  if (HasTooManyLevels(text)) {
    return absl::DataLossError(absl::StrCat(what, ": more than ", kMaxLevels, " levels of JSON"));
  }
  Json json = ParseJson(text);
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(what, ": not a JSON object"));
  return json;
}

}  // namespace

absl::StatusOr<Request> ParseRequest(absl::string_view line, std::string* id) {
  const Json json = ParseJson(line);
  if (json.is_discarded()) return absl::InvalidArgumentError("request: not JSON");
  if (!json.is_object()) return absl::InvalidArgumentError("request: must be a JSON object");
  Request request;
  if (const auto found = json.find("id"); found != json.end()) {
    if (!found->is_string() && !found->is_number() && !found->is_null()) {
      return absl::InvalidArgumentError("request: \"id\" must be a number or a string");
    }
    request.id = ToLine(*found);
    *id = request.id;
  }
  if (absl::Status status = CheckVersion(json); !status.ok()) return status;
  if (absl::Status status = TakeString(json, "command", &request.command); !status.ok()) {
    return status;
  }
  if (request.command.empty()) return absl::InvalidArgumentError("request: no \"command\"");
  if (absl::Status status = TakeString(json, "device", &request.device); !status.ok()) {
    return status;
  }
  if (absl::Status status = TakeString(json, "to", &request.to); !status.ok()) return status;
  if (absl::Status status = TakeString(json, "reason", &request.reason); !status.ok()) {
    return status;
  }
  absl::Status status = TakeNumber(json, "after", UINT64_MAX, &request.after);
  if (status.ok()) status = TakeNumber(json, "snaplen", UINT32_MAX, &request.snaplen);
  if (!status.ok()) return status;
  status = TakeString(json, "description", &request.description);
  if (!status.ok()) return status;
  return request;
}

std::string RequestLine(const Request& request) {
  Json json = Json::object();
  json["version"] = kProtocolVersion;
  json["id"] = ParseJson(request.id);
  json["command"] = request.command;
  if (!request.device.empty()) json["device"] = request.device;
  if (!request.to.empty()) json["to"] = request.to;
  if (!request.reason.empty()) json["reason"] = request.reason;
  if (request.after.has_value()) json["after"] = *request.after;
  if (request.snaplen != 0) json["snaplen"] = request.snaplen;
  if (!request.description.empty()) json["description"] = request.description;
  return ToLine(json) + "\n";
}

std::string OkLine(absl::string_view id, absl::string_view result) {
  // Both are JSON already: the largest part of a reply is not parsed to be written again.
  return absl::StrCat("{\"version\":", kProtocolVersion, ",\"id\":", id,
                      ",\"ok\":true,\"result\":", result, "}\n");
}

std::string ErrorLine(absl::string_view id, const absl::Status& status) {
  Json error = Json::object();
  error["code"] = absl::StatusCodeToString(status.code());
  error["message"] = std::string(status.message());
  if (const int number = kernel_abi::GetErrno(status); number != 0) error["errno"] = number;
  return absl::StrCat("{\"version\":", kProtocolVersion, ",\"id\":", id,
                      ",\"ok\":false,\"error\":", ToLine(error), "}\n");
}

std::string EventLine(absl::string_view id, absl::string_view event, uint64_t dropped) {
  return absl::StrCat("{\"version\":", kProtocolVersion, ",\"id\":", id, ",\"dropped\":", dropped,
                      ",\"event\":", event, "}\n");
}

absl::StatusOr<std::string> ParseReply(absl::string_view line, std::optional<pid_t> server) {
  absl::StatusOr<Json> json = ParseObject(line, "reply");
  if (!json.ok()) return json.status();
  const auto ok = json->find("ok");
  if (ok == json->end() || !ok->is_boolean()) {
    return absl::DataLossError("reply: \"ok\" must be true or false");
  }
  if (ok->get_ref<const bool&>()) {
    const auto result = json->find("result");
    if (result == json->end()) return absl::DataLossError("reply: no \"result\"");
    if (server.has_value() && result->is_object()) {
      const auto process = result->find("process");
      if (process != result->end() && process->is_object()) (*process)["pid"] = *server;
    }
    return ToLine(*result);
  }
  const auto error = json->find("error");
  if (error == json->end() || !error->is_object()) {
    return absl::DataLossError("reply: no \"error\"");
  }
  std::string code;
  std::string message;
  if (!TakeString(*error, "code", &code).ok() || !TakeString(*error, "message", &message).ok() ||
      code.empty() || CodeFromName(code) == absl::StatusCode::kOk) {
    return absl::DataLossError("reply: \"error\" must have a code and a message");
  }
  return absl::Status(CodeFromName(code), message);
}

std::string ToJson(const ProcessInfo& info) {
  Json json = Json::object();
  json["vm"] = info.vm;
  json["pid"] = info.pid;
  json["library_version"] = info.library_version;
  json["protocol_version"] = kProtocolVersion;
  return ToLine(json);
}

absl::StatusOr<ProcessInfo> ProcessInfoFromJson(absl::string_view text) {
  absl::StatusOr<Json> json = ParseObject(text, "process");
  if (!json.ok()) return json.status();
  ProcessInfo info;
  if (!TakeString(*json, "vm", &info.vm).ok() ||
      !TakeString(*json, "library_version", &info.library_version).ok()) {
    return absl::DataLossError("process: \"vm\" and \"library_version\" must be strings");
  }
  const auto pid = json->find("pid");
  if (pid != json->end() && pid->is_number_integer()) info.pid = pid->get<int>();
  return info;
}

absl::StatusOr<std::string> Member(absl::string_view object, absl::string_view key) {
  absl::StatusOr<Json> json = ParseObject(object, "result");
  if (!json.ok()) return json.status();
  const auto found = json->find(std::string(key));
  if (found == json->end()) return absl::NotFoundError(absl::StrCat("result: no \"", key, "\""));
  return ToLine(*found);
}

absl::StatusOr<std::vector<std::string>> Elements(absl::string_view list) {
  if (HasTooManyLevels(list)) return absl::DataLossError("result: too many levels of JSON");
  const Json json = ParseJson(list);
  if (!json.is_array()) return absl::DataLossError("result: not a list");
  std::vector<std::string> elements;
  for (const Json& element : json) elements.push_back(ToLine(element));
  return elements;
}

std::string Quoted(absl::string_view text) { return ToLine(Json(std::string(text))); }

absl::StatusOr<std::string> Indent(absl::string_view text) {
  if (HasTooManyLevels(text)) return absl::DataLossError("too many levels of JSON");
  const Json json = ParseJson(text);
  if (json.is_discarded()) return absl::DataLossError("not JSON");
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace vhost::control
