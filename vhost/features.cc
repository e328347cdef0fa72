// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/features.h"

#include <span>

#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

struct BitName {
  int bit;
  const char* name;
};

constexpr BitName kAnyDevice[] = {
    {24, "VIRTIO_F_NOTIFY_ON_EMPTY"},   {27, "VIRTIO_F_ANY_LAYOUT"},
    {28, "VIRTIO_F_INDIRECT_DESC"},     {29, "VIRTIO_F_EVENT_IDX"},
    {32, "VIRTIO_F_VERSION_1"},         {33, "VIRTIO_F_ACCESS_PLATFORM"},
    {34, "VIRTIO_F_RING_PACKED"},       {35, "VIRTIO_F_IN_ORDER"},
    {36, "VIRTIO_F_ORDER_PLATFORM"},    {37, "VIRTIO_F_SR_IOV"},
    {38, "VIRTIO_F_NOTIFICATION_DATA"}, {39, "VIRTIO_F_NOTIF_CONFIG_DATA"},
    {40, "VIRTIO_F_RING_RESET"},        {41, "VIRTIO_F_ADMIN_VQ"},
};

constexpr BitName kNet[] = {
    {0, "VIRTIO_NET_F_CSUM"},
    {1, "VIRTIO_NET_F_GUEST_CSUM"},
    {2, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS"},
    {3, "VIRTIO_NET_F_MTU"},
    {5, "VIRTIO_NET_F_MAC"},
    {7, "VIRTIO_NET_F_GUEST_TSO4"},
    {8, "VIRTIO_NET_F_GUEST_TSO6"},
    {9, "VIRTIO_NET_F_GUEST_ECN"},
    {10, "VIRTIO_NET_F_GUEST_UFO"},
    {11, "VIRTIO_NET_F_HOST_TSO4"},
    {12, "VIRTIO_NET_F_HOST_TSO6"},
    {13, "VIRTIO_NET_F_HOST_ECN"},
    {14, "VIRTIO_NET_F_HOST_UFO"},
    {15, "VIRTIO_NET_F_MRG_RXBUF"},
    {16, "VIRTIO_NET_F_STATUS"},
    {17, "VIRTIO_NET_F_CTRL_VQ"},
    {18, "VIRTIO_NET_F_CTRL_RX"},
    {19, "VIRTIO_NET_F_CTRL_VLAN"},
    {20, "VIRTIO_NET_F_CTRL_RX_EXTRA"},
    {21, "VIRTIO_NET_F_GUEST_ANNOUNCE"},
    {22, "VIRTIO_NET_F_MQ"},
    {23, "VIRTIO_NET_F_CTRL_MAC_ADDR"},
    {50, "VIRTIO_NET_F_DEVICE_STATS"},
    {52, "VIRTIO_NET_F_VQ_NOTF_COAL"},
    {53, "VIRTIO_NET_F_NOTF_COAL"},
    {54, "VIRTIO_NET_F_GUEST_USO4"},
    {55, "VIRTIO_NET_F_GUEST_USO6"},
    {56, "VIRTIO_NET_F_HOST_USO"},
    {57, "VIRTIO_NET_F_HASH_REPORT"},
    {59, "VIRTIO_NET_F_GUEST_HDRLEN"},
    {60, "VIRTIO_NET_F_RSS"},
    {61, "VIRTIO_NET_F_RSC_EXT"},
    {62, "VIRTIO_NET_F_STANDBY"},
    {63, "VIRTIO_NET_F_SPEED_DUPLEX"},
    {65, "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO"},
    {66, "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM"},
    {67, "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO"},
    {68, "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM"},
};

constexpr BitName kVsock[] = {
    {0, "VIRTIO_VSOCK_F_STREAM"},
    {1, "VIRTIO_VSOCK_F_SEQPACKET"},
    {2, "VIRTIO_VSOCK_F_NO_IMPLIED_STREAM"},
};

std::span<const BitName> DeviceBits(DeviceId id) {
  switch (id) {
    case DeviceId::kNet:
      return kNet;
    case DeviceId::kVsock:
      return kVsock;
    default:
      return {};
  }
}

const char* Find(std::span<const BitName> names, int bit) {
  for (const BitName& name : names) {
    if (name.bit == bit) return name.name;
  }
  return nullptr;
}

// What vhost must offer before a driver may ack it, since it changes the rings or what stands in
// their buffers. A bit that is in no list here and not the device's own is not passed at all.
constexpr VirtioFeatures RingFeaturesOf(DeviceId id) {
  using enum VirtioFeature;
  VirtioFeatures ring = {kNotifyOnEmpty, kIndirectDesc, kEventIdx,
                         kVersion1,      kRingPacked,   kInOrder};
  if (id == DeviceId::kNet) {
    ring = ring | VirtioFeatures{kNetMrgRxbuf, kNetGuestUdpTunnelGso, kNetGuestUdpTunnelGsoCsum,
                                 kNetHostUdpTunnelGso, kNetHostUdpTunnelGsoCsum};
  }
  if (id == DeviceId::kVsock) {
    ring = ring | VirtioFeatures{kVsockStream, kVsockSeqpacket, kVsockNoImpliedStream};
  }
  return ring;
}

// What is served by this process whatever vhost is.
constexpr VirtioFeatures OwnFeaturesOf(DeviceId id) {
  VirtioFeatures own = {VirtioFeature::kRingReset, VirtioFeature::kAnyLayout};
  if (id == DeviceId::kNet) {
    for (const BitName& name : kNet) own.Set(static_cast<VirtioFeature>(name.bit));
  }
  return own - RingFeaturesOf(id);
}

// Made once, as they are asked for at each start. All other types have the same.
struct TypeFeatures {
  VirtioFeatures ring, own;
};
constexpr TypeFeatures MakeTypeFeatures(DeviceId id) {
  return {RingFeaturesOf(id), OwnFeaturesOf(id)};
}
constexpr TypeFeatures kNetFeatures = MakeTypeFeatures(DeviceId::kNet);
constexpr TypeFeatures kVsockFeatures = MakeTypeFeatures(DeviceId::kVsock);
constexpr TypeFeatures kOtherFeatures = MakeTypeFeatures(DeviceId::kRng);

constexpr const TypeFeatures& FeaturesOf(DeviceId id) {
  switch (id) {
    case DeviceId::kNet:
      return kNetFeatures;
    case DeviceId::kVsock:
      return kVsockFeatures;
    default:
      return kOtherFeatures;
  }
}

}  // namespace

