// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Feature words, kept apart by type. virtio and vhost number their features in the same 64 (now
// 128) bits, and three numbers mean different things to the two: 26 is VHOST_F_LOG_ALL, 27 is
// VIRTIO_F_ANY_LAYOUT to a guest and VHOST_NET_F_VIRTIO_NET_HDR to vhost-net, and 33 is
// VIRTIO_F_ACCESS_PLATFORM to a guest and switches the kernel's IOTLB on in vhost. The only way
// from one type to the other is ToVhost() and FromVhost() below.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace vhost {

enum class DeviceId : uint16_t {  // virtio 1.3, 5
  kNet = 1,
  kBlock = 2,
  kRng = 4,
  kScsi = 8,
  kGpu = 16,
  kInput = 18,
  kVsock = 19,
  kFs = 26,
};

// "net", "vsock", or "virtio-N" for one without a name here.
std::string Name(DeviceId id);

// A set of feature bits 0..127. `Bit` is an enum whose values are bit numbers; it keeps the sets of
// virtio and vhost from being mixed.
template <typename Bit>
class FeatureSet {
 public:
  static constexpr int kBits = 128;

  constexpr FeatureSet() = default;
  constexpr FeatureSet(std::initializer_list<Bit> bits) {
    for (Bit bit : bits) Set(bit);
  }
  static constexpr FeatureSet FromWords(uint64_t low, uint64_t high = 0) {
    FeatureSet set;
    set.words_ = {low, high};
    return set;
  }

  constexpr uint64_t low() const { return words_[0]; }
  constexpr uint64_t high() const { return words_[1]; }
  constexpr bool empty() const { return (words_[0] | words_[1]) == 0; }
  constexpr bool Has(Bit bit) const { return (words_[Number(bit) / 64] >> (Number(bit) % 64)) & 1; }
  constexpr void Set(Bit bit, bool value = true) {
    const uint64_t mask = uint64_t{1} << (Number(bit) % 64);
    uint64_t& word = words_[Number(bit) / 64];
    word = value ? word | mask : word & ~mask;
  }
  // True if every bit of `other` is in this set.
  constexpr bool Contains(FeatureSet other) const { return (other - *this).empty(); }

  // The numbers of the bits that are set, ascending.
  std::vector<int> bits() const {
    std::vector<int> numbers;
    for (int bit = 0; bit < kBits; ++bit) {
      if (Has(static_cast<Bit>(bit))) numbers.push_back(bit);
    }
    return numbers;
  }

  friend constexpr FeatureSet operator|(FeatureSet a, FeatureSet b) {
    return FromWords(a.low() | b.low(), a.high() | b.high());
  }
  friend constexpr FeatureSet operator&(FeatureSet a, FeatureSet b) {
    return FromWords(a.low() & b.low(), a.high() & b.high());
  }
  friend constexpr FeatureSet operator-(FeatureSet a, FeatureSet b) {
    return FromWords(a.low() & ~b.low(), a.high() & ~b.high());
  }
  friend constexpr bool operator==(FeatureSet, FeatureSet) = default;

 private:
  static constexpr unsigned Number(Bit bit) { return static_cast<unsigned>(bit) % kBits; }
  std::array<uint64_t, 2> words_{};
};

// Bits that a driver and a device negotiate. Numbers below 24 and from 50 to 63 belong to the
// device type; those of one type may not be asked of another.
enum class VirtioFeature : uint8_t {
  // Any device (virtio 1.3, 6; 24 and 27 are of legacy devices).
  kNotifyOnEmpty = 24,
  kAnyLayout = 27,
  kIndirectDesc = 28,
  kEventIdx = 29,
  kVersion1 = 32,
  kAccessPlatform = 33,
  kRingPacked = 34,
  kInOrder = 35,
  kOrderPlatform = 36,
  kSrIov = 37,
  kNotificationData = 38,
  kNotifConfigData = 39,
  kRingReset = 40,
  kAdminVq = 41,
  // Network devices (virtio 1.3, 5.1.3).
  kNetCsum = 0,
  kNetGuestCsum = 1,
  kNetCtrlGuestOffloads = 2,
  kNetMtu = 3,
  kNetMac = 5,
  kNetGuestTso4 = 7,
  kNetGuestTso6 = 8,
  kNetGuestEcn = 9,
  kNetGuestUfo = 10,
  kNetHostTso4 = 11,
  kNetHostTso6 = 12,
  kNetHostEcn = 13,
  kNetHostUfo = 14,
  kNetMrgRxbuf = 15,
  kNetStatus = 16,
  kNetCtrlVq = 17,
  kNetCtrlRx = 18,
  kNetCtrlVlan = 19,
  kNetCtrlRxExtra = 20,
  kNetGuestAnnounce = 21,
  kNetMq = 22,
  kNetCtrlMacAddr = 23,
  kNetGuestUso4 = 54,
  kNetGuestUso6 = 55,
  kNetHostUso = 56,
  kNetGuestUdpTunnelGso = 65,
  kNetGuestUdpTunnelGsoCsum = 66,
  kNetHostUdpTunnelGso = 67,
  kNetHostUdpTunnelGsoCsum = 68,
  // Socket devices (virtio 1.3, 5.10.3).
  kVsockStream = 0,
  kVsockSeqpacket = 1,
  kVsockNoImpliedStream = 2,
};
using VirtioFeatures = FeatureSet<VirtioFeature>;

// Bits of VHOST_{GET,SET}_FEATURES that are vhost's own, or mean to vhost something else than they
// do to a guest. What both spell alike is only ever translated, never named here.
enum class VhostFeature : uint8_t {
  kLogAll = 26,           // VHOST_F_LOG_ALL
  kNetVirtioNetHdr = 27,  // VHOST_NET_F_VIRTIO_NET_HDR: vhost adds a header that the TAP lacks
  kAccessPlatform = 33,   // switches the kernel's IOTLB on
};
using VhostFeatures = FeatureSet<VhostFeature>;

// Of the features `wanted` for a device of type `id`, those that can be acked by a driver while
// vhost, which offers `offered`, serves the vrings. What vhost has no say in (a device's own bits:
// offloads are agreed with the TAP, the control queue stays in this process) passes; what concerns
// the rings and the buffers in them passes only if vhost offers it. RING_RESET passes: this library
// does it by detaching the ring. ACCESS_PLATFORM never does: see docs/architecture.md.
VirtioFeatures FromVhost(DeviceId id, VhostFeatures offered, VirtioFeatures wanted);

// What VHOST_SET_FEATURES is given for a device whose driver acked `acked`: those bits that vhost
// offers and understands as the driver does, with vhost's own bits left clear.
VhostFeatures ToVhost(DeviceId id, VirtioFeatures acked, VhostFeatures offered);

// The field's name of a bit ("VIRTIO_NET_F_MRG_RXBUF"); "bit N" for one without.
std::string FeatureName(DeviceId id, VirtioFeature bit);
std::string FeatureName(DeviceId id, VhostFeature bit);

template <typename Bit>
std::vector<std::string> FeatureNames(DeviceId id, FeatureSet<Bit> set) {
  std::vector<std::string> names;
  for (int bit : set.bits()) names.push_back(FeatureName(id, static_cast<Bit>(bit)));
  return names;
}

}  // namespace vhost
