// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/state_json.h"

#include "absl/strings/str_cat.h"
#include "vhost/control/json_reader.h"
#include "vhost/control/json_writer.h"

namespace vhost::control {

template <typename Archive, ReportOf<QueueState> State>
void Fields(Archive& archive, State& queue) {
  archive.Value("queue", queue.queue);
  archive.Value("enabled", queue.enabled);
  archive.Object("setup", queue.setup);
  archive.Value("base", queue.base);
}

template <typename Archive, ReportOf<NetState> State>
void Fields(Archive& archive, State& net) {
  archive.Value("mac", net.mac);
  archive.Value("active_queue_pairs", net.active_queue_pairs);
  archive.Value("announce", net.announce);
  archive.Features("guest_offloads", net.guest_offloads);
  archive.Object("receive_filter", net.receive_filter);
}

template <typename Archive, ReportOf<VsockState> State>
void Fields(Archive& archive, State& vsock) {
  archive.Value("guest_cid", vsock.guest_cid);
}

template <typename Archive, ReportOf<DeviceState> State>
void Fields(Archive& archive, State& state) {
  archive.Value("version", state.version);
  archive.Named("type", state.id);
  archive.Of(state.id);
  archive.Value("status", state.status);
  archive.Features("acked", state.acked);
  archive.Value("config_generation", state.config_generation);
  archive.List("queues", state.queues);
  archive.Object("net", state.net);
  archive.Object("vsock", state.vsock);
}

std::string ToJson(const DeviceState& state) { return ToLine(JsonWriter(state.id).Write(state)); }

absl::StatusOr<DeviceState> DeviceStateFromJson(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("saved state: not JSON");
  DeviceState state;
  state.version = 0;  // It must be there.
  absl::Status error;
  JsonReader::Read(json, "", state, &error);
  if (!error.ok()) return error;
  if (state.version != DeviceState::kVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        "saved state: version ", state.version, ", and this is version ", DeviceState::kVersion));
  }
  return state;
}

}  // namespace vhost::control
