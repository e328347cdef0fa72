// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/message.h"

#include <algorithm>
#include <array>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vhost::user {
namespace {

constexpr uint16_t kU64 = sizeof(uint64_t);
constexpr uint16_t kState = sizeof(VringState);

struct Bounds {
  uint16_t least = 0;
  uint16_t most = 0;
};
constexpr Bounds kNothing{};
constexpr Bounds Exactly(size_t bytes) {
  return {static_cast<uint16_t>(bytes), static_cast<uint16_t>(bytes)};
}

// What a request and the reply to it look like. Where counts in the payload say more, CheckCounts
// does.
struct Rule {
  uint32_t id;
  const char* name;
  Bounds payload = kNothing;
  Bounds fds = kNothing;
  bool has_reply = false;
  Bounds reply = kNothing;
  Bounds reply_fds = kNothing;
};

constexpr Bounds kConfig{sizeof(ConfigHeader), sizeof(ConfigHeader) + kMostConfigBytes};
constexpr Bounds kMemTable{sizeof(MemTableHeader),
                           sizeof(MemTableHeader) + kMostTableRegions * sizeof(MemRegion)};
constexpr Bounds kInflight = Exactly(kInflightBytes);
constexpr Bounds kRegion = Exactly(sizeof(SingleMemRegion));
constexpr Bounds kIotlb = Exactly(32);

constexpr uint32_t Id(FrontEndRequest request) { return static_cast<uint32_t>(request); }
constexpr uint32_t Id(BackEndRequest request) { return static_cast<uint32_t>(request); }

using enum FrontEndRequest;

constexpr Rule kFrontEndRules[] = {
    {Id(kGetFeatures), "GET_FEATURES", kNothing, kNothing, true, Exactly(kU64)},
    {Id(kSetFeatures), "SET_FEATURES", Exactly(kU64)},
    {Id(kSetOwner), "SET_OWNER"},
    {Id(kResetOwner), "RESET_OWNER"},
    {Id(kSetMemTable), "SET_MEM_TABLE", kMemTable, {0, kMostTableRegions}},
    // Without LOG_SHMFD a number. The answer is a number of some, and nothing of others.
    {Id(kSetLogBase), "SET_LOG_BASE", {kU64, sizeof(LogDescription)}, {0, 1}, true, {0, kU64}},
    {Id(kSetLogFd), "SET_LOG_FD", {0, kU64}, {0, 1}},
    {Id(kSetVringNum), "SET_VRING_NUM", Exactly(kState)},
    {Id(kSetVringAddr), "SET_VRING_ADDR", Exactly(sizeof(VringAddr))},
    {Id(kSetVringBase), "SET_VRING_BASE", Exactly(kState)},
    {Id(kGetVringBase), "GET_VRING_BASE", Exactly(kState), kNothing, true, Exactly(kState)},
    {Id(kSetVringKick), "SET_VRING_KICK", Exactly(kU64), {0, 1}},
    {Id(kSetVringCall), "SET_VRING_CALL", Exactly(kU64), {0, 1}},
    {Id(kSetVringErr), "SET_VRING_ERR", Exactly(kU64), {0, 1}},
    {Id(kGetProtocolFeatures), "GET_PROTOCOL_FEATURES", kNothing, kNothing, true, Exactly(kU64)},
    {Id(kSetProtocolFeatures), "SET_PROTOCOL_FEATURES", Exactly(kU64)},
    {Id(kGetQueueNum), "GET_QUEUE_NUM", kNothing, kNothing, true, Exactly(kU64)},
    {Id(kSetVringEnable), "SET_VRING_ENABLE", Exactly(kState)},
    {Id(kSendRarp), "SEND_RARP", Exactly(kU64)},
    {Id(kNetSetMtu), "NET_SET_MTU", Exactly(kU64)},
    {Id(kSetBackendReqFd), "SET_BACKEND_REQ_FD", {0, kU64}, {1, 1}},
    {Id(kIotlbMsg), "IOTLB_MSG", kIotlb},
    {Id(kSetVringEndian), "SET_VRING_ENDIAN", Exactly(kState)},
    {Id(kGetConfig), "GET_CONFIG", kConfig, kNothing, true, {0, kConfig.most}},
    {Id(kSetConfig), "SET_CONFIG", kConfig},
    {Id(kPostcopyAdvise), "POSTCOPY_ADVISE", kNothing, kNothing, true, {0, kU64}, {0, 1}},
    {Id(kPostcopyListen), "POSTCOPY_LISTEN"},
    {Id(kPostcopyEnd), "POSTCOPY_END", kNothing, kNothing, true, Exactly(kU64)},
    {Id(kGetInflightFd), "GET_INFLIGHT_FD", kInflight, kNothing, true, kInflight, {0, 1}},
    {Id(kSetInflightFd), "SET_INFLIGHT_FD", kInflight, {1, 1}},
    {Id(kGpuSetSocket), "GPU_SET_SOCKET", {0, kU64}, {1, 1}},
    {Id(kResetDevice), "RESET_DEVICE"},
    {Id(kVringKick), "VRING_KICK", Exactly(kState)},
    {Id(kGetMaxMemSlots), "GET_MAX_MEM_SLOTS", kNothing, kNothing, true, Exactly(kU64)},
    {Id(kAddMemReg), "ADD_MEM_REG", kRegion, {1, 1}},
    // The fd that some send with it means nothing.
    {Id(kRemMemReg), "REM_MEM_REG", kRegion, {0, 1}},
    {Id(kSetStatus), "SET_STATUS", Exactly(kU64)},
    {Id(kGetStatus), "GET_STATUS", kNothing, kNothing, true, Exactly(kU64)},
    {Id(kSetDeviceStateFd),
     "SET_DEVICE_STATE_FD",
     Exactly(sizeof(DeviceStateTransfer)),
     {1, 1},
     true,
     Exactly(kU64),
     {0, 1}},
    {Id(kCheckDeviceState), "CHECK_DEVICE_STATE", kNothing, kNothing, true, Exactly(kU64)},
};

constexpr Rule kBackEndRules[] = {
    {Id(BackEndRequest::kIotlbMsg), "BACKEND_IOTLB_MSG", kIotlb},
    {Id(BackEndRequest::kConfigChange), "BACKEND_CONFIG_CHANGE_MSG"},
    {Id(BackEndRequest::kVringHostNotifier),
     "BACKEND_VRING_HOST_NOTIFIER_MSG",
     Exactly(sizeof(VringArea)),
     {0, 1}},
    {Id(BackEndRequest::kVringCall), "BACKEND_VRING_CALL", Exactly(kState)},
    {Id(BackEndRequest::kVringErr), "BACKEND_VRING_ERR", Exactly(kState)},
};

const Rule* FindRule(RequestSet set, uint32_t request) {
  const std::span<const Rule> rules =
      set == RequestSet::kFrontEnd ? std::span<const Rule>(kFrontEndRules) : kBackEndRules;
  const auto found = std::ranges::find(rules, request, &Rule::id);
  return found != rules.end() ? &*found : nullptr;
}

bool IsWithin(size_t number, Bounds bounds) {
  return number >= bounds.least && number <= bounds.most;
}

absl::Status Refuse(const Rule& rule, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(rule.name, ": ", what));
}

