// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The layouts and constants of virtio 1.3 that a device has to know: rings, device status, the
// registers of both transports, and what network and socket devices exchange. Declared here and not
// taken from <linux/virtio_*.h>, because <linux/virtio_net.h> does not compile as C++ (a field
// named `class`), and Debian 12's headers miss what is newer than Linux 6.1. Feature bits are in
// vhost/features.h, where the sets of virtio and of vhost are types of their own.
//
// All fields are little-endian, as is every machine that this project runs on (asserted below), so
// plain integers are used. Structs have the padding of the wire: none.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace kernel_abi {

static_assert(std::endian::native == std::endian::little,
              "the rings of virtio 1 are little-endian and are read here in place");

// ---- Device status (virtio 1.3, 2.1) -----------------------------------------------------------

inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;
inline constexpr uint8_t kStatusFailed = 128;

// ---- Split ring (virtio 1.3, 2.7) --------------------------------------------------------------

struct VirtqDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
struct VirtqUsedElem {
  uint32_t id;   // head of the chain
  uint32_t len;  // bytes written to it
};
// Both begin so: flags, index, then the entries; behind them used_event or avail_event (u16).
struct VirtqRingHeader {
  uint16_t flags;
  uint16_t idx;
};

inline constexpr uint16_t kDescFNext = 1;
inline constexpr uint16_t kDescFWrite = 2;  // the device writes
inline constexpr uint16_t kDescFIndirect = 4;
inline constexpr uint16_t kAvailFNoInterrupt = 1;
inline constexpr uint16_t kUsedFNoNotify = 1;
inline constexpr uint32_t kDescAlignment = 16;
inline constexpr uint32_t kAvailAlignment = 2;
inline constexpr uint32_t kUsedAlignment = 4;

// ---- Packed ring (virtio 1.3, 2.8) -------------------------------------------------------------

struct PackedDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t id;
  uint16_t flags;
};
struct PackedEvent {
  uint16_t off_wrap;  // descriptor event offset, and in bit 15 its wrap counter
  uint16_t flags;
};

inline constexpr uint16_t kPackedDescFAvail = 1 << 7;
inline constexpr uint16_t kPackedDescFUsed = 1 << 15;
inline constexpr uint16_t kPackedEventEnable = 0;
inline constexpr uint16_t kPackedEventDisable = 1;
inline constexpr uint16_t kPackedEventDesc = 2;

// ---- PCI transport (virtio 1.3, 4.1) -----------------------------------------------------------

inline constexpr uint16_t kPciVendorId = 0x1af4;
inline constexpr uint16_t kPciDeviceIdBase = 0x1040;  // + the virtio device id
inline constexpr uint16_t kMsixNoVector = 0xffff;

// A vendor-specific PCI capability (4.1.4).
struct VirtioPciCap {
  uint8_t cap_vndr;  // 0x09
  uint8_t cap_next;
  uint8_t cap_len;
  uint8_t cfg_type;
  uint8_t bar;
  uint8_t id;
  uint8_t padding[2];
  uint32_t offset;
  uint32_t length;
};
struct VirtioPciNotifyCap {
  VirtioPciCap cap;
  uint32_t notify_off_multiplier;
};
struct VirtioPciCfgCap {
  VirtioPciCap cap;
  uint8_t pci_cfg_data[4];
};

inline constexpr uint8_t kPciCapCommonCfg = 1;
inline constexpr uint8_t kPciCapNotifyCfg = 2;
inline constexpr uint8_t kPciCapIsrCfg = 3;
inline constexpr uint8_t kPciCapDeviceCfg = 4;
inline constexpr uint8_t kPciCapPciCfg = 5;
inline constexpr uint8_t kPciCapSharedMemoryCfg = 8;

