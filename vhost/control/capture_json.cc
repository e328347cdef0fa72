// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/capture_json.h"

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vhost/control/json.h"

namespace vhost::control {
namespace {

constexpr int64_t kNsInASecond = 1'000'000'000;

absl::Status Wrong(absl::string_view key) {
  return absl::InvalidArgumentError(absl::StrCat("captured packets: \"", key, "\" is not right"));
}

// The member as a number from 0 to `most`.
template <typename Number>
absl::Status Take(const Json& object, const char* key, Number* to,
                  uint64_t most = std::numeric_limits<Number>::max()) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_unsigned()) return Wrong(key);
  const auto value = found->get<uint64_t>();
  if (value > most) return Wrong(key);
  *to = static_cast<Number>(value);
  return absl::OkStatus();
}

absl::Status TakePacket(const Json& json, CapturedPacket* packet) {
  if (!json.is_object()) return Wrong("packets");
  int64_t seconds = 0;
  int64_t nanoseconds = 0;
  for (const absl::Status& status :
       {Take(json, "number", &packet->number),
        Take(json, "seconds", &seconds, std::numeric_limits<int64_t>::max() / kNsInASecond - 1),
        Take(json, "nanoseconds", &nanoseconds, kNsInASecond - 1),
        Take(json, "queue", &packet->queue), Take(json, "head", &packet->head),
        Take(json, "chain_bytes", &packet->chain_bytes), Take(json, "buffers", &packet->buffers),
        Take(json, "length", &packet->length)}) {
    if (!status.ok()) return status;
  }
  packet->time_ns = seconds * kNsInASecond + nanoseconds;
  const auto data = json.find("data");
  if (data == json.end() || !data->is_string() ||
      !absl::Base64Unescape(data->get_ref<const std::string&>(), &packet->bytes) ||
      packet->bytes.size() > packet->length) {
    return Wrong("data");
  }
  return absl::OkStatus();
}

}  // namespace

std::string CaptureMembers(const CaptureBatch& batch) {
  return absl::StrCat("\"next\":", batch.next, ",\"dropped\":", batch.dropped,
                      ",\"more\":", batch.more ? "true" : "false", ",\"packets\":[",
                      absl::StrJoin(batch.packets, ",",
                                    [](std::string* out, const CapturedPacket& packet) {
                                      absl::StrAppend(
                                          out, "{\"number\":", packet.number,
                                          ",\"seconds\":", packet.time_ns / kNsInASecond,
                                          ",\"nanoseconds\":", packet.time_ns % kNsInASecond,
                                          ",\"queue\":", packet.queue, ",\"head\":", packet.head);
                                      absl::StrAppend(out, ",\"chain_bytes\":", packet.chain_bytes,
                                                      ",\"buffers\":", packet.buffers,
                                                      ",\"length\":", packet.length, ",\"data\":\"",
                                                      absl::Base64Escape(packet.bytes), "\"}");
                                    }),
                      "]");
}

absl::StatusOr<CaptureBatch> CaptureFromJson(absl::string_view result) {
  const Json json = Json::parse(result.begin(), result.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("captured packets: not a JSON object");
  CaptureBatch batch;
  if (absl::Status status = Take(json, "next", &batch.next); !status.ok()) return status;
  if (absl::Status status = Take(json, "dropped", &batch.dropped); !status.ok()) return status;
  const auto more = json.find("more");
  if (more == json.end() || !more->is_boolean()) return Wrong("more");
  batch.more = more->get<bool>();
  const auto packets = json.find("packets");
  if (packets == json.end() || !packets->is_array()) return Wrong("packets");
  for (const Json& each : *packets) {
    CapturedPacket packet;
    if (absl::Status status = TakePacket(each, &packet); !status.ok()) return status;
    batch.packets.push_back(std::move(packet));
  }
  return batch;
}

}  // namespace vhost::control
