// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What TAP devices are asked (/dev/net/tun). An fd of that node is one queue of an interface once
// TUNSETIFF has attached it; nearly all other requests answer EBADFD before that.
//
// The order for a queue that vhost is to serve: TUNSETIFF with IFF_VNET_HDR, TUNSETVNETHDRSZ to the
// header that the driver negotiated (a mismatch is not diagnosed: vhost drops every packet),
// TUNSETOFFLOAD with what the driver acknowledged, TUNSETSNDBUF finite, then VHOST_NET_SET_BACKEND.
#pragma once

// Before any <linux/if*.h>: the kernel's headers then leave struct ifreq to the C library.
#include <net/if.h>

#include <linux/if_tun.h>
#include <linux/ioctl.h>
#include <linux/sockios.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernel-abi/request.h"

// Stands in the namespace of the kernel's struct, where Call() finds it:
// "name=tap0 flags=IFF_TAP|IFF_NO_PI|IFF_VNET_HDR".
std::string Describe(const ifreq& request);

namespace kernel_abi {

// The path of the node.
inline constexpr char kTunPath[] = "/dev/net/tun";

// An interface's name with flags (IFF_TAP ...). A name of IFNAMSIZ bytes or more is cut: check it
// with IsInterfaceName() first. `%d` in a name asks the kernel for the next free number.
ifreq InterfaceRequest(absl::string_view name, short flags);
bool IsInterfaceName(absl::string_view name);
std::string InterfaceName(const ifreq& request);
// "name=tap0 mac=52:54:00:12:34:56".
std::string DescribeHardwareAddress(const ifreq& request);
// "CSUM TSO4 TSO6", of the TUN_F_* bits.
std::string DescribeOffloads(unsigned offloads);

// A set of destination addresses that a TAP lets through to its reader. No address: all.
class MacFilter {
 public:
  using Mac = std::array<uint8_t, 6>;
  MacFilter(std::vector<Mac> addresses, bool all_multicast);
  size_t size() const { return count_; }
  bool all_multicast() const { return all_multicast_; }
  void* kernel_argument() const { return const_cast<uint8_t*>(bytes_.data()); }