// Offsets in the common configuration (4.1.4.3).
inline constexpr uint32_t kPciCommonDeviceFeatureSelect = 0x00;
inline constexpr uint32_t kPciCommonDeviceFeature = 0x04;
inline constexpr uint32_t kPciCommonDriverFeatureSelect = 0x08;
inline constexpr uint32_t kPciCommonDriverFeature = 0x0c;
inline constexpr uint32_t kPciCommonConfigMsixVector = 0x10;
inline constexpr uint32_t kPciCommonNumQueues = 0x12;
inline constexpr uint32_t kPciCommonDeviceStatus = 0x14;
inline constexpr uint32_t kPciCommonConfigGeneration = 0x15;
inline constexpr uint32_t kPciCommonQueueSelect = 0x16;
inline constexpr uint32_t kPciCommonQueueSize = 0x18;
inline constexpr uint32_t kPciCommonQueueMsixVector = 0x1a;
inline constexpr uint32_t kPciCommonQueueEnable = 0x1c;
inline constexpr uint32_t kPciCommonQueueNotifyOff = 0x1e;
inline constexpr uint32_t kPciCommonQueueDesc = 0x20;    // u64, written as two u32
inline constexpr uint32_t kPciCommonQueueDriver = 0x28;  // u64
inline constexpr uint32_t kPciCommonQueueDevice = 0x30;  // u64
inline constexpr uint32_t kPciCommonQueueNotifData = 0x38;
inline constexpr uint32_t kPciCommonQueueReset = 0x3a;
inline constexpr uint32_t kPciCommonAdminQueueIndex = 0x3c;
inline constexpr uint32_t kPciCommonAdminQueueNum = 0x3e;
inline constexpr uint32_t kPciCommonSize = 0x40;

// The legacy interface (4.1.4.10): registers in I/O space, and behind them the device's
// configuration.
inline constexpr uint32_t kPciLegacyDeviceFeatures = 0x00;
inline constexpr uint32_t kPciLegacyDriverFeatures = 0x04;
inline constexpr uint32_t kPciLegacyQueuePfn = 0x08;
inline constexpr uint32_t kPciLegacyQueueSize = 0x0c;
inline constexpr uint32_t kPciLegacyQueueSelect = 0x0e;
inline constexpr uint32_t kPciLegacyQueueNotify = 0x10;
inline constexpr uint32_t kPciLegacyDeviceStatus = 0x12;
inline constexpr uint32_t kPciLegacyIsr = 0x13;
inline constexpr uint32_t kPciLegacyBytes = 0x14;
inline constexpr uint32_t kPciLegacyConfigVector = 0x14;  // these two with MSI-X enabled only
inline constexpr uint32_t kPciLegacyQueueVector = 0x16;
inline constexpr uint32_t kPciLegacyMsixBytes = 0x18;
// What page numbers count, and to what the used ring is aligned.
inline constexpr uint32_t kPciLegacyPageBytes = 0x1000;

// Bits of the ISR status (4.1.4.5) and of the MMIO transport's InterruptStatus (4.2.2).
inline constexpr uint8_t kInterruptVring = 1;
inline constexpr uint8_t kInterruptConfig = 2;

// ---- MMIO transport, versions 2 and 1 (virtio 1.3, 4.2.2 and 4.2.4)
// ---------------------------------------------

inline constexpr uint32_t kMmioMagic = 0x74726976;  // "virt"
inline constexpr uint32_t kMmioVersionLegacy = 1;
inline constexpr uint32_t kMmioVersionModern = 2;

