// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/report_text.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/columns.h"
#include "vhost/control/sample_report.h"

namespace vhost::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const control::ProcessInfo kProcess = {.vm = "demo", .pid = 1234, .library_version = "0.1.0"};

constexpr char kNetText[] = R"(net0: net, virtio-pci 00:01.0, VM demo, process 1234
  status:         0xf ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK
  problem:        none
  policy:         prefer
  backend:        kernel, /dev/vhost-net, running
  io engine:      syscall (asked for)
  passed over:    vhost-user: /run/vu.sock: connect: ENOENT
  paused:         by the host: nothing is served
  handovers:      17, 2 of them failovers; 1 failed
    2026-05-01T12:00:00.123Z  in-process to kernel  request   stopped 87 us  by hand
    2026-05-01T12:00:01.000Z  kernel to in-process  failover  not stopped    queue 1 (tx0) stands still; failed: no threads
  watchdog:       every 1000 ms, stalls of 3000 ms; looked 60 times, kicked 4, stalls 3, spins 2; standing still: queue 1
  events:         the last 2
    2026-05-01T12:00:00.000Z  started  -        by the kernel backend
    2026-05-01T12:00:00.900Z  stall    queue 1  tx0
  resets:         1
  starts:         2
  mac:            52:54:00:12:34:56
  mtu:            1500 bytes
  queue pairs:    1 active
  link:           up
  receive filter: all-multicast 52:54:00:00:00:07 33:33:00:00:00:01 and-more-multicast vlan 0 vlan 5
                  (applied by tap)
  offered:        0x20000000120000021 VIRTIO_NET_F_CSUM VIRTIO_NET_F_MAC VIRTIO_F_EVENT_IDX
                  VIRTIO_F_VERSION_1 VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO
  acked:          0x100000020 VIRTIO_NET_F_MAC VIRTIO_F_VERSION_1
  declined:       0x20000000020000001 VIRTIO_NET_F_CSUM VIRTIO_F_EVENT_IDX
                  VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO
  vhost offered:  0x33d008000 VIRTIO_NET_F_MRG_RXBUF VIRTIO_F_NOTIFY_ON_EMPTY VHOST_F_LOG_ALL
                  VHOST_NET_F_VIRTIO_NET_HDR VIRTIO_F_INDIRECT_DESC VIRTIO_F_EVENT_IDX
                  VIRTIO_F_VERSION_1 VIRTIO_F_ACCESS_PLATFORM
  vhost acked:    0x100000000 VIRTIO_F_VERSION_1
  vring 0:        rx0, served by kernel, enabled, active
    size      256 of at most 1024
    rings     desc 0x10000, avail 0x11000, used 0x12000
    indices   avail 4, used 65530, in flight 10 (waiting 5, taken 5)
    events    used_event 65530, avail_event 3, avail flags 0x0, used flags 0x1
    kick      fd 12, kicks 17
    call      fd 13
    base      65535
    vhost     fd 20, index 0, kick fd 12, call fd 13
    errors    0, fd 21
    busyloop  50 us
  vring 1:        tx0, served by kernel, enabled, active
    size      256 of at most 1024
    rings     desc 0x20000, avail 0x21000, used 0x22000
    indices   next avail 5 wrap 1, next used 250 wrap 0, taken 11, more waiting, returned 123456
    events    driver area 0x8005 flags 2, device area 0x5 flags 1
    kick      fd 14, kicks unknown: /proc/self/fdinfo does not tell
    call      fd 15
    base      unknown: not asked of the backend
    vhost     fd 20, index 1, kick fd 14, call none
    errors    3, fd 22
    problem   a descriptor of 0 bytes
    busyloop  unknown: not asked of the backend
    packets   1000, 64000 bytes, merged 10, cut 1
    drops     bad-header 2, refused 1
    signals   kicks 40, calls 30, suppressed calls 20, wake-ups 50, polls 400
  vring 2:        control, served by device, not enabled, not active
    size     0 of at most 64
    rings    not set up by the driver
    indices  unknown: nobody serves the ring
    events   unknown: as the indices
    kick     fd 16, kicks unknown: counted only while the kernel serves
    call     fd 17
  memory:         2 regions of at most 64, sent 2 times
    0x0-0xbfffffff           3 GiB        host 0x7f0000000000  memfd 7 at 0x0
    0x100000000-0x140000fff  1048580 KiB  host 0x7f00c0000000  anonymous
  wiring:         2 entries
    notify 0  ioeventfd  queue 0, fd 12, address 0xfe003000, exits 3, KVM_IOEVENTFD: EEXIST (File exists)
    msix 1    irqfd      queue 0, fd 13, gsi 25, address 0xfee01000, data 0x4021, masked, pending
  tap:            tap0
    queues       1 attached of 2
    vnet header  12 bytes
    offloads     CSUM TSO4
    link         up
    mtu          1500 bytes
    sndbuf       1048576 bytes
  connections:    2, half-open 1, established since start 7, bad clients 3, held 4096 bytes
    guest 1024 -> host 52  stream  established  to guest 10 (credit 262144), from guest 20 (credit 258048, held 4096)
    and 1 more
  worker:         4321 vhost-4320
    queues    0 1
    cpu time  1.234568 s
    affinity  0-1
    nice      0
    cgroup    /vm.slice
  worker:         4322 vhost-\x1b[31m
    queues    none
    cpu time  unknown: /proc/4322: ENOENT (No such file or directory)
    affinity  unknown: /proc/4322: ENOENT (No such file or directory)
    nice      unknown: /proc/4322: ENOENT (No such file or directory)
    cgroup    unknown: /proc/4322: ENOENT (No such file or directory)
)";