std::string Name(DeviceId id) {
  switch (id) {
    case DeviceId::kNet:
      return "net";
    case DeviceId::kBlock:
      return "blk";
    case DeviceId::kRng:
      return "rng";
    case DeviceId::kScsi:
      return "scsi";
    case DeviceId::kGpu:
      return "gpu";
    case DeviceId::kInput:
      return "input";
    case DeviceId::kVsock:
      return "vsock";
    case DeviceId::kFs:
      return "fs";
  }
  return absl::StrCat("virtio-", static_cast<int>(id));
}

VirtioFeatures FromVhost(DeviceId id, VhostFeatures offered, VirtioFeatures wanted) {
  const auto offered_alike = VirtioFeatures::FromWords(offered.low(), offered.high());
  return (wanted & FeaturesOf(id).ring & offered_alike) | (wanted & FeaturesOf(id).own);
}

VhostFeatures ToVhost(DeviceId id, VirtioFeatures acked, VhostFeatures offered) {
  const VirtioFeatures alike = acked & FeaturesOf(id).ring;
  return VhostFeatures::FromWords(alike.low(), alike.high()) & offered;
}

std::string FeatureName(DeviceId id, VirtioFeature bit) {
  const int number = static_cast<int>(bit);
  if (const char* name = Find(kAnyDevice, number); name != nullptr) return name;
  if (const char* name = Find(DeviceBits(id), number); name != nullptr) return name;
  return absl::StrCat("bit ", number);
}

std::string FeatureName(DeviceId id, VhostFeature bit) {
  switch (bit) {
    case VhostFeature::kLogAll:
      return "VHOST_F_LOG_ALL";
    case VhostFeature::kNetVirtioNetHdr:
      if (id == DeviceId::kNet) return "VHOST_NET_F_VIRTIO_NET_HDR";
      break;
    default:
      break;
  }
  return FeatureName(id, static_cast<VirtioFeature>(bit));
}

}  // namespace vhost