template <typename Head>
Head ReadHead(const Message& message) {
  Head head{};
  memcpy(&head, message.payload.data(), sizeof(head));
  return head;
}

// What the bounds cannot say: sizes and numbers of fds that follow from the payload.
absl::Status CheckCounts(const Rule& rule, const Message& message) {
  const size_t fds = message.fds.size();
  switch (static_cast<FrontEndRequest>(rule.id)) {
    case kSetMemTable: {
      const auto head = ReadHead<MemTableHeader>(message);
      // Both numbers are small: the payload's size was checked.
      if (head.regions > kMostTableRegions ||
          message.payload.size() != sizeof(head) + head.regions * sizeof(MemRegion)) {
        return Refuse(
            rule, absl::StrFormat("%d regions in %d bytes", head.regions, message.payload.size()));
      }
      if (fds != head.regions) {
        return Refuse(rule, absl::StrFormat("%d fds for %d regions", fds, head.regions));
      }
      return absl::OkStatus();
    }
    case kSetVringKick:
    case kSetVringCall:
    case kSetVringErr: {
      const auto number = ReadHead<uint64_t>(message);
      if ((number & ~(kVringFdIndexMask | kVringFdNone)) != 0) {
        return Refuse(rule, absl::StrFormat("unknown flags in %#x", number));
      }
      const size_t wanted = (number & kVringFdNone) != 0 ? 0 : 1;
      if (fds != wanted) return Refuse(rule, absl::StrFormat("%d fds, not %d", fds, wanted));
      return absl::OkStatus();
    }
    case kGetConfig:
    case kSetConfig: {
      const auto head = ReadHead<ConfigHeader>(message);
      if (head.size != message.payload.size() - sizeof(head)) {
        return Refuse(rule, absl::StrFormat("%d bytes are told, %d are there", head.size,
                                            message.payload.size() - sizeof(head)));
      }
      return absl::OkStatus();
    }
    default:
      return absl::OkStatus();
  }
}

}  // namespace

