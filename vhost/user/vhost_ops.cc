// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/vhost_ops.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "vhost/user/message.h"

namespace vhost::user {
namespace {

using enum FrontEndRequest;

MemRegion OnTheWire(const MemoryRegion& region) {
  return {.guest_address = static_cast<uint64_t>(region.start),
          .size = region.size,
          .user_address = reinterpret_cast<uintptr_t>(region.host),
          .mmap_offset = region.memfd_offset};
}

uint64_t UserAddress(const void* address) { return reinterpret_cast<uintptr_t>(address); }

}  // namespace

absl::Status CheckShareable(std::span<const MemoryRegion> regions, uint64_t max_regions) {
  for (const MemoryRegion& region : regions) {
    if (region.memfd >= 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(Describe(region),
                     " is anonymous memory, which another process cannot have: back the guest's "
                     "memory by a memfd"));
  }
  if (regions.size() > max_regions) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("the guest's memory has %d regions, the vhost-user back end takes %d",
                        regions.size(), max_regions));
  }
  return absl::OkStatus();
}

// ---- How requests are made ---------------------------------------------------------------------

absl::Status UserVhostOps::Tell(const Message& message, std::span<const int> fds) {
  ++requests_;
  return connection_.Send(message, fds, Deadline());
}

absl::StatusOr<Message> UserVhostOps::Ask(const Message& message, std::span<const int> fds) {
  ++requests_;
  return connection_.Call(message, fds, Deadline());
}

absl::StatusOr<uint64_t> UserVhostOps::AskNumber(FrontEndRequest request) {
  const absl::StatusOr<Message> reply = Ask(MakeRequest(request));
  if (!reply.ok()) return reply.status();
  return GetU64(*reply);
}

absl::Status UserVhostOps::TellAndWait(Message message, std::span<const int> fds) {
  if (!Has(ProtocolFeature::kReplyAck)) {
    if (absl::Status status = Tell(message, fds); !status.ok()) return status;
    // Requests are done in order: the answer to this one says that the other is over.
    return AskNumber(kGetFeatures).status();
  }
  message.flags |= kFlagNeedReply;
  const absl::StatusOr<Message> reply = Ask(message, fds);
  if (!reply.ok()) return reply.status();
  const absl::StatusOr<uint64_t> result = GetU64(*reply);
  if (!result.ok()) return result.status();
  if (*result == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(name(), ": the back end refused ",
                   RequestName(RequestSet::kFrontEnd, message.request), "; its log may say why"));
}

absl::Status UserVhostOps::SetVringFd(FrontEndRequest request, uint32_t index, int fd) {
  if (fd < 0) return Tell(MakeRequest(request, uint64_t{index} | kVringFdNone));
  return Tell(MakeRequest(request, uint64_t{index}), {&fd, 1});
}

// ---- The requests of vhost ---------------------------------------------------------------------

absl::Status UserVhostOps::SetOwner() { return Tell(MakeRequest(kSetOwner)); }

absl::StatusOr<VhostFeatures> UserVhostOps::GetFeatures() {
  const absl::StatusOr<uint64_t> features = AskNumber(kGetFeatures);
  if (!features.ok()) return features.status();
  return VhostFeatures::FromWords(*features);
}

absl::Status UserVhostOps::SetFeatures(VhostFeatures features) {
  const uint64_t own = speaks_protocol_ ? uint64_t{1} << kProtocolFeaturesBit : 0;
  return Tell(MakeRequest(kSetFeatures, features.low() | own));
}

absl::StatusOr<uint64_t> UserVhostOps::GetBackendFeatures() { return 0; }
absl::Status UserVhostOps::SetBackendFeatures(uint64_t) {
  return absl::UnimplementedError("vhost-user has no backend features of that kind");
}

absl::Status UserVhostOps::AddRegion(const MemoryRegion& region) {
  absl::Status status = TellAndWait(
      MakeRequest(kAddMemReg, SingleMemRegion{.padding = 0, .region = OnTheWire(region)}),
      {&region.memfd, 1});
  if (status.ok()) regions_.push_back(region);
  return status;
}

