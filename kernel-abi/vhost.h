// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the vhost nodes are asked (/dev/vhost-net, /dev/vhost-vsock; the worker requests are
// answered by vhost-scsi alone): every request of Linux 6.1 to 7.x for net and vsock, as typed
// constants, with the traps that their answers hold. In which order they must come is the backend's
// business, not this header's.
//
// Who may ask: the feature words, the fork mode and the vsock CID are answered for anybody. All
// else is for the owner, the process (mm) that called VHOST_SET_OWNER, and EPERM for others, which
// includes everybody before SET_OWNER, a forked child, and the same process after exec.
//
// A request that the kernel does not know answers EFAULT, ENOBUFS or EPERM before it can answer
// ENOTTY: the vring part of vhost reads a queue index from the argument first (vhost_vring_ioctl).
// So probe by what an unknown request would answer too, as IsUnknownToVhost() does.
#pragma once

#include <linux/ioctl.h>
#include <linux/vhost.h>

#include <array>
#include <cstdint>
#include <string>

#include "kernel-abi/entry_table.h"
#include "kernel-abi/request.h"

// Describe() for arguments stands in the namespace of the kernel's structs, where Call() finds it.
std::string Describe(const vhost_vring_state& state);  // index=1 num=300
std::string Describe(const vhost_vring_file& file);    // index=1 fd=7
std::string Describe(const vhost_vring_addr& address);
std::string Describe(const vhost_memory_region& region);
std::string Describe(const vhost_iotlb_msg& message);
std::string Describe(const vhost_msg& message);
std::string Describe(const vhost_msg_v2& message);