std::string RequestName(RequestSet set, uint32_t request) {
  const Rule* rule = FindRule(set, request);
  return rule != nullptr ? rule->name : absl::StrCat("request ", request);
}

std::string ProtocolFeatureName(ProtocolFeature feature) {
  constexpr const char* kNames[] = {
      "MQ",
      "LOG_SHMFD",
      "RARP",
      "REPLY_ACK",
      "NET_MTU",
      "BACKEND_REQ",
      "CROSS_ENDIAN",
      "CRYPTO_SESSION",
      "PAGEFAULT",
      "CONFIG",
      "BACKEND_SEND_FD",
      "HOST_NOTIFIER",
      "INFLIGHT_SHMFD",
      "RESET_DEVICE",
      "INBAND_NOTIFICATIONS",
      "CONFIGURE_MEM_SLOTS",
      "STATUS",
      "XEN_MMAP",
      "SHARED_OBJECT",
      "DEVICE_STATE",
  };
  const size_t bit = static_cast<size_t>(feature);
  return bit < std::size(kNames) ? kNames[bit] : absl::StrCat("bit ", bit);
}

std::vector<std::string> ProtocolFeatureNames(ProtocolFeatures features) {
  std::vector<std::string> names;
  for (int bit : features.bits()) {
    names.push_back(ProtocolFeatureName(static_cast<ProtocolFeature>(bit)));
  }
  return names;
}

absl::Status CheckHeader(RequestSet set, const Header& header) {
  const Rule* rule = FindRule(set, header.request);
  if (rule == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("request %d, which is unknown here", header.request));
  }
  if ((header.flags & kVersionMask) != kVersion) {
    return Refuse(*rule, absl::StrFormat("protocol version %d", header.flags & kVersionMask));
  }
  if ((header.flags & ~(kVersionMask | kFlagReply | kFlagNeedReply)) != 0) {
    return Refuse(*rule, absl::StrFormat("unknown flags %#x", header.flags));
  }
  const bool is_reply = (header.flags & kFlagReply) != 0;
  const Bounds bounds = is_reply ? rule->reply : rule->payload;
  const bool is_ack = is_reply && header.size == kU64;
  if (!is_ack && !IsWithin(header.size, bounds)) {
    return Refuse(*rule,
                  absl::StrFormat("a %s of %u bytes", is_reply ? "reply" : "payload", header.size));
  }
  return absl::OkStatus();
}

