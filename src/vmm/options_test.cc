// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vmm {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::variant<Options, Help>> Parse(const std::vector<const char*>& arguments) {
  return ParseOptions(arguments);
}

Options Parsed(const std::vector<const char*>& arguments) {
  auto parsed = Parse(arguments);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? std::get<Options>(*parsed) : Options{};
}

std::string HelpText(const std::vector<const char*>& arguments) {
  auto parsed = Parse(arguments);
  return parsed.ok() && std::holds_alternative<Help>(*parsed) ? std::get<Help>(*parsed).text : "";
}

TEST(Options, DefaultsNeedOnlyAKernel) {
  const Options options = Parsed({"--kernel", "vmlinuz"});
  EXPECT_EQ(options.kernel, "vmlinuz");
  EXPECT_EQ(options.memory_bytes, 256U << 20);
  EXPECT_EQ(options.memory_backend, MemoryBackend::kMemFd);
  EXPECT_EQ(options.cpus, 1U);
  EXPECT_EQ(options.name, "vmm");
  EXPECT_FALSE(options.verbose);
  EXPECT_TRUE(options.devices.empty());
}

TEST(Options, ValuesFollowAsAWordOrBehindAnEqualsSign) {
  const Options options = Parsed({"--kernel=k", "--append", "console=ttyS0 quiet", "--memory", "2G",
                                  "--cpus=4", "--memory-backend", "anonymous", "--verbose",
                                  "--name=guest1", "--irqchip", "split", "--no-reboot"});
  EXPECT_EQ(options.append, "console=ttyS0 quiet");
  EXPECT_EQ(options.memory_bytes, uint64_t{2} << 30);
  EXPECT_EQ(options.cpus, 4U);
  EXPECT_EQ(options.memory_backend, MemoryBackend::kAnonymous);
  EXPECT_EQ(options.name, "guest1");
  EXPECT_TRUE(options.verbose);
  EXPECT_EQ(options.irqchip, Irqchip::kSplit);
  EXPECT_FALSE(options.reboot);
}

TEST(Options, TheWatchdogHasAPeriodAndALimit) {
  EXPECT_EQ(Parsed({"--kernel", "k", "--watchdog", "off"}).watchdog.period_ms, 0U);
  EXPECT_EQ(Parsed({"--kernel", "k", "--watchdog=100"}).watchdog.period_ms, 100U);
  const vhost::WatchdogOptions both = Parsed({"--kernel", "k", "--watchdog", "50:200"}).watchdog;
  EXPECT_EQ(both.period_ms, 50U);
  EXPECT_EQ(both.stall_ms, 200U);
}

TEST(Options, DevicesKeepTheirOrderAndProperties) {
  const Options options =
      Parsed({"--kernel", "k", "--device", "virtio-net-pci,id=n0,ifname=tap3,gso=off,mtu=1400",
              "--device", "vhost-vsock-device,guest-cid=42"});
  ASSERT_EQ(options.devices.size(), 2U);
  const DeviceOption& net = options.devices[0];
  EXPECT_EQ(net.driver->name, "virtio-net-pci");
  EXPECT_EQ(net.Text("id"), "n0");
  EXPECT_EQ(net.Text("tap"), "tap3");
  EXPECT_FALSE(net.Switch("gso", true));
  EXPECT_TRUE(net.Switch("csum", true));
  EXPECT_EQ(net.Number("mtu", 0), 1400U);
  EXPECT_EQ(net.Number("queues", 1), 1U);
  const DeviceOption& vsock = options.devices[1];
  EXPECT_EQ(vsock.driver->name, "vhost-vsock-mmio");
  EXPECT_EQ(vsock.Number("guest-cid", 0), 42U);
}

TEST(Options, WrongOnesAreAnsweredExactly) {
  const struct {
    std::vector<const char*> arguments;
    const char* message;
  } cases[] = {
      {{}, "no kernel: --kernel FILE (see --help)"},
      {{"--kernel"}, "--kernel needs a value (see --help)"},
      {{"--kernel", "k", "--frobnicate"}, "unknown argument \"--frobnicate\" (see --help)"},
      {{"--kernel", "k", "--frobnicate", "1"}, "unknown argument \"--frobnicate\" (see --help)"},
      {{"--kernel", "k", "stray"}, "unknown argument \"stray\" (see --help)"},
      {{"--memory", "12"}, "--memory 12: a size from 32M to 1024G is needed (see --help)"},
      {{"--memory", "2T"}, "--memory 2T: a size from 32M to 1024G is needed (see --help)"},
      {{"--cpus", "0"}, "--cpus 0: a number from 1 to 254 is needed (see --help)"},
      {{"--cpus", "many"}, "--cpus many: a number from 1 to 254 is needed (see --help)"},
      {{"--memory-backend", "file"},
       "--memory-backend file: memfd or anonymous is needed (see --help)"},
      {{"--irqchip", "none"}, "--irqchip none: full or split is needed (see --help)"},
      {{"--name", "a/b"}, "--name: a name without \"/\" is needed (see --help)"},
      {{"--watchdog", "0"},
       "--watchdog 0: PERIOD:STALL in milliseconds is needed, from 1 to 3600000 and STALL not less "
       "than PERIOD, or \"off\" (see --help)"},
      {{"--watchdog", "100:50"},
       "--watchdog 100:50: PERIOD:STALL in milliseconds is needed, from 1 to 3600000 and STALL not "
       "less than PERIOD, or \"off\" (see --help)"},
      {{"--device", "e1000"}, "--device e1000: no such device; \"--device help\" lists them"},
      {{"--device", "vhost-vsock-pci,guest-cid=2"},
       "--device vhost-vsock-pci: guest-cid=2: a number from 3 to 4294967294 is needed"},
      {{"--device", "virtio-net-pci,csum=maybe"},
       "--device virtio-net-pci: csum=maybe: on or off is needed"},
      {{"--device", "virtio-net-pci,tap="}, "--device virtio-net-pci: tap needs a value"},
      {{"--device", "virtio-net-pci,tap=a,ifname=b"},
       "--device virtio-net-pci: ifname is given twice"},
  };
  for (const auto& [arguments, message] : cases) {
    const auto parsed = Parse(arguments);
    ASSERT_FALSE(parsed.ok()) << message;
    EXPECT_EQ(std::string(parsed.status().message()), message);
  }
}

TEST(Options, HelpIsNeverAnError) {
  EXPECT_THAT(HelpText({"--help"}), HasSubstr("Usage: vmm"));
  EXPECT_THAT(HelpText({"--version"}), HasSubstr("vmm (libvhost) "));
  EXPECT_THAT(HelpText({"--device", "help"}), HasSubstr("vhost-vsock-pci"));
  EXPECT_THAT(HelpText({"--device", "virtio-net-pci,help"}), HasSubstr("vectors=<uint>"));
  EXPECT_THAT(HelpText({"--device=vhost-vsock-mmio,help"}), HasSubstr("guest-cid=<uint>"));
}

}  // namespace
}  // namespace vmm
