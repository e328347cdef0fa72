// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The words of the vhost-user protocol: requests, flags, protocol features and payloads, as QEMU's
// "Vhost-user Protocol" (docs/interop/vhost-user.rst) defines them. No policy and no state. The
// front end is the VMM, the back end the process that serves the vrings.
//
// All numbers are in the machine's own order: both ends are processes of one host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "vhost/features.h"

namespace vhost::user {

struct Header {
  uint32_t request;
  uint32_t flags;
  uint32_t size;  // bytes of the payload
};
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kVersionMask = 3;
inline constexpr uint32_t kFlagReply = 1 << 2;
// The receiver shall answer with a number, 0 for success, where the request has no answer of its
// own. Only after REPLY_ACK was negotiated.
inline constexpr uint32_t kFlagNeedReply = 1 << 3;

// Sent by the front end.
enum class FrontEndRequest : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemTable = 5,
  kSetLogBase = 6,
  kSetLogFd = 7,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringErr = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kSendRarp = 19,
  kNetSetMtu = 20,
  kSetBackendReqFd = 21,
  kIotlbMsg = 22,
  kSetVringEndian = 23,
  kGetConfig = 24,
  kSetConfig = 25,
  kPostcopyAdvise = 28,
  kPostcopyListen = 29,
  kPostcopyEnd = 30,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
  kGpuSetSocket = 33,
  kResetDevice = 34,
  kVringKick = 35,
  kGetMaxMemSlots = 36,
  kAddMemReg = 37,
  kRemMemReg = 38,
  kSetStatus = 39,
  kGetStatus = 40,
  kSetDeviceStateFd = 42,
  kCheckDeviceState = 43,
};

// Sent by the back end, through the socket that SET_BACKEND_REQ_FD gave it.
enum class BackEndRequest : uint32_t {
  kIotlbMsg = 1,
  kConfigChange = 2,
  kVringHostNotifier = 3,
  kVringCall = 4,
  kVringErr = 5,
};

// Whose requests a channel carries; the other one answers them.
enum class RequestSet : uint8_t { kFrontEnd, kBackEnd };

// The feature bit, among virtio's, that says that protocol features can be negotiated.
inline constexpr int kProtocolFeaturesBit = 30;

enum class ProtocolFeature : uint8_t {
  kMq = 0,
  kLogShmFd = 1,
  kRarp = 2,
  kReplyAck = 3,
  kNetMtu = 4,
  kBackendReq = 5,
  kCrossEndian = 6,
  kCryptoSession = 7,
  kPageFault = 8,
  kConfig = 9,
  kBackendSendFd = 10,
  kHostNotifier = 11,
  kInflightShmFd = 12,
  kResetDevice = 13,
  kInbandNotifications = 14,
  kConfigureMemSlots = 15,
  kStatus = 16,
  kXenMmap = 17,
  kSharedObject = 18,
  kDeviceState = 19,
};
using ProtocolFeatures = FeatureSet<ProtocolFeature>;

// "REPLY_ACK"; "bit N" for one without a name here.
std::string ProtocolFeatureName(ProtocolFeature feature);
std::vector<std::string> ProtocolFeatureNames(ProtocolFeatures features);
// "GET_FEATURES", "BACKEND_CONFIG_CHANGE_MSG"; "request N" for an unknown one.
std::string RequestName(RequestSet set, uint32_t request);

// ---- Payloads ----------------------------------------------------------------------------------

// SET_VRING_NUM, _BASE, _ENABLE, _ENDIAN, GET_VRING_BASE, VRING_KICK and those of the back end.
struct VringState {
  uint32_t index;
  uint32_t num;
};
// Addresses are those of the front end's mapping ("user addresses"); `log` is a guest address.
struct VringAddr {
  uint32_t index;
  uint32_t flags;
  uint64_t desc;
  uint64_t used;
  uint64_t avail;
  uint64_t log;
};
inline constexpr uint32_t kVringFlagLog = 1;  // of VringAddr::flags

// The payload of SET_VRING_KICK, _CALL and _ERR is a number: the ring's index, and whether there is
// no fd (the back end polls then).
inline constexpr uint64_t kVringFdIndexMask = 0xff;
inline constexpr uint64_t kVringFdNone = 0x100;
inline constexpr uint32_t kMostVrings = 256;  // that an index of 8 bits can name

struct MemRegion {
  uint64_t guest_address;
  uint64_t size;
  uint64_t user_address;
  uint64_t mmap_offset;
};
struct MemTableHeader {  // of SET_MEM_TABLE; the regions follow
  uint32_t regions;
  uint32_t padding;
};
// A back end need not take more in one table; CONFIGURE_MEM_SLOTS is for those who have more.
inline constexpr uint32_t kTableRegions = 8;
// And nobody here takes more, which is as many as others send.
inline constexpr uint32_t kMostTableRegions = 32;
struct SingleMemRegion {  // ADD_MEM_REG, REM_MEM_REG
  uint64_t padding;
  MemRegion region;
};

struct LogDescription {  // SET_LOG_BASE with LOG_SHMFD
  uint64_t size;
  uint64_t offset;
};

struct ConfigHeader {  // of GET_CONFIG and SET_CONFIG; `size` bytes follow
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
};
inline constexpr uint32_t kMostConfigBytes = 256;
inline constexpr uint32_t kConfigForMigration = 1;

struct InflightDescription {  // GET_INFLIGHT_FD, SET_INFLIGHT_FD
  uint64_t mmap_size;
  uint64_t mmap_offset;
  uint16_t queues;
  uint16_t queue_size;
  // The protocol's own struct has no padding behind it, and others send it without.
};
inline constexpr size_t kInflightBytes = 20;

struct VringArea {  // VRING_HOST_NOTIFIER_MSG
  uint64_t index_and_flags;
  uint64_t size;
  uint64_t offset;
};

struct DeviceStateTransfer {  // SET_DEVICE_STATE_FD
  uint32_t direction;         // 0: the back end writes its state, 1: it reads it
  uint32_t phase;             // 0: while the device is stopped
};
inline constexpr uint64_t kDeviceStateErrorMask = 0xff;  // of the answer: 0 is success
inline constexpr uint64_t kDeviceStateNoFd = 0x100;      // of the answer: the fd sent is used

// ---- Bounds ------------------------------------------------------------------------------------

// Whatever says that it is larger is refused unread.
inline constexpr size_t kMostPayloadBytes = 1536;
inline constexpr size_t kMostFds = kMostTableRegions;

static_assert(sizeof(Header) == 12 && sizeof(VringState) == 8 && sizeof(VringAddr) == 40);
static_assert(sizeof(MemRegion) == 32 && sizeof(MemTableHeader) == 8);
static_assert(sizeof(SingleMemRegion) == 40 && sizeof(LogDescription) == 16);
static_assert(sizeof(ConfigHeader) == 12 && sizeof(VringArea) == 24);
static_assert(offsetof(InflightDescription, queue_size) + sizeof(uint16_t) == kInflightBytes);
static_assert(sizeof(DeviceStateTransfer) == 8);
static_assert(sizeof(MemTableHeader) + kMostTableRegions * sizeof(MemRegion) <= kMostPayloadBytes);

}  // namespace vhost::user