namespace kernel_abi {

// ---- Argument types that Debian 12's headers lack, or that C++ cannot spell --------------------

// VHOST_SET_MEM_TABLE: the header with its regions. The kernel checks neither alignment nor overlap
// nor that anything is mapped, takes size 0 at address 0 for "everything", and answers E2BIG above
// /sys/module/vhost/parameters/max_mem_regions and EFAULT for all else that it refuses.
using MemoryTable = EntryTable<vhost_memory_region>;
std::string Describe(const MemoryTable& table);  // up to 4 regions, then how many more

// VHOST_GET/SET_FEATURES_ARRAY. Always two words: when they are given room for more words than they
// know, kernels before a fix (7.3.4 has it) clear the words that they had just written.
struct FeatureArray {
  uint64_t count = 2;
  std::array<uint64_t, 2> words = {};
};
std::string Describe(const FeatureArray& features);

// VHOST_NEW_WORKER writes `worker_id`, VHOST_FREE_WORKER reads it.
struct WorkerState {
  uint32_t worker_id = 0;
};
std::string Describe(const WorkerState& worker);

struct VringWorker {
  uint32_t index = 0;
  uint32_t worker_id = 0;
};
std::string Describe(const VringWorker& worker);

// How the worker of a device is made: a kernel thread (as up to 6.3), or a thread of the owner.
enum class ForkMode : uint8_t { kKernelThread = 0, kOwnerTask = 1 };
std::string Describe(const ForkMode& mode);

// Text of a vhost feature word, with the names that vhost gives to the bits: 26 is F_LOG_ALL and 27
// NET_F_VIRTIO_NET_HDR here, which are unused and F_ANY_LAYOUT to a virtio driver.
std::string DescribeVhostFeatures(const uint64_t& features);
std::string DescribeBackendFeatures(const uint64_t& features);
std::string DescribeCid(const uint64_t& cid);  // decimal, as the field writes CIDs

// ---- Any vhost device --------------------------------------------------------------------------

inline constexpr Request<uint64_t> kVhostGetFeatures{
    VHOST_GET_FEATURES, "VHOST_GET_FEATURES", {}, DescribeVhostFeatures};
// EOPNOTSUPP: a bit that GET_FEATURES did not offer. Allowed at any time, also while running.
inline constexpr Request<uint64_t> kVhostSetFeatures{
    VHOST_SET_FEATURES, "VHOST_SET_FEATURES", {}, DescribeVhostFeatures};
// vhost-net only. Stable kernels did not take them back.
inline constexpr Request<FeatureArray> kVhostGetFeaturesArray{
    _IOC(_IOC_READ, VHOST_VIRTIO, 0x83, sizeof(uint64_t)), "VHOST_GET_FEATURES_ARRAY", {6, 17}};
inline constexpr Request<FeatureArray> kVhostSetFeaturesArray{
    _IOC(_IOC_WRITE, VHOST_VIRTIO, 0x83, sizeof(uint64_t)), "VHOST_SET_FEATURES_ARRAY", {6, 17}};
inline constexpr Request<uint64_t> kVhostGetBackendFeatures{
    VHOST_GET_BACKEND_FEATURES, "VHOST_GET_BACKEND_FEATURES", {}, DescribeBackendFeatures};
inline constexpr Request<uint64_t> kVhostSetBackendFeatures{
    VHOST_SET_BACKEND_FEATURES, "VHOST_SET_BACKEND_FEATURES", {}, DescribeBackendFeatures};

// EBUSY: owned already. ENOMEM: also any failure to make the worker (RLIMIT_NPROC, pids cgroup).
inline constexpr Request<Nothing> kVhostSetOwner{VHOST_SET_OWNER, "VHOST_SET_OWNER"};
// vhost-net only; vsock answers EFAULT. Allowed while running: it stops the rings.
inline constexpr Request<Nothing> kVhostResetOwner{VHOST_RESET_OWNER, "VHOST_RESET_OWNER"};
// The number that shipped in 6.17 (rc1 had 0x83); stable 6.12 took them back. Needs
// CONFIG_VHOST_ENABLE_FORK_OWNER_CONTROL. EBUSY after SET_OWNER.
inline constexpr Request<ForkMode> kVhostSetForkFromOwner{
    _IOC(_IOC_WRITE, VHOST_VIRTIO, 0x84, sizeof(uint8_t)), "VHOST_SET_FORK_FROM_OWNER", {6, 17}};
inline constexpr Request<ForkMode> kVhostGetForkFromOwner{
    _IOC(_IOC_READ, VHOST_VIRTIO, 0x85, sizeof(uint8_t)), "VHOST_GET_FORK_FROM_OWNER", {6, 17}};

inline constexpr Request<MemoryTable> kVhostSetMemTable{VHOST_SET_MEM_TABLE, "VHOST_SET_MEM_TABLE"};
// EFAULT: a ring would log outside; rings before that one have switched already.
inline constexpr Request<uint64_t> kVhostSetLogBase{VHOST_SET_LOG_BASE, "VHOST_SET_LOG_BASE"};
inline constexpr Request<int> kVhostSetLogFd{VHOST_SET_LOG_FD, "VHOST_SET_LOG_FD"};  // -1: none

// ---- A vring. ENOBUFS: no such index -----------------------------------------------------------

// EBUSY while running. EINVAL: 0, not a power of two, above 32768.
inline constexpr Request<vhost_vring_state> kVhostSetVringNum{VHOST_SET_VRING_NUM,
                                                              "VHOST_SET_VRING_NUM"};
// Host addresses of the owner. EINVAL: avail not on 2, used or log not on 4 bytes.
inline constexpr Request<vhost_vring_addr> kVhostSetVringAddr{VHOST_SET_VRING_ADDR,
                                                              "VHOST_SET_VRING_ADDR"};
// EBUSY while running. EINVAL above 65535.
inline constexpr Request<vhost_vring_state> kVhostSetVringBase{VHOST_SET_VRING_BASE,
                                                               "VHOST_SET_VRING_BASE"};
inline constexpr Request<vhost_vring_state> kVhostGetVringBase{VHOST_GET_VRING_BASE,
                                                               "VHOST_GET_VRING_BASE"};
// Eventfds, fd -1 for none; changeable while running. The kernel takes a reference of its own.
inline constexpr Request<vhost_vring_file> kVhostSetVringKick{VHOST_SET_VRING_KICK,
                                                              "VHOST_SET_VRING_KICK"};
inline constexpr Request<vhost_vring_file> kVhostSetVringCall{VHOST_SET_VRING_CALL,
                                                              "VHOST_SET_VRING_CALL"};
inline constexpr Request<vhost_vring_file> kVhostSetVringErr{VHOST_SET_VRING_ERR,
                                                             "VHOST_SET_VRING_ERR"};
// Only with CONFIG_VHOST_CROSS_ENDIAN_LEGACY (ENOTTY without); ignored with VERSION_1.
inline constexpr Request<vhost_vring_state> kVhostSetVringEndian{VHOST_SET_VRING_ENDIAN,
                                                                 "VHOST_SET_VRING_ENDIAN"};
inline constexpr Request<vhost_vring_state> kVhostGetVringEndian{VHOST_GET_VRING_ENDIAN,
                                                                 "VHOST_GET_VRING_ENDIAN"};
// Microseconds in `num`.
inline constexpr Request<vhost_vring_state> kVhostSetVringBusyloopTimeout{
    VHOST_SET_VRING_BUSYLOOP_TIMEOUT, "VHOST_SET_VRING_BUSYLOOP_TIMEOUT"};
// Encoded as a write in the kernel's header although the kernel writes `num`: kept as it is.
inline constexpr Request<vhost_vring_state> kVhostGetVringBusyloopTimeout{
    VHOST_GET_VRING_BUSYLOOP_TIMEOUT, "VHOST_GET_VRING_BUSYLOOP_TIMEOUT"};

// Workers: vhost-scsi only; net and vsock treat them as unknown.
inline constexpr Request<WorkerState> kVhostNewWorker{
    _IOC(_IOC_READ, VHOST_VIRTIO, 0x08, sizeof(WorkerState)), "VHOST_NEW_WORKER", {6, 5}};
inline constexpr Request<WorkerState> kVhostFreeWorker{
    _IOC(_IOC_WRITE, VHOST_VIRTIO, 0x09, sizeof(WorkerState)), "VHOST_FREE_WORKER", {6, 5}};
inline constexpr Request<VringWorker> kVhostAttachVringWorker{
    _IOC(_IOC_WRITE, VHOST_VIRTIO, 0x15, sizeof(VringWorker)), "VHOST_ATTACH_VRING_WORKER", {6, 5}};
inline constexpr Request<VringWorker> kVhostGetVringWorker{
    _IOC(_IOC_READ | _IOC_WRITE, VHOST_VIRTIO, 0x16, sizeof(VringWorker)),
    "VHOST_GET_VRING_WORKER",
    {6, 5}};

// ---- vhost-net and vhost-vsock -----------------------------------------------------------------

// fd -1 detaches and waits for the worker. Checked in this order: EPERM, ENOBUFS (index), EFAULT
// (rings or table, for -1 too), ENOTSOCK (neither TAP nor packet socket, or not open). The kernel
// takes a reference of the TAP, and writes used->flags.
inline constexpr Request<vhost_vring_file> kVhostNetSetBackend{VHOST_NET_SET_BACKEND,
                                                               "VHOST_NET_SET_BACKEND"};
// EINVAL: 0 to 2, 2^32-1 and above. EADDRINUSE: taken. Kept until the last close; not
// owner-checked.
inline constexpr Request<uint64_t> kVhostVsockSetGuestCid{
    VHOST_VSOCK_SET_GUEST_CID, "VHOST_VSOCK_SET_GUEST_CID", {}, DescribeCid};
// 1 starts both rings (EFAULT: one of them is not accessible), 0 stops them.
inline constexpr Request<int> kVhostVsockSetRunning{VHOST_VSOCK_SET_RUNNING,
                                                    "VHOST_VSOCK_SET_RUNNING"};

// ---- AF_VSOCK: /dev/vsock ----------------------------------------------------------------------

// The CID of this machine itself: 2^32-1 without a transport, above 2 if it is a guest.
inline constexpr char kVsockPath[] = "/dev/vsock";
inline constexpr Request<uint32_t> kVsockGetLocalCid{0x7b9, "IOCTL_VM_SOCKETS_GET_LOCAL_CID"};

// ---- IOTLB messages, read from and written to the fd -------------------------------------------

// Version 1, or with VHOST_BACKEND_F_IOTLB_MSG_V2 version 2. One message a read or write.
using IotlbMessage = vhost_msg;
using IotlbMessageV2 = vhost_msg_v2;

// ---- Bits, by number ---------------------------------------------------------------------------

inline constexpr unsigned kVhostFLogAll = VHOST_F_LOG_ALL;
inline constexpr unsigned kVhostNetFVirtioNetHdr = VHOST_NET_F_VIRTIO_NET_HDR;
// Backend features (bit numbers, though the kernel's header writes them in hexadecimal).
inline constexpr unsigned kVhostBackendFIotlbMsgV2 = 1;
inline constexpr unsigned kVhostBackendFIotlbBatch = 2;
inline constexpr unsigned kVhostBackendFIotlbAsid = 3;
inline constexpr unsigned kVhostBackendFSuspend = 4;
inline constexpr unsigned kVhostBackendFResume = 5;
inline constexpr unsigned kVhostBackendFEnableAfterDriverOk = 6;
inline constexpr unsigned kVhostBackendFDescAsid = 7;
inline constexpr unsigned kVhostBackendFIotlbPersist = 8;
// vhost_vring_addr.flags: bit 0, log what is written to the used ring.
inline constexpr uint32_t kVhostVringFLog = 1u << VHOST_VRING_F_LOG;

// Limits that are the kernel's own, and not a module parameter's.
inline constexpr uint32_t kVhostMaxVringSize = 32768;
inline constexpr unsigned kVhostVringsPerFd = 2;  // of net (0 RX, 1 TX) and of vsock (0 RX, 1 TX)

inline constexpr char kVhostNetPath[] = "/dev/vhost-net";
inline constexpr char kVhostVsockPath[] = "/dev/vhost-vsock";
inline constexpr char kVhostMaxMemRegionsPath[] = "/sys/module/vhost/parameters/max_mem_regions";
inline constexpr char kVhostMaxIotlbEntriesPath[] =
    "/sys/module/vhost/parameters/max_iotlb_entries";
// What these parameters are where the module was given none.
inline constexpr unsigned kVhostDefaultMaxMemRegions = 64;
inline constexpr unsigned kVhostDefaultMaxIotlbEntries = 2048;

// True for the answers that a vhost node gives to a request that it does not know, when the
// argument begins with a word that is no queue index, or with one that is: ENOTTY, EFAULT, ENOBUFS,
// EPERM (no owner). Only of use for requests that cannot answer so themselves.
bool IsUnknownToVhost(int error);

// ---- Numbers and layout, pinned ----------------------------------------------------------------

static_assert(kVhostGetFeatures.number == 0x8008af00 && kVhostSetFeatures.number == 0x4008af00);
static_assert(kVhostSetOwner.number == 0xaf01 && kVhostResetOwner.number == 0xaf02);
static_assert(kVhostSetMemTable.number == 0x4008af03 && kVhostSetLogBase.number == 0x4008af04);
static_assert(kVhostSetLogFd.number == 0x4004af07 && kVhostSetVringNum.number == 0x4008af10);
static_assert(kVhostSetVringAddr.number == 0x4028af11 && kVhostSetVringBase.number == 0x4008af12);
static_assert(kVhostGetVringBase.number == 0xc008af12 && kVhostSetVringKick.number == 0x4008af20);
static_assert(kVhostSetVringCall.number == 0x4008af21 && kVhostSetVringErr.number == 0x4008af22);
static_assert(kVhostSetVringEndian.number == 0x4008af13);
static_assert(kVhostGetVringEndian.number == 0x4008af14);
static_assert(kVhostSetVringBusyloopTimeout.number == 0x4008af23);
static_assert(kVhostGetVringBusyloopTimeout.number == 0x4008af24);
static_assert(kVhostSetBackendFeatures.number == 0x4008af25);
static_assert(kVhostGetBackendFeatures.number == 0x8008af26);
static_assert(kVhostGetFeaturesArray.number == 0x8008af83);
static_assert(kVhostSetFeaturesArray.number == 0x4008af83);
static_assert(kVhostSetForkFromOwner.number == 0x4001af84);
static_assert(kVhostGetForkFromOwner.number == 0x8001af85);
static_assert(kVhostNewWorker.number == 0x8004af08 && kVhostFreeWorker.number == 0x4004af09);
static_assert(kVhostAttachVringWorker.number == 0x4008af15);
static_assert(kVhostGetVringWorker.number == 0xc008af16);
static_assert(kVhostNetSetBackend.number == 0x4008af30);
static_assert(kVhostVsockSetGuestCid.number == 0x4008af60);
static_assert(kVhostVsockSetRunning.number == 0x4004af61);

static_assert(sizeof(vhost_vring_state) == 8 && sizeof(vhost_vring_file) == 8);
static_assert(sizeof(vhost_vring_addr) == 40 && offsetof(vhost_vring_addr, log_guest_addr) == 32);
static_assert(sizeof(vhost_memory_region) == 32 && sizeof(vhost_memory) == 8);
static_assert(sizeof(vhost_iotlb_msg) == 32 && sizeof(vhost_msg) == 72);
static_assert(sizeof(vhost_msg_v2) == 72 && offsetof(vhost_msg_v2, iotlb) == 8);
static_assert(offsetof(vhost_msg, iotlb) == 8);
static_assert(sizeof(FeatureArray) == 24 && sizeof(WorkerState) == 4 && sizeof(VringWorker) == 8);

}  // namespace kernel_abi
