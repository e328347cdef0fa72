// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/fakes/fake_tun.h"

#include <fcntl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/fakes/user_memory.h"

namespace fakes {
namespace {

using namespace kernel_abi;  // NOLINT: the requests, by their names

// What TUNSETIFF takes over into the interface (TUN_FEATURES of tun.c).
constexpr unsigned kKeptFlags =
    IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR | IFF_MULTI_QUEUE | IFF_NAPI | IFF_NAPI_FRAGS;
constexpr int kVnetHeaderMin = 10;  // sizeof(virtio_net_hdr)

}  // namespace

FakeTun::~FakeTun() { Leave(); }

// The last queue takes the interface with it, unless it is persistent.
void FakeTun::Leave() {
  const auto found = world_.interfaces().find(interface_);
  interface_.clear();
  if (found == world_.interfaces().end()) return;
  FakeInterface& interface = found->second;
  --(detached_ ? interface.disabled_queues : interface.queues);
  detached_ = false;
  if (interface.queues + interface.disabled_queues == 0 && (interface.flags & IFF_PERSIST) == 0) {
    world_.interfaces().erase(found);
  }
}

int FakeTun::Ioctl(unsigned long request, uintptr_t argument) {
  if (request == kTunGetFeatures.number) {
    return Put(argument, unsigned{IFF_TUN | IFF_TAP | kIffNoCarrier | kKeptFlags});
  }
  if (request == kTunSetQueue.number) return SetQueue(argument);
  if (request == kTunSetIff.number) return SetInterface(argument);
  if (request == kTunSetIfIndex.number) {
    int index = 0;
    if (attached()) return -EPERM;
    if (Get(&index, argument) != 0) return -EFAULT;
    return index < 0 ? -EINVAL : 0;
  }
  const auto found = world_.interfaces().find(interface_);
  if (!attached() || found == world_.interfaces().end()) return -EBADFD;
  return QueueRequest(found->second, request, argument);
}

int FakeTun::Attach(FakeInterface& interface) {
  const bool multi_queue = (interface.flags & IFF_MULTI_QUEUE) != 0;
  if (!multi_queue && interface.queues == 1) return -EBUSY;
  if (!detached_ &&
      interface.queues + interface.disabled_queues == static_cast<int>(kTunMaxQueues)) {
    return -E2BIG;
  }
  if (detached_) --interface.disabled_queues;
  detached_ = false;
  ++interface.queues;
  interface_ = interface.name;
  return 0;
}

int FakeTun::SetInterface(uintptr_t argument) {
  ifreq asked = {};
  if (Get(&asked, argument) != 0) return -EFAULT;
  if (attached()) return -EEXIST;
  asked.ifr_name[IFNAMSIZ - 1] = '\0';
  const unsigned flags = static_cast<uint16_t>(asked.ifr_flags);
  std::string name = InterfaceName(asked);
  std::map<std::string, FakeInterface>& interfaces = world_.interfaces();

  const auto found = interfaces.find(name);
  if (found != interfaces.end()) {
    FakeInterface& interface = found->second;
    if ((flags & IFF_TUN_EXCL) != 0) return -EBUSY;
    if ((flags & interface.flags & (IFF_TUN | IFF_TAP)) == 0) return -EINVAL;
    if (((flags ^ interface.flags) & IFF_MULTI_QUEUE) != 0) return -EINVAL;
    const bool owned = interface.owner >= 0 || interface.group >= 0;
    if (owned && !world_.options().cap_net_admin) return -EPERM;
    if (const int result = Attach(interface); result != 0) return result;
    const int queues = interface.queues + interface.disabled_queues;
    if ((interface.flags & IFF_MULTI_QUEUE) == 0 || queues <= 1) {
      interface.flags = (interface.flags & ~kKeptFlags) | (flags & kKeptFlags);
      interface.carrier = (flags & kIffNoCarrier) == 0;
    }
    return Put(argument, asked);
  }

  if (!world_.options().cap_net_admin) return -EPERM;
  if ((flags & (IFF_TUN | IFF_TAP)) == 0) return -EINVAL;
  if (name.empty()) name = (flags & IFF_TUN) != 0 ? "tun%d" : "tap%d";
  if (name.find("%d") != std::string::npos) {
    const std::string pattern = name;
    for (int i = 0; interfaces.contains(name) || name == pattern; ++i) {
      name = absl::StrReplaceAll(pattern, {{"%d", absl::StrCat(i)}});
    }
  }
  if (!IsInterfaceName(name)) return -EINVAL;
  FakeInterface& interface = interfaces[name];
  interface.name = name;
  interface.flags = ((flags & IFF_TUN) != 0 ? IFF_TUN : IFF_TAP) | (flags & kKeptFlags);
  interface.carrier = (flags & kIffNoCarrier) == 0;
  if (const int result = Attach(interface); result != 0) return result;
  std::memset(asked.ifr_name, 0, IFNAMSIZ);
  name.copy(asked.ifr_name, IFNAMSIZ - 1);
  return Put(argument, asked);
}

int FakeTun::SetQueue(uintptr_t argument) {
  ifreq asked = {};
  if (Get(&asked, argument) != 0) return -EFAULT;
  const auto found = world_.interfaces().find(interface_);
  if (found == world_.interfaces().end()) return -EINVAL;
  FakeInterface& interface = found->second;
  if ((asked.ifr_flags & IFF_ATTACH_QUEUE) != 0) return detached_ ? Attach(interface) : -EINVAL;
  if ((asked.ifr_flags & IFF_DETACH_QUEUE) == 0) return -EINVAL;
  if ((interface.flags & IFF_MULTI_QUEUE) == 0 || detached_) return -EINVAL;
  detached_ = true;
  --interface.queues;
  ++interface.disabled_queues;
  return 0;
}

int FakeTun::SetOffloads(FakeInterface& interface, unsigned long offloads) const {
  const FakeKernelOptions& options = world_.options();
  unsigned long left = offloads;
  if ((left & kTunFCsum) != 0) {
    left &= ~(kTunFCsum | kTunFUfo);
    bool segments = false;
    if ((left & (kTunFTso4 | kTunFTso6)) != 0) {
      left &= ~(kTunFTso4 | kTunFTso6 | kTunFTsoEcn);
      segments = true;
    }
    const unsigned long uso = kTunFUso4 | kTunFUso6;
    if (AtLeast(options, 6, 2) && (left & uso) == uso) {
      left &= ~uso;
      segments = true;
    }
    // Tunnels need some segmentation to apply it to, and their checksum needs the tunnel.
    if (AtLeast(options, 6, 17) && segments && (left & kTunFUdpTunnelGso) != 0) {
      left &= ~(kTunFUdpTunnelGso | kTunFUdpTunnelGsoCsum);
    }
  }
  if (left != 0) return -EINVAL;
  interface.offloads = static_cast<unsigned>(offloads);
  return 0;
}

int FakeTun::QueueRequest(FakeInterface& interface, unsigned long request, uintptr_t argument) {
  int value = 0;
  ifreq asked = {};
  if (request == kTunGetIff.number) {
    interface.name.copy(asked.ifr_name, IFNAMSIZ - 1);
    // A queue without a socket filter shows IFF_NOFILTER, which has the number of IFF_NO_PI.
    asked.ifr_flags = static_cast<short>(interface.flags | IFF_NOFILTER);
    return Put(argument, asked);
  }
  if (request == kTunSetOffload.number) return SetOffloads(interface, argument);
  if (request == kTunSetPersist.number) {
    interface.flags =
        argument != 0 ? interface.flags | IFF_PERSIST : interface.flags & ~unsigned{IFF_PERSIST};
    return 0;
  }
  if (request == kTunSetOwner.number || request == kTunSetGroup.number) {
    (request == kTunSetOwner.number ? interface.owner : interface.group) =
        static_cast<long>(argument);
    return 0;
  }
  if (request == kTunSetLink.number) return 0;
  if (request == kTunGetVnetHdrSz.number) return Put(argument, interface.vnet_header_bytes);
  if (request == kTunGetSndBuf.number) return Put(argument, interface.sndbuf);
  if (request == kTunGetVnetLe.number) return Put(argument, int{interface.little_endian});
  if (request == kTunGetHardwareAddress.number) {
    if (Get(&asked, argument) != 0) return -EFAULT;
    asked.ifr_hwaddr.sa_family = 1;  // ARPHRD_ETHER
    std::memcpy(asked.ifr_hwaddr.sa_data, interface.mac, sizeof(interface.mac));
    return Put(argument, asked);
  }
  if (request == kTunSetHardwareAddress.number) {
    if (Get(&asked, argument) != 0) return -EFAULT;
    std::memcpy(interface.mac, asked.ifr_hwaddr.sa_data, sizeof(interface.mac));
    return 0;
  }
  if (request == kTunSetTxFilter.number) {
    uint16_t header[2] = {};
    if ((interface.flags & IFF_TAP) == 0) return -EINVAL;
    if (Get(&header, argument) != 0) return -EFAULT;
    std::vector<std::array<uint8_t, 6>> addresses(header[1]);
    for (size_t i = 0; i < addresses.size(); ++i) {
      if (Get(&addresses[i], argument + sizeof(header) + 6 * i) != 0) return -EFAULT;
    }
    interface.filter = std::move(addresses);
    interface.filter_all_multicast = (header[0] & TUN_FLT_ALLMULTI) != 0;
    return header[1];
  }
  if (request == kTunGetDevNetns.number) {
    if (!world_.options().cap_net_admin) return -EPERM;
    const int fd = ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
  }
  if (request == kTunSetVnetHdrSz.number || request == kTunSetSndBuf.number ||
      request == kTunSetVnetLe.number || request == kTunSetCarrier.number) {
    if (Get(&value, argument) != 0) return -EFAULT;
    if (request == kTunSetVnetHdrSz.number) {
      if (value < kVnetHeaderMin) return -EINVAL;
      interface.vnet_header_bytes = value;
    } else if (request == kTunSetSndBuf.number) {
      if (value <= 0) return -EINVAL;
      interface.sndbuf = value;
    } else if (request == kTunSetVnetLe.number) {
      interface.little_endian = value != 0;
    } else {
      interface.carrier = value != 0;
    }
    return 0;
  }
  return -EINVAL;  // tun.c answers this for what it does not know.
}

}  // namespace fakes