absl::Status Check(RequestSet set, const Message& message) {
  const Header header{.request = message.request,
                      .flags = message.flags,
                      .size = static_cast<uint32_t>(message.payload.size())};
  if (message.payload.size() > kMostPayloadBytes) {
    return absl::InvalidArgumentError("a payload beyond all bounds");
  }
  if (absl::Status status = CheckHeader(set, header); !status.ok()) return status;
  const Rule& rule = *FindRule(set, message.request);
  const Bounds fds = message.is_reply() ? rule.reply_fds : rule.fds;
  if (!IsWithin(message.fds.size(), fds)) {
    return Refuse(rule, absl::StrFormat("%d fds", message.fds.size()));
  }
  if (set == RequestSet::kBackEnd) return absl::OkStatus();
  if (!message.is_reply()) return CheckCounts(rule, message);
  // An empty reply tells of a failure.
  const bool is_config =
      rule.id == Id(kGetConfig) && message.payload.size() >= sizeof(ConfigHeader);
  return is_config ? CheckCounts(rule, message) : absl::OkStatus();
}

bool HasReply(RequestSet set, uint32_t request) {
  const Rule* rule = FindRule(set, request);
  return rule != nullptr && rule->has_reply;
}

absl::Status CopyPayload(const Message& message, void* to, size_t bytes) {
  if (message.payload.size() != bytes) {
    return absl::InvalidArgumentError(absl::StrFormat("request %d: a payload of %d bytes, not %d",
                                                      message.request, message.payload.size(),
                                                      bytes));
  }
  memcpy(to, message.payload.data(), bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<MemRegion>> GetMemTable(const Message& message) {
  if (absl::Status status = Check(RequestSet::kFrontEnd, message); !status.ok()) return status;
  if (!message.Is(kSetMemTable) || message.is_reply()) {
    return absl::InvalidArgumentError("no memory table");
  }
  std::vector<MemRegion> regions(ReadHead<MemTableHeader>(message).regions);
  if (regions.empty()) return regions;
  memcpy(regions.data(), message.payload.data() + sizeof(MemTableHeader),
         regions.size() * sizeof(MemRegion));
  return regions;
}

absl::StatusOr<ConfigPayload> GetConfig(const Message& message) {
  if (message.payload.size() < sizeof(ConfigHeader)) {
    return absl::FailedPreconditionError("GET_CONFIG: the back end has no answer to it");
  }
  const auto head = ReadHead<ConfigHeader>(message);
  if (head.size != message.payload.size() - sizeof(head)) {
    return absl::InvalidArgumentError("GET_CONFIG: of another size than it says");
  }
  ConfigPayload config{.offset = head.offset, .flags = head.flags, .bytes = {}};
  config.bytes.assign(message.payload.begin() + sizeof(head), message.payload.end());
  return config;
}

Message MakeMessage(uint32_t request, std::span<const std::byte> payload) {
  Message message{.request = request, .payload = {}, .fds = {}};
  message.payload.assign(payload.begin(), payload.end());
  return message;
}

Message MakeMemTable(std::span<const MemRegion> regions) {
  const MemTableHeader head{.regions = static_cast<uint32_t>(regions.size()), .padding = 0};
  Message message = MakeRequest(kSetMemTable, head);
  const auto bytes = std::as_bytes(regions);
  message.payload.insert(message.payload.end(), bytes.begin(), bytes.end());
  return message;
}

Message MakeConfig(FrontEndRequest request, uint32_t offset, uint32_t flags,
                   std::span<const std::byte> bytes) {
  const ConfigHeader head{
      .offset = offset, .size = static_cast<uint32_t>(bytes.size()), .flags = flags};
  Message message = MakeRequest(request, head);
  message.payload.insert(message.payload.end(), bytes.begin(), bytes.end());
  return message;
}

Message MakeConfigReply(const Message& request, uint32_t offset, std::span<const std::byte> bytes) {
  Message reply =
      bytes.empty() ? MakeMessage(request.request) : MakeConfig(kGetConfig, offset, 0, bytes);
  reply.flags |= kFlagReply;
  return reply;
}

}  // namespace vhost::user