inline constexpr uint32_t kMmioMagicValue = 0x000;
inline constexpr uint32_t kMmioVersion = 0x004;
inline constexpr uint32_t kMmioDeviceId = 0x008;
inline constexpr uint32_t kMmioVendorId = 0x00c;
inline constexpr uint32_t kMmioDeviceFeatures = 0x010;
inline constexpr uint32_t kMmioDeviceFeaturesSel = 0x014;
inline constexpr uint32_t kMmioDriverFeatures = 0x020;
inline constexpr uint32_t kMmioDriverFeaturesSel = 0x024;
inline constexpr uint32_t kMmioGuestPageSize = 0x028;  // version 1 only
inline constexpr uint32_t kMmioQueueSel = 0x030;
inline constexpr uint32_t kMmioQueueSizeMax = 0x034;
inline constexpr uint32_t kMmioQueueSize = 0x038;
inline constexpr uint32_t kMmioQueueAlign = 0x03c;  // version 1 only
inline constexpr uint32_t kMmioQueuePfn = 0x040;    // version 1 only
inline constexpr uint32_t kMmioQueueReady = 0x044;
inline constexpr uint32_t kMmioQueueNotify = 0x050;
inline constexpr uint32_t kMmioInterruptStatus = 0x060;
inline constexpr uint32_t kMmioInterruptAck = 0x064;
inline constexpr uint32_t kMmioStatus = 0x070;
inline constexpr uint32_t kMmioQueueDescLow = 0x080;
inline constexpr uint32_t kMmioQueueDescHigh = 0x084;
inline constexpr uint32_t kMmioQueueDriverLow = 0x090;
inline constexpr uint32_t kMmioQueueDriverHigh = 0x094;
inline constexpr uint32_t kMmioQueueDeviceLow = 0x0a0;
inline constexpr uint32_t kMmioQueueDeviceHigh = 0x0a4;
inline constexpr uint32_t kMmioShmSel = 0x0ac;
inline constexpr uint32_t kMmioShmLenLow = 0x0b0;
inline constexpr uint32_t kMmioShmLenHigh = 0x0b4;
inline constexpr uint32_t kMmioShmBaseLow = 0x0b8;
inline constexpr uint32_t kMmioShmBaseHigh = 0x0bc;
inline constexpr uint32_t kMmioQueueReset = 0x0c0;
inline constexpr uint32_t kMmioConfigGeneration = 0x0fc;
inline constexpr uint32_t kMmioConfig = 0x100;

// ---- Network device (virtio 1.3, 5.1) ----------------------------------------------------------

// In front of each packet with VERSION_1 or MRG_RXBUF: 12 bytes. Without both, num_buffers is not
// there: 10 bytes.
struct VirtioNetHdr {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
  uint16_t num_buffers;
};
inline constexpr int kNetHdrSize = sizeof(VirtioNetHdr);
inline constexpr int kNetHdrSizeLegacy = offsetof(VirtioNetHdr, num_buffers);
// With UDP tunnel offloads: hash report and tunnel offsets behind it
// (virtio_net_hdr_v1_hash_tunnel).
inline constexpr int kNetHdrSizeTunnel = 24;

inline constexpr uint8_t kNetHdrFNeedsCsum = 1;
inline constexpr uint8_t kNetHdrFDataValid = 2;
inline constexpr uint8_t kNetHdrFRscInfo = 4;
inline constexpr uint8_t kNetHdrGsoNone = 0;
inline constexpr uint8_t kNetHdrGsoTcpV4 = 1;
inline constexpr uint8_t kNetHdrGsoUdp = 3;
inline constexpr uint8_t kNetHdrGsoTcpV6 = 4;
inline constexpr uint8_t kNetHdrGsoUdpL4 = 5;
inline constexpr uint8_t kNetHdrGsoEcn = 0x80;

struct [[gnu::packed]] VirtioNetConfig {
  uint8_t mac[6];
  uint16_t status;
  uint16_t max_virtqueue_pairs;
  uint16_t mtu;
  uint32_t speed;  // Mbit/s, 0xffffffff: unknown
  uint8_t duplex;  // 1: full, 0xff: unknown
  uint8_t rss_max_key_size;
  uint16_t rss_max_indirection_table_length;
  uint32_t supported_hash_types;
};
inline constexpr uint16_t kNetStatusLinkUp = 1;
inline constexpr uint16_t kNetStatusAnnounce = 2;

// The control queue: this, then the command's data, then one byte of answer.
struct VirtioNetCtrlHdr {
  uint8_t ctrl_class;
  uint8_t command;
};
inline constexpr uint8_t kNetCtrlOk = 0;
inline constexpr uint8_t kNetCtrlErr = 1;

