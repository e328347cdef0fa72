// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/session.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/system_error.h"
#include "vhost/user/discarded_ring.h"

namespace vhost::user {
namespace {

using enum FrontEndRequest;

constexpr uint64_t kProtocolFeatures = uint64_t{1} << kProtocolFeaturesBit;

absl::Status NotDone(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat(what, ": this back end does not offer it"));
}

SharedRegion ToRegion(const MemRegion& region) {
  return {.guest_address = region.guest_address,
          .size = region.size,
          .user_address = region.user_address,
          .offset = region.mmap_offset};
}

}  // namespace

Session::Ring::Ring() = default;
Session::Ring::~Ring() = default;
Session::Ring::Ring(Ring&&) noexcept = default;
Session::Ring& Session::Ring::operator=(Ring&&) noexcept = default;

Session::Session(kernel_abi::Kernel& kernel, EventLoop& loop, ServedDevice& device,
                 std::function<void(const absl::Status&)> on_failure)
    : kernel_(kernel),
      loop_(loop),
      device_(device),
      on_failure_(std::move(on_failure)),
      rings_(static_cast<size_t>(device.queue_count())) {}

Session::~Session() { HaltAll(); }

ProtocolFeatures Session::offered_protocol_features() const {
  using enum ProtocolFeature;
  ProtocolFeatures offered = {kMq, kReplyAck, kResetDevice, kConfigureMemSlots, kStatus};
  offered.Set(kConfig, !device_.config().empty());
  offered.Set(kNetMtu, device_.is_net());
  offered.Set(kRarp, device_.is_net());
  return offered;
}

bool Session::is_running(int queue) const { return rings_[static_cast<size_t>(queue)].is_running; }

absl::StatusOr<std::optional<Message>> Session::Handle(Message request) {
  const std::string name = RequestName(RequestSet::kFrontEnd, request.request);
  if (request.is_reply()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": a reply, where requests are expected"));
  }
  absl::StatusOr<std::optional<Message>> answer = Answer(request);
  if (!answer.ok()) return kernel_abi::AddContext(answer.status(), name);
  if (answer->has_value()) return answer;
  const absl::Status status = Do(request);
  const bool wants_ack = request.wants_ack() && protocol_features_.Has(ProtocolFeature::kReplyAck);
  if (wants_ack) return std::optional<Message>(MakeAck(request, status.ok()));
  if (!status.ok()) return kernel_abi::AddContext(status, name);
  return std::optional<Message>();
}

absl::StatusOr<std::optional<Message>> Session::Answer(const Message& request) {
  switch (static_cast<FrontEndRequest>(request.request)) {
    case kGetFeatures:
      return MakeReply(request, device_.features().low() | kProtocolFeatures);
    case kGetProtocolFeatures:
      return MakeReply(request, offered_protocol_features().low());
    case kGetQueueNum:
      return MakeReply(request, device_.queue_number());
    case kGetVringBase: {
      const absl::StatusOr<VringState> state = GetPayload<VringState>(request);
      if (!state.ok()) return state.status();
      const absl::StatusOr<VringState> answer = GetVringBase(*state);
      if (!answer.ok()) return answer.status();
      return MakeReply(request, *answer);
    }
    case kGetConfig:
      return AnswerConfig(request);
    case kGetMaxMemSlots:
      if (absl::Status status = Need(ProtocolFeature::kConfigureMemSlots); !status.ok()) {
        return status;
      }
      return MakeReply(request, uint64_t{SharedMemory::kMostRegions});
    case kGetStatus:
      if (absl::Status status = Need(ProtocolFeature::kStatus); !status.ok()) return status;
      return MakeReply(request, uint64_t{status_});
    case kGetInflightFd:
    case kPostcopyAdvise:
    case kPostcopyEnd:
    case kSetLogBase:
    case kSetDeviceStateFd:
    case kCheckDeviceState:
      // Whoever asks all the same waits for an answer that there is none of.
      return NotDone("not negotiated");
    default:
      return std::nullopt;
  }
}

absl::StatusOr<Message> Session::AnswerConfig(const Message& request) const {
  if (absl::Status status = Need(ProtocolFeature::kConfig); !status.ok()) return status;
  const absl::StatusOr<ConfigPayload> wanted = GetConfig(request);
  if (!wanted.ok()) return wanted.status();
  const std::vector<std::byte> config = device_.config();
  // An answer without bytes tells of a failure.
  if (wanted->offset > config.size() || wanted->bytes.size() > config.size() - wanted->offset) {
    return MakeConfigReply(request, wanted->offset, {});
  }
  return MakeConfigReply(request, wanted->offset,
                         std::span(config).subspan(wanted->offset, wanted->bytes.size()));
}