absl::Status UserVhostOps::RemoveRegion(const MemoryRegion& region) {
  absl::Status status = TellAndWait(
      MakeRequest(kRemMemReg, SingleMemRegion{.padding = 0, .region = OnTheWire(region)}));
  if (status.ok()) std::erase(regions_, region);
  return status;
}

absl::Status UserVhostOps::SetMemoryTable(std::span<const MemoryRegion> regions) {
  if (absl::Status status = CheckShareable(regions, max_regions_); !status.ok()) return status;
  if (regions.size() <= kTableRegions) {
    std::vector<MemRegion> table;
    std::vector<int> fds;
    for (const MemoryRegion& region : regions) {
      table.push_back(OnTheWire(region));
      fds.push_back(region.memfd);
    }
    absl::Status status = TellAndWait(MakeMemTable(table), fds);
    if (status.ok()) regions_.assign(regions.begin(), regions.end());
    return status;
  }
  // One by one. What goes makes room for what comes.
  const std::vector<MemoryRegion> before = regions_;
  for (const MemoryRegion& region : before) {
    if (std::ranges::count(regions, region) != 0) continue;
    if (absl::Status status = RemoveRegion(region); !status.ok()) return status;
  }
  for (const MemoryRegion& region : regions) {
    if (std::ranges::count(regions_, region) != 0) continue;
    if (absl::Status status = AddRegion(region); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status UserVhostOps::SetLogBase(const void*) {
  return absl::UnimplementedError("a log of written pages for vhost-user is an fd, not an address");
}
absl::Status UserVhostOps::SetLogFd(int event_fd) {
  return Tell(MakeRequest(kSetLogFd), {&event_fd, 1});
}

absl::Status UserVhostOps::SetVringSize(uint32_t index, uint32_t entries) {
  return Tell(MakeRequest(kSetVringNum, VringState{index, entries}));
}
absl::Status UserVhostOps::SetVringBase(uint32_t index, uint32_t base) {
  return Tell(MakeRequest(kSetVringBase, VringState{index, base}));
}

absl::StatusOr<uint32_t> UserVhostOps::GetVringBase(uint32_t index) {
  const absl::StatusOr<Message> reply = Ask(MakeRequest(kGetVringBase, VringState{index, 0}));
  if (!reply.ok()) return reply.status();
  const absl::StatusOr<VringState> state = GetPayload<VringState>(*reply);
  if (!state.ok()) return state.status();
  if (state->index != index) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: GET_VRING_BASE of vring %d was answered for vring %d", name(), index, state->index));
  }
  return state->num;
}

absl::Status UserVhostOps::SetVringAddresses(uint32_t index, const VringAddresses& addresses) {
  return TellAndWait(
      MakeRequest(kSetVringAddr, VringAddr{.index = index,
                                           .flags = addresses.log_used ? kVringFlagLog : 0,
                                           .desc = UserAddress(addresses.desc),
                                           .used = UserAddress(addresses.used),
                                           .avail = UserAddress(addresses.avail),
                                           .log = addresses.log_address}));
}

absl::Status UserVhostOps::SetVringKick(uint32_t index, int event_fd) {
  return event_fd < 0 ? absl::OkStatus() : SetVringFd(kSetVringKick, index, event_fd);
}
absl::Status UserVhostOps::SetVringCall(uint32_t index, int event_fd) {
  return SetVringFd(kSetVringCall, index, event_fd);
}
absl::Status UserVhostOps::SetVringErr(uint32_t index, int) {
  return SetVringFd(kSetVringErr, index, error_fds_[index]);
}

absl::Status UserVhostOps::SetVringBusyloop(uint32_t, uint32_t) {
  return absl::UnimplementedError("a vhost-user back end decides by itself how it polls");
}
absl::StatusOr<uint32_t> UserVhostOps::GetVringBusyloop(uint32_t) { return 0; }

// ---- What only vhost-user has ------------------------------------------------------------------

absl::StatusOr<ProtocolFeatures> UserVhostOps::NegotiateProtocol(ProtocolFeatures wanted) {
  const absl::StatusOr<uint64_t> offered = AskNumber(kGetProtocolFeatures);
  if (!offered.ok()) return offered.status();
  const ProtocolFeatures agreed = ProtocolFeatures::FromWords(*offered) & wanted;
  absl::Status status = Tell(MakeRequest(kSetProtocolFeatures, agreed.low()));
  if (!status.ok()) return status;
  speaks_protocol_ = true;
  protocol_ = agreed;
  return agreed;
}

absl::StatusOr<uint64_t> UserVhostOps::GetQueueNum() { return AskNumber(kGetQueueNum); }
absl::StatusOr<uint64_t> UserVhostOps::GetMaxMemSlots() { return AskNumber(kGetMaxMemSlots); }

absl::Status UserVhostOps::SetBackendReqFd(int socket) {
  return TellAndWait(MakeRequest(kSetBackendReqFd), {&socket, 1});
}

absl::StatusOr<std::vector<std::byte>> UserVhostOps::GetConfig(uint32_t bytes) {
  const std::vector<std::byte> room(bytes);
  const absl::StatusOr<Message> reply = Ask(MakeConfig(kGetConfig, 0, 0, room));
  if (!reply.ok()) return reply.status();
  absl::StatusOr<ConfigPayload> config = user::GetConfig(*reply);
  if (!config.ok()) {
    return kernel_abi::AddContext(config.status(), absl::StrFormat("%s: %d bytes", name(), bytes));
  }
  if (config->bytes.size() != bytes || config->offset != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: GET_CONFIG of %d bytes was answered with %d from offset %d", name(),
                        bytes, config->bytes.size(), config->offset));
  }
  return std::move(config->bytes);
}