inline constexpr uint8_t kNetCtrlRx = 0;
inline constexpr uint8_t kNetCtrlRxPromisc = 0;
inline constexpr uint8_t kNetCtrlRxAllMulti = 1;
inline constexpr uint8_t kNetCtrlRxAllUni = 2;
inline constexpr uint8_t kNetCtrlRxNoMulti = 3;
inline constexpr uint8_t kNetCtrlRxNoUni = 4;
inline constexpr uint8_t kNetCtrlRxNoBcast = 5;
inline constexpr uint8_t kNetCtrlMac = 1;
inline constexpr uint8_t kNetCtrlMacTableSet = 0;
inline constexpr uint8_t kNetCtrlMacAddrSet = 1;
inline constexpr uint8_t kNetCtrlVlan = 2;
inline constexpr uint8_t kNetCtrlVlanAdd = 0;
inline constexpr uint8_t kNetCtrlVlanDel = 1;
inline constexpr uint8_t kNetCtrlAnnounce = 3;
inline constexpr uint8_t kNetCtrlAnnounceAck = 0;
inline constexpr uint8_t kNetCtrlMq = 4;
inline constexpr uint8_t kNetCtrlMqVqPairsSet = 0;
inline constexpr uint16_t kNetCtrlMqVqPairsMin = 1;
inline constexpr uint16_t kNetCtrlMqVqPairsMax = 0x8000;
inline constexpr uint8_t kNetCtrlGuestOffloads = 5;
inline constexpr uint8_t kNetCtrlGuestOffloadsSet = 0;

// ---- Socket device (virtio 1.3, 5.10) ----------------------------------------------------------

struct VirtioVsockConfig {
  uint64_t guest_cid;
};
struct VirtioVsockEvent {
  uint32_t id;
};
inline constexpr uint32_t kVsockEventTransportReset = 0;

struct [[gnu::packed]] VirtioVsockHdr {
  uint64_t src_cid;
  uint64_t dst_cid;
  uint32_t src_port;
  uint32_t dst_port;
  uint32_t len;
  uint16_t type;
  uint16_t op;
  uint32_t flags;
  uint32_t buf_alloc;
  uint32_t fwd_cnt;
};
inline constexpr uint16_t kVsockTypeStream = 1;
inline constexpr uint16_t kVsockTypeSeqpacket = 2;
inline constexpr uint16_t kVsockOpInvalid = 0;
inline constexpr uint16_t kVsockOpRequest = 1;
inline constexpr uint16_t kVsockOpResponse = 2;
inline constexpr uint16_t kVsockOpRst = 3;
inline constexpr uint16_t kVsockOpShutdown = 4;
inline constexpr uint16_t kVsockOpRw = 5;
inline constexpr uint16_t kVsockOpCreditUpdate = 6;
inline constexpr uint16_t kVsockOpCreditRequest = 7;
inline constexpr uint32_t kVsockShutdownReceive = 1;
inline constexpr uint32_t kVsockShutdownSend = 2;
inline constexpr uint32_t kVsockSeqEom = 1;
inline constexpr uint32_t kVsockSeqEor = 2;
inline constexpr uint64_t kVsockHypervisorCid = 0;
inline constexpr uint64_t kVsockLocalCid = 1;
inline constexpr uint64_t kVsockHostCid = 2;
inline constexpr uint64_t kVsockMinGuestCid = 3;
inline constexpr uint64_t kVsockMaxGuestCid = 0xfffffffe;

// ---- Layout, pinned ----------------------------------------------------------------------------

static_assert(sizeof(VirtqDesc) == 16 && sizeof(VirtqUsedElem) == 8);
static_assert(sizeof(VirtqRingHeader) == 4 && sizeof(PackedDesc) == 16 && sizeof(PackedEvent) == 4);
static_assert(sizeof(VirtioPciCap) == 16 && sizeof(VirtioPciNotifyCap) == 20);
static_assert(sizeof(VirtioPciCfgCap) == 20);
static_assert(sizeof(VirtioNetHdr) == 12 && kNetHdrSizeLegacy == 10);
static_assert(sizeof(VirtioNetConfig) == 24 && offsetof(VirtioNetConfig, speed) == 12);
static_assert(sizeof(VirtioVsockHdr) == 44 && offsetof(VirtioVsockHdr, op) == 30);
static_assert(sizeof(VirtioVsockConfig) == 8 && sizeof(VirtioVsockEvent) == 4);

}  // namespace kernel_abi