constexpr char kVsockText[] = R"(vsock0: vsock, none, VM demo, process 1234
  status:         0x47 ACKNOWLEDGE DRIVER DRIVER_OK NEEDS_RESET
  problem:        vsock0: tx: used ring at 0x5000: outside of memory
  policy:         require
  backend:        none
  handovers:      0, 0 of them failovers; 0 failed
  watchdog:       none
  resets:         0
  starts:         0
  guest cid:      3
  offered:        0x0
  acked:          0x0
  declined:       0x0
  memory:         0 regions
  wiring:         unknown: the transport reports none
)";

TEST(ReportText, ShowsEveryFieldOfADevice) {
  EXPECT_EQ(ReportText(kProcess, control::SampleNet()), kNetText);
}

TEST(ReportText, SaysWhatIsNotKnown) {
  EXPECT_EQ(ReportText(kProcess, control::SampleVsock()), kVsockText);
}

TEST(ReportText, LetsNoNameSteerTheTerminal) {
  DeviceReport report = control::SampleVsock();
  report.name = "\x1b]0;owned\x07";
  report.problem = "line\none\xc2\x9b";
  const std::string text = ReportText(kProcess, report);
  EXPECT_THAT(text, HasSubstr("\\x1b]0;owned\\x07"));
  EXPECT_THAT(text, HasSubstr("line\\x0aone\\x9b"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
}

TEST(ReportText, KeepsLettersOfOtherAlphabets) { EXPECT_EQ(Printable("zürich 機"), "zürich 機"); }

TEST(ReportText, RoundsNoSize) {
  EXPECT_EQ(SizeText(0), "0 bytes");
  EXPECT_EQ(SizeText(1023), "1023 bytes");
  EXPECT_EQ(SizeText(4096), "4 KiB");
  EXPECT_EQ(SizeText(3ull << 30), "3 GiB");
  EXPECT_EQ(SizeText((1ull << 30) + 4096), "1048580 KiB");
}

TEST(Columns, AlignAndWrap) {
  EXPECT_EQ(Columns({{"a", "bb", "c"}, {"aaa", "b", "ccc"}, {"x"}}, 1),
            " a    bb  c\n aaa  b   ccc\n x\n");
  EXPECT_EQ(Wrapped({"aaaa", "bbbb", "cccc"}, 2, 11), "aaaa bbbb\n  cccc");
  EXPECT_EQ(Wrapped({"toolongforaline", "b"}, 2, 8), "toolongforaline\n  b");
}

}  // namespace
}  // namespace vhost::ctl
