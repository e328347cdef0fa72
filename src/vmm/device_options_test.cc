// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/device_options.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace vmm {
namespace {

using F = vhost::VirtioFeature;

DeviceOption Parsed(const std::string& text) {
  absl::StatusOr<DeviceOption> option = ParseDevice(text);
  EXPECT_TRUE(option.ok()) << option.status();
  return option.ok() ? *std::move(option) : DeviceOption{.driver = &DeviceCatalog()[0]};
}

absl::StatusOr<vhost::NetOptions> Net(const std::string& properties) {
  return MakeNetOptions(Parsed(absl::StrCat("virtio-net-pci", properties)), "net0");
}

absl::StatusOr<vhost::VsockOptions> Vsock(const std::string& properties) {
  return MakeVsockOptions(Parsed(absl::StrCat("vhost-vsock-pci", properties)), "vsock0");
}

// What the host kernel does not serve is asked for.
constexpr vhost::VirtioFeatures kOffByDefault = {F::kRingPacked, F::kInOrder};

TEST(DeviceOptions, DefaultsRequireTheKernelAndWithholdWhatItLacks) {
  const auto net = Net("");
  ASSERT_TRUE(net.ok()) << net.status();
  EXPECT_EQ(net->name, "net0");
  EXPECT_EQ(net->policy, vhost::OffloadPolicy::kRequire);
  EXPECT_EQ(net->device.queue_pairs, 1);
  EXPECT_EQ(net->device.withheld, kOffByDefault);
  EXPECT_EQ(net->tap.sndbuf_bytes, vhost::kDefaultSndbufBytes);
  EXPECT_EQ(net->backend.node, "/dev/vhost-net");
  EXPECT_TRUE(net->backend.worker.empty());
  const auto vsock = Vsock("");
  ASSERT_TRUE(vsock.ok()) << vsock.status();
  EXPECT_FALSE(vsock->backend.cid.has_value());
}

TEST(DeviceOptions, NetPropertiesReachTheirPlaces) {
  const auto net = Net(
      ",tap=tap7,queues=2,mac=52:54:00:12:34:56,mtu=9000,sndbuf=0,vhost=prefer,vhostdev=/dev/v,"
      "poll-us=50,queue-size=512,worker-cpus=0-2:5,worker-nice=-5,worker-cgroup=/sys/fs/cgroup/x,"
      "io-engine=io_uring");
  ASSERT_TRUE(net.ok()) << net.status();
  EXPECT_EQ(net->tap.name, "tap7");
  EXPECT_EQ(net->tap.sndbuf_bytes, vhost::kUnlimitedSndbuf);
  EXPECT_EQ(net->device.queue_pairs, 2);
  EXPECT_EQ(net->device.mac, (vhost::MacAddress{0x52, 0x54, 0, 0x12, 0x34, 0x56}));
  EXPECT_EQ(net->device.mtu, 9000);
  EXPECT_EQ(net->device.queue_size, 512);
  EXPECT_EQ(net->policy, vhost::OffloadPolicy::kPrefer);
  EXPECT_EQ(net->backend.node, "/dev/v");
  EXPECT_EQ(net->backend.busyloop_us, 50U);
  EXPECT_EQ(net->backend.worker.cpus, (std::vector<int>{0, 1, 2, 5}));
  EXPECT_EQ(net->backend.worker.nice, -5);
  EXPECT_EQ(net->backend.worker.cgroup, "/sys/fs/cgroup/x");
  EXPECT_EQ(net->in_process.io_engine, vhost::inprocess::IoEngine::kIoUring);
}

TEST(DeviceOptions, SwitchesThatAreOffWithholdTheirFeatures) {
  const auto net = Net(",csum=off,guest_tso4=off,mrg_rxbuf=on,event_idx=off");
  ASSERT_TRUE(net.ok());
  EXPECT_EQ(net->device.withheld,
            (kOffByDefault | vhost::VirtioFeatures{F::kNetCsum, F::kNetGuestTso4, F::kEventIdx}));
  EXPECT_TRUE(Net(",packed=on,in_order=on")->device.withheld.empty());
  const auto gso = Net(",gso=off,host_tso4=on");
  ASSERT_TRUE(gso.ok());
  EXPECT_TRUE(gso->device.withheld.Contains({F::kNetHostTso4, F::kNetGuestTso6, F::kNetHostUso}));
  const auto vsock = Vsock(",seqpacket=off,guest-cid=9");
  ASSERT_TRUE(vsock.ok());
  EXPECT_EQ(vsock->device.withheld, (kOffByDefault | vhost::VirtioFeatures{F::kVsockSeqpacket}));
  EXPECT_EQ(vsock->backend.cid, 9U);
}

TEST(DeviceOptions, FdsAreTakenOverAndNoLongerInherited) {
  const int fd = open("/dev/null", O_RDWR);
  ASSERT_GT(fd, 2);
  {
    const auto net = Net(absl::StrCat(",fd=", fd));
    ASSERT_TRUE(net.ok()) << net.status();
    ASSERT_EQ(net->tap.fds.size(), 1U);
    EXPECT_EQ(net->tap.fds[0].get(), fd);
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  }
  EXPECT_LT(fcntl(fd, F_GETFD), 0);
}

TEST(DeviceOptions, WrongValuesAreNamed) {
  const struct {
    const char* properties;
    const char* message;
  } cases[] = {
      {",vhost=on", "vhost=on: require, prefer or never is needed"},
      {",fds=1", "fds=1: numbers of open file descriptors are needed"},
      {",fds=4000", "fds=4000: fcntl(fd=4000): EBADF"},
      {",tap=a,fds=4000", "tap and fds: give one of them"},
      {",worker-cpus=3-1", "worker-cpus=3-1: CPUs and ranges"},
      {",worker-cpus=9999", "worker-cpus=9999: CPUs and ranges"},
      {",worker-nice=20", "worker-nice=20: a number from -20 to 19 is needed"},
      {",mac=52:54", "52:54"},
      {",io-engine=aio", "io-engine=aio: auto, syscall or io_uring is needed"},
  };
  for (const auto& [properties, message] : cases) {
    const auto net = Net(properties);
    ASSERT_FALSE(net.ok()) << properties;
    EXPECT_THAT(std::string(net.status().message()), testing::HasSubstr(message));
  }
}

}  // namespace
}  // namespace vmm