absl::Status UserVhostOps::SetConfig(uint32_t offset, std::span<const std::byte> bytes) {
  return TellAndWait(MakeConfig(kSetConfig, offset, 0, bytes));
}

absl::Status UserVhostOps::SetVringEnable(uint32_t index, bool enabled) {
  return TellAndWait(MakeRequest(kSetVringEnable, VringState{index, enabled ? 1U : 0U}));
}

absl::Status UserVhostOps::ResetDevice() { return TellAndWait(MakeRequest(kResetDevice)); }

absl::Status UserVhostOps::SetStatus(uint8_t status) {
  return TellAndWait(MakeRequest(kSetStatus, uint64_t{status}));
}

absl::StatusOr<uint8_t> UserVhostOps::GetStatus() {
  const absl::StatusOr<uint64_t> status = AskNumber(kGetStatus);
  if (!status.ok()) return status.status();
  return static_cast<uint8_t>(*status);
}

absl::StatusOr<UserVhostOps::Inflight> UserVhostOps::GetInflight(uint16_t queues,
                                                                 uint16_t queue_size) {
  absl::StatusOr<Message> reply = Ask(MakeRequest(
      kGetInflightFd,
      InflightDescription{
          .mmap_size = 0, .mmap_offset = 0, .queues = queues, .queue_size = queue_size}));
  if (!reply.ok()) return reply.status();
  const absl::StatusOr<InflightDescription> got = GetPayload<InflightDescription>(*reply);
  if (!got.ok()) return got.status();
  if (reply->fds.size() != 1 || got->mmap_size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name(), ": GET_INFLIGHT_FD was answered without memory"));
  }
  return Inflight{.description = *got, .fd = std::move(reply->fds[0])};
}

absl::Status UserVhostOps::SetInflight(const Inflight& inflight) {
  const int fd = inflight.fd.get();
  return TellAndWait(MakeRequest(kSetInflightFd, inflight.description), {&fd, 1});
}

absl::Status UserVhostOps::SetMtu(uint16_t mtu) {
  return TellAndWait(MakeRequest(kNetSetMtu, uint64_t{mtu}));
}

}  // namespace vhost::user
