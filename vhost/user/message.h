// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One vhost-user message, and the rules that it must keep. What comes from a peer is checked here,
// before anybody looks at it: known request, exact size, as many fds as belong to it. A message
// that was received owns its fds, so that whatever is wrong with it, they are closed.
//
//   bytes --> CheckHeader --> (payload is read) --> Check --> GetU64, GetPayload, GetMemTable ...
//
// Building one cannot fail:  MakeRequest(FrontEndRequest::kSetVringNum, VringState{0, 256})
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/user/protocol.h"

namespace vhost::user {

struct Message {
  uint32_t request = 0;
  uint32_t flags = kVersion;
  std::vector<std::byte> payload;
  // One that is received owns these.
  std::vector<kernel_abi::UniqueFd> fds;

  bool is_reply() const { return (flags & kFlagReply) != 0; }
  bool wants_ack() const { return (flags & kFlagNeedReply) != 0; }
  bool Is(FrontEndRequest id) const { return request == static_cast<uint32_t>(id); }
  bool Is(BackEndRequest id) const { return request == static_cast<uint32_t>(id); }
};

// ---- Checks of what a peer sent ----------------------------------------------------------------

// Whether what follows is worth reading: INVALID_ARGUMENT for another version, unknown flags, a
// request that nobody here knows, or a payload that no message of it has.
absl::Status CheckHeader(RequestSet set, const Header& header);
// Whether the message is what its request wants: payload of the exact size, counts in it that match
// it, as many fds as belong to it. Its flag says whether it is a request or a reply. A reply may be
// a bare number, the answer to need_reply, also where the request has none of its own.
absl::Status Check(RequestSet set, const Message& message);
// Whether the request is answered also without need_reply.
bool HasReply(RequestSet set, uint32_t request);

// ---- Payloads ----------------------------------------------------------------------------------

// INVALID_ARGUMENT if the payload is of another size.
absl::Status CopyPayload(const Message& message, void* to, size_t bytes);

template <typename Payload>
absl::StatusOr<Payload> GetPayload(const Message& message) {
  static_assert(std::is_trivially_copyable_v<Payload>);
  Payload payload{};
  constexpr size_t kBytes =
      std::is_same_v<Payload, InflightDescription> ? kInflightBytes : sizeof(Payload);
  absl::Status status = CopyPayload(message, &payload, kBytes);
  if (!status.ok()) return status;
  return payload;
}
inline absl::StatusOr<uint64_t> GetU64(const Message& message) {
  return GetPayload<uint64_t>(message);
}
// Of SET_MEM_TABLE. fds[i] belongs to the i-th.
absl::StatusOr<std::vector<MemRegion>> GetMemTable(const Message& message);

struct ConfigPayload {
  uint32_t offset = 0;
  uint32_t flags = 0;
  std::vector<std::byte> bytes;
};
// Of GET_CONFIG and SET_CONFIG, and the answer to the former (which is empty for a failure: an
// error here).
absl::StatusOr<ConfigPayload> GetConfig(const Message& message);

// ---- Building ----------------------------------------------------------------------------------

Message MakeMessage(uint32_t request, std::span<const std::byte> payload = {});

template <typename Payload>
Message MakeRequest(FrontEndRequest request, const Payload& payload) {
  static_assert(std::is_trivially_copyable_v<Payload>);
  constexpr size_t kBytes =
      std::is_same_v<Payload, InflightDescription> ? kInflightBytes : sizeof(Payload);
  return MakeMessage(static_cast<uint32_t>(request),
                     std::as_bytes(std::span(&payload, 1)).first(kBytes));
}
template <typename Payload>
Message MakeRequest(BackEndRequest request, const Payload& payload) {
  static_assert(std::is_trivially_copyable_v<Payload>);
  return MakeMessage(static_cast<uint32_t>(request), std::as_bytes(std::span(&payload, 1)));
}
inline Message MakeRequest(FrontEndRequest request) {
  return MakeMessage(static_cast<uint32_t>(request));
}
inline Message MakeRequest(BackEndRequest request) {
  return MakeMessage(static_cast<uint32_t>(request));
}
Message MakeMemTable(std::span<const MemRegion> regions);  // up to kMostTableRegions
Message MakeConfig(FrontEndRequest request, uint32_t offset, uint32_t flags,
                   std::span<const std::byte> bytes);  // up to kMostConfigBytes

// The answer to `request`: a payload of its own, or a number.
template <typename Payload>
Message MakeReply(const Message& request, const Payload& payload) {
  static_assert(std::is_trivially_copyable_v<Payload>);
  constexpr size_t kBytes =
      std::is_same_v<Payload, InflightDescription> ? kInflightBytes : sizeof(Payload);
  Message reply = MakeMessage(request.request, std::as_bytes(std::span(&payload, 1)).first(kBytes));
  reply.flags |= kFlagReply;
  return reply;
}
// 0 tells of success, anything else of failure.
inline Message MakeAck(const Message& request, bool ok) {
  return MakeReply(request, uint64_t{ok ? 0U : 1U});
}
// The answer to GET_CONFIG; without bytes, that it failed.
Message MakeConfigReply(const Message& request, uint32_t offset, std::span<const std::byte> bytes);

}  // namespace vhost::user
