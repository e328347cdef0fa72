// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The texts of arguments in messages: what a person reads when a request was refused.
#include <string>

#include "gtest/gtest.h"
#include "kernel-abi/bit_names.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/vhost.h"

namespace kernel_abi {
namespace {

TEST(DescribeVhost, RingArgumentsAreNamed) {
  EXPECT_EQ(Describe(vhost_vring_state{1, 300}), "index=1 num=300");
  EXPECT_EQ(Describe(vhost_vring_file{0, -1}), "index=0 fd=-1");
  EXPECT_EQ(Describe(vhost_vring_addr{.index = 1,
                                      .flags = 1,
                                      .desc_user_addr = 0x7f0000001000,
                                      .used_user_addr = 0x7f0000003000,
                                      .avail_user_addr = 0x7f0000002000,
                                      .log_guest_addr = 0x3000}),
            "index=1 flags=0x1 desc=0x7f0000001000 avail=0x7f0000002000 used=0x7f0000003000 "
            "log=0x3000");
}

TEST(DescribeVhost, FourRegionsAreListedAndTheRestCounted) {
  EXPECT_EQ(Describe(MemoryTable()), "0 regions");
  EXPECT_EQ(Describe(MemoryTable{{0x1000, 0x2000, 0x7000, 0}}),
            "1 region: guest=0x1000 size=0x2000 host=0x7000");
  MemoryTable table;
  for (uint64_t i = 0; i < 6; ++i) table.Append({i << 12, 0x1000, 0x70000 + (i << 12), 0});
  const std::string text = Describe(table);
  EXPECT_EQ(text.substr(0, 20), "6 regions: guest=0 s") << text;
  EXPECT_NE(text.find("guest=0x3000"), std::string::npos) << text;
  EXPECT_EQ(text.find("guest=0x4000"), std::string::npos) << text;
  EXPECT_EQ(text.substr(text.size() - 12), ", and 2 more") << text;
}

TEST(DescribeVhost, FeaturesShowTheWordAndVhostsNamesForItsBits) {
  EXPECT_EQ(DescribeVhostFeatures(0), "0");
  EXPECT_EQ(DescribeVhostFeatures(uint64_t{1} << 32 | 1 << 26 | 1 << 27),
            "0x10c000000 (VHOST_F_LOG_ALL VHOST_NET_F_VIRTIO_NET_HDR F_VERSION_1)");
  EXPECT_EQ(DescribeVhostFeatures(1 << 1), "0x2 (bit1)") << "of net or of vsock: unknown here";
  EXPECT_EQ(Describe(FeatureArray{.words = {0, 2}}), "0, 0x2 (NET_F_GUEST_UDP_TUNNEL_GSO)");
  EXPECT_EQ(DescribeBackendFeatures(2), "0x2 (IOTLB_MSG_V2)");
}

TEST(DescribeVhost, OthersSpeakTheFieldsWords) {
  EXPECT_EQ(DescribeCid(42), "cid=42");
  EXPECT_EQ(Describe(ForkMode::kKernelThread), "kthread");
  EXPECT_EQ(Describe(static_cast<ForkMode>(7)), "7");
  vhost_msg_v2 message = {};
  message.type = VHOST_IOTLB_MSG_V2;
  message.iotlb = {.iova = 0x1000, .size = 0x2000, .uaddr = 0x3000, .perm = 3, .type = 2};
  EXPECT_EQ(Describe(message), "type=2 asid=0 UPDATE iova=0x1000 size=0x2000 host=0x3000 perm=3");
}

TEST(DescribeKvm, WiringIsNamed) {
  kvm_ioeventfd ioeventfd = {};
  ioeventfd.addr = 0xd0000050;
  ioeventfd.len = 4;
  ioeventfd.fd = 9;
  EXPECT_EQ(Describe(ioeventfd), "fd=9 addr=0xd0000050 len=4 flags=0");
  ioeventfd.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_DEASSIGN;
  ioeventfd.datamatch = 1;
  EXPECT_EQ(Describe(ioeventfd), "fd=9 addr=0xd0000050 len=4 flags=DATAMATCH|DEASSIGN datamatch=1");
  kvm_irqfd irqfd = {};
  irqfd.fd = 9;
  irqfd.gsi = 24;
  irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
  irqfd.resamplefd = 10;
  EXPECT_EQ(Describe(irqfd), "fd=9 gsi=24 flags=RESAMPLE resamplefd=10");
  kvm_irq_routing_entry route = {};
  route.gsi = 24;
  route.type = KVM_IRQ_ROUTING_MSI;
  route.u.msi.address_lo = 0xfee00000;
  route.u.msi.data = 0x4041;
  EXPECT_EQ(Describe(IrqRoutingTable{route}), "1 entry: gsi 24: MSI 0xfee00000 data 0x4041");
  EXPECT_EQ(Describe(kvm_userspace_memory_region{3, 1, 0x1000, 0x2000, 0x7000}),
            "slot=3 flags=LOG_DIRTY_PAGES guest=0x1000 size=0x2000 host=0x7000");
}

TEST(DescribeTun, InterfacesAndOffloadsAreNamed) {
  EXPECT_EQ(Describe(InterfaceRequest("tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)),
            "name=tap0 flags=IFF_TAP|IFF_NO_PI|IFF_VNET_HDR");
  EXPECT_EQ(DescribeOffloads(0), "none");
  EXPECT_EQ(DescribeOffloads(kTunFCsum | kTunFTso4 | kTunFUso6), "CSUM TSO4 USO6");
  ifreq mac = InterfaceRequest("tap0", 0);
  for (int i = 0; i < 6; ++i) mac.ifr_hwaddr.sa_data[i] = static_cast<char>(0xa0 + i);
  EXPECT_EQ(DescribeHardwareAddress(mac), "name=tap0 mac=a0:a1:a2:a3:a4:a5");
}

TEST(DescribeTun, InterfaceNamesAreWhatTheKernelTakes) {
  for (const char* good : {"tap0", "a", "tap%d", "123456789012345"}) {
    EXPECT_TRUE(IsInterfaceName(good)) << good;
  }
  for (const char* bad : {"", ".", "..", "a/b", "a b", "a:b", "a\nb", "1234567890123456"}) {
    EXPECT_FALSE(IsInterfaceName(bad)) << bad;
  }
}

TEST(BitNames, UnnamedBitsShowTheirNumber) {
  constexpr BitName kNames[] = {{0, "A"}, {65, "Z"}};
  EXPECT_EQ(BitNames(0, kNames, "|"), "");
  EXPECT_EQ(BitNames(3, kNames, "|"), "A|bit1");
  EXPECT_EQ(DescribeBits(3, kNames, 64), "0x3 (bit64 Z)");
}

TEST(EntryTable, KeepsItsCountAndItsEntries) {
  MemoryTable table;
  EXPECT_EQ(table.count(), 0u);
  table.Append({1, 2, 3, 0});
  table.Append({4, 5, 6, 0});
  EXPECT_EQ(table.count(), 2u);
  EXPECT_EQ(table.entries()[1].memory_size, 5u);
  table.set_flags(7);
  const auto* words = static_cast<const uint32_t*>(table.kernel_argument());
  EXPECT_EQ(words[0], 2u);
  EXPECT_EQ(words[1], 7u);
  EXPECT_EQ(table.flags(), 7u);
}

TEST(EntryTable, IsTrimmedToWhatTheKernelFilled) {
  EntryTable<uint64_t> table(8);
  *static_cast<uint32_t*>(table.kernel_argument()) = 3;
  table.TrimToCount();
  EXPECT_EQ(table.entries().size(), 3u);
  *static_cast<uint32_t*>(table.kernel_argument()) = 9;  // More than there is room for.
  table.TrimToCount();
  EXPECT_EQ(table.entries().size(), 3u);
}

}  // namespace
}  // namespace kernel_abi