absl::Status Session::Do(Message& request) {
  const auto number = [&request] { return GetU64(request).value_or(0); };
  switch (static_cast<FrontEndRequest>(request.request)) {
    case kSetOwner:
    case kResetOwner:  // Obsolete, and understood in two ways: best ignored.
    case kSetLogFd:    // Means nothing without a log.
      return absl::OkStatus();
    case kSetFeatures:
      return SetFeatures(number());
    case kSetProtocolFeatures:
      return SetProtocolFeatures(number());
    case kSetMemTable:
      return SetMemTable(request);
    case kAddMemReg:
      return AddRegion(request);
    case kRemMemReg:
      return RemoveRegion(request);
    case kSetVringNum:
    case kSetVringBase:
    case kSetVringEnable:
      return SetVringState(request);
    case kSetVringAddr: {
      const absl::StatusOr<VringAddr> address = GetPayload<VringAddr>(request);
      return address.ok() ? SetAddress(*address) : address.status();
    }
    case kSetVringKick:
    case kSetVringCall:
    case kSetVringErr:
      return SetRingFd(request);
    case kSetConfig:
      return SetConfig(request);
    case kSetStatus:
      return SetStatus(number());
    case kResetDevice:
      if (absl::Status status = Need(ProtocolFeature::kResetDevice); !status.ok()) return status;
      ResetRings();
      for (Ring& ring : rings_) ring.enabled = false;
      return absl::OkStatus();
    case kNetSetMtu:
      if (absl::Status status = Need(ProtocolFeature::kNetMtu); !status.ok()) return status;
      return device_.SetMtu(number());
    case kSendRarp:
      return SendRarp(request);
    default:
      return NotDone("not negotiated");
  }
}

absl::Status Session::Need(ProtocolFeature feature) const {
  if (protocol_features_.Has(feature)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(ProtocolFeatureName(feature), " was not negotiated"));
}

absl::Status Session::SetFeatures(uint64_t bits) {
  const auto acked = VirtioFeatures::FromWords(bits & ~kProtocolFeatures);
  const VirtioFeatures unknown = acked - device_.features();
  if (!unknown.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not offered: ", absl::StrJoin(FeatureNames(device_.id(), unknown), " ")));
  }
  if (absl::Status status = device_.CheckFeatures(acked); !status.ok()) return status;
  protocol_features_acked_ = (bits & kProtocolFeatures) != 0;
  if (acked != acked_) {
    HaltAll();
    acked_ = acked;
  }
  return SettleAll();
}

absl::Status Session::SetProtocolFeatures(uint64_t bits) {
  const auto features = ProtocolFeatures::FromWords(bits);
  const ProtocolFeatures unknown = features - offered_protocol_features();
  if (!unknown.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not offered: ", absl::StrJoin(ProtocolFeatureNames(unknown), " ")));
  }
  protocol_features_ = features;
  return absl::OkStatus();
}

// ---- Memory ------------------------------------------------------------------------------------

absl::Status Session::SetMemTable(Message& request) {
  const absl::StatusOr<std::vector<MemRegion>> told = GetMemTable(request);
  if (!told.ok()) return told.status();
  std::vector<SharedRegion> regions;
  for (const MemRegion& region : *told) regions.push_back(ToRegion(region));
  absl::StatusOr<SharedMemory> memory =
      SharedMemory::Create(kernel_, regions, std::move(request.fds));
  return memory.ok() ? UseMemory(*std::move(memory)) : memory.status();
}

absl::Status Session::AddRegion(Message& request) {
  if (absl::Status status = Need(ProtocolFeature::kConfigureMemSlots); !status.ok()) return status;
  const absl::StatusOr<SingleMemRegion> told = GetPayload<SingleMemRegion>(request);
  if (!told.ok()) return told.status();
  absl::StatusOr<SharedMemory> memory =
      memory_.With(kernel_, ToRegion(told->region), std::move(request.fds.front()));
  return memory.ok() ? UseMemory(*std::move(memory)) : memory.status();
}

absl::Status Session::RemoveRegion(const Message& request) {
  if (absl::Status status = Need(ProtocolFeature::kConfigureMemSlots); !status.ok()) return status;
  const absl::StatusOr<SingleMemRegion> told = GetPayload<SingleMemRegion>(request);
  if (!told.ok()) return told.status();
  absl::StatusOr<SharedMemory> memory = memory_.Without(ToRegion(told->region));
  return memory.ok() ? UseMemory(*std::move(memory)) : memory.status();
}

// ---- The device --------------------------------------------------------------------------------

absl::Status Session::SetConfig(const Message& request) {
  if (absl::Status status = Need(ProtocolFeature::kConfig); !status.ok()) return status;
  const absl::StatusOr<ConfigPayload> told = GetConfig(request);
  if (!told.ok()) return told.status();
  const size_t size = device_.config().size();
  if (told->offset > size || told->bytes.size() > size - told->offset) {
    return absl::OutOfRangeError(absl::StrCat(told->bytes.size(), " bytes at ", told->offset,
                                              " of a configuration space of ", size));
  }
  return device_.WriteConfig(told->offset, told->bytes, (told->flags & kConfigForMigration) != 0);
}

absl::Status Session::SetStatus(uint64_t status) {
  if (absl::Status need = Need(ProtocolFeature::kStatus); !need.ok()) return need;
  if (status > 0xff) return absl::InvalidArgumentError(absl::StrCat(status, " is no status"));
  status_ = static_cast<uint8_t>(status);
  if (status_ == 0) ResetRings();
  return absl::OkStatus();
}

absl::Status Session::SendRarp(const Message& request) {
  if (absl::Status status = Need(ProtocolFeature::kRarp); !status.ok()) return status;
  MacAddress mac;
  memcpy(mac.data(), request.payload.data(), mac.size());
  return device_.SendRarp(mac);
}

}  // namespace vhost::user