 private:
  size_t count_;
  bool all_multicast_;
  std::vector<uint8_t> bytes_;  // u16 flags, u16 count, then the addresses (struct tun_filter)
};
std::string Describe(const MacFilter& filter);

using Offloads = ByValue<unsigned>;

namespace internal {
std::string DescribeOffloadsArgument(const Offloads& offloads);
}

// ---- Attaching a queue -------------------------------------------------------------------------

// EBUSY: a single-queue interface whose queue somebody has. EINVAL: the interface was made with
// IFF_MULTI_QUEUE and this asks without, or the other way round, or it is no TAP. EPERM: it belongs
// to another user. E2BIG: 256 queues are attached. EEXIST: this fd is attached already.
inline constexpr Request<ifreq> kTunSetIff{TUNSETIFF, "TUNSETIFF"};
inline constexpr Request<ifreq> kTunGetIff{TUNGETIFF, "TUNGETIFF"};
// IFF_ATTACH_QUEUE or IFF_DETACH_QUEUE, of a multi-queue interface.
inline constexpr Request<ifreq> kTunSetQueue{TUNSETQUEUE, "TUNSETQUEUE"};
// The flags that TUNSETIFF of this kernel takes; answered without an interface.
inline constexpr Request<unsigned> kTunGetFeatures{TUNGETFEATURES, "TUNGETFEATURES"};
// The index that the next TUNSETIFF gives a new interface.
inline constexpr Request<unsigned> kTunSetIfIndex{TUNSETIFINDEX, "TUNSETIFINDEX"};
inline constexpr Request<ByValue<int>> kTunSetPersist{TUNSETPERSIST, "TUNSETPERSIST"};
inline constexpr Request<ByValue<unsigned>> kTunSetOwner{TUNSETOWNER, "TUNSETOWNER"};
inline constexpr Request<ByValue<unsigned>> kTunSetGroup{TUNSETGROUP, "TUNSETGROUP"};
// The ARPHRD_* type. EBUSY while the interface is up.
inline constexpr Request<ByValue<int>> kTunSetLink{TUNSETLINK, "TUNSETLINK"};
inline constexpr Request<int> kTunSetCarrier{TUNSETCARRIER, "TUNSETCARRIER"};
// Returns an fd. EPERM without CAP_NET_ADMIN in that namespace.
inline constexpr Request<Nothing> kTunGetDevNetns{TUNGETDEVNETNS, "TUNGETDEVNETNS"};

// ---- What passes the queue ---------------------------------------------------------------------

// EINVAL: a bit left over that this kernel does not know, USO4 without USO6, TSO without CSUM.
inline constexpr Request<Offloads> kTunSetOffload{
    TUNSETOFFLOAD, "TUNSETOFFLOAD", {}, internal::DescribeOffloadsArgument};
// Of the whole interface. EINVAL below 10 (sizeof(virtio_net_hdr)).
inline constexpr Request<int> kTunSetVnetHdrSz{TUNSETVNETHDRSZ, "TUNSETVNETHDRSZ"};
inline constexpr Request<int> kTunGetVnetHdrSz{TUNGETVNETHDRSZ, "TUNGETVNETHDRSZ"};
inline constexpr Request<int> kTunSetVnetLe{TUNSETVNETLE, "TUNSETVNETLE"};
inline constexpr Request<int> kTunGetVnetLe{TUNGETVNETLE, "TUNGETVNETLE"};
// EINVAL: only kernels with CONFIG_TUN_VNET_CROSS_LE have it.
inline constexpr Request<int> kTunSetVnetBe{TUNSETVNETBE, "TUNSETVNETBE"};
inline constexpr Request<int> kTunGetVnetBe{TUNGETVNETBE, "TUNGETVNETBE"};
// Bytes that may be under way from this interface. EINVAL: not positive. It starts at INT_MAX,
// which means no limit, and with which vhost-net sends in batches.
inline constexpr Request<int> kTunSetSndBuf{TUNSETSNDBUF, "TUNSETSNDBUF"};
inline constexpr Request<int> kTunGetSndBuf{TUNGETSNDBUF, "TUNGETSNDBUF"};
inline constexpr Request<MacFilter> kTunSetTxFilter{TUNSETTXFILTER, "TUNSETTXFILTER"};
inline constexpr Request<ifreq> kTunGetHardwareAddress{
    SIOCGIFHWADDR, "SIOCGIFHWADDR", {}, DescribeHardwareAddress};
inline constexpr Request<ifreq> kTunSetHardwareAddress{
    SIOCSIFHWADDR, "SIOCSIFHWADDR", {}, DescribeHardwareAddress};

// ---- TUN_F_* -----------------------------------------------------------------------------------

inline constexpr unsigned kTunFCsum = TUN_F_CSUM;
inline constexpr unsigned kTunFTso4 = TUN_F_TSO4;
inline constexpr unsigned kTunFTso6 = TUN_F_TSO6;
inline constexpr unsigned kTunFTsoEcn = TUN_F_TSO_ECN;
inline constexpr unsigned kTunFUfo = TUN_F_UFO;
inline constexpr unsigned kTunFUso4 = 0x20;  // Linux 6.2; only together with USO6
inline constexpr unsigned kTunFUso6 = 0x40;
inline constexpr unsigned kTunFUdpTunnelGso = 0x080;  // Linux 6.17
inline constexpr unsigned kTunFUdpTunnelGsoCsum = 0x100;
// Taken at TUNSETIFF: starts the interface without carrier (Linux 6.0).
inline constexpr unsigned kIffNoCarrier = 0x0040;
// Queues of one interface.
inline constexpr unsigned kTunMaxQueues = 256;

static_assert(kTunSetIff.number == 0x400454ca && kTunSetQueue.number == 0x400454d9);
static_assert(kTunGetIff.number == 0x800454d2 && kTunSetOffload.number == 0x400454d0);
static_assert(kTunSetVnetHdrSz.number == 0x400454d8 && kTunSetSndBuf.number == 0x400454d4);
static_assert(kTunSetCarrier.number == 0x400454e2 && kTunGetDevNetns.number == 0x54e3);
static_assert(sizeof(ifreq) == 40 && sizeof(tun_filter) == 4);

}  // namespace kernel_abi
