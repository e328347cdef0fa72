// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/device_options.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernel-abi/system_error.h"

namespace vmm {
namespace {

absl::Status Wrong(absl::string_view property, absl::string_view value, absl::string_view needed) {
  return absl::InvalidArgumentError(absl::StrCat(property, "=", value, ": ", needed));
}

absl::StatusOr<vhost::OffloadPolicy> ParsePolicy(const DeviceOption& device) {
  const std::string text = device.Text("vhost", "require");
  for (vhost::OffloadPolicy policy : {vhost::OffloadPolicy::kRequire, vhost::OffloadPolicy::kPrefer,
                                      vhost::OffloadPolicy::kNever}) {
    if (text == vhost::Name(policy)) return policy;
  }
  return Wrong("vhost", text, "require, prefer or never is needed");
}

absl::StatusOr<vhost::inprocess::IoEngine> ParseIoEngine(const DeviceOption& device) {
  using enum vhost::inprocess::IoEngine;
  const std::string text = device.Text("io-engine", "auto");
  for (const auto engine : {kAuto, kSyscall, kIoUring}) {
    if (text == Name(engine)) return engine;
  }
  return Wrong("io-engine", text, "auto, syscall or io_uring is needed");
}

// fds that whoever started us left open, "5:6".
absl::StatusOr<std::vector<kernel_abi::UniqueFd>> TakeFds(const DeviceOption& device,
                                                          absl::string_view property) {
  constexpr int kFirstOwn = 3;  // below are stdin, stdout and stderr
  std::vector<kernel_abi::UniqueFd> fds;
  const std::string list = device.Text(property);
  for (absl::string_view text : absl::StrSplit(list, ':', absl::SkipEmpty())) {
    int fd = -1;
    if (!absl::SimpleAtoi(text, &fd) || fd < kFirstOwn) {
      return Wrong(property, list, "numbers of open file descriptors are needed");
    }
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
      return kernel_abi::MakeSystemError({.error = errno,
                                          .subject = absl::StrCat(property, "=", list),
                                          .call = "fcntl",
                                          .arguments = absl::StrCat("fd=", fd)});
    }
    fds.emplace_back(fd);
  }
  return fds;
}

// "0-3:8".
absl::StatusOr<std::vector<int>> ParseCpus(const std::string& list) {
  constexpr int kMostCpus = CPU_SETSIZE;
  std::vector<int> cpus;
  for (absl::string_view range : absl::StrSplit(list, ':', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> ends =
        absl::StrSplit(range, absl::MaxSplits('-', 1));
    int first = 0;
    int last = 0;
    if (!absl::SimpleAtoi(ends.first, &first) ||
        !absl::SimpleAtoi(ends.second.empty() ? ends.first : ends.second, &last) || first < 0 ||
        last < first || last >= kMostCpus) {
      return Wrong("worker-cpus", list, "CPUs and ranges of CPUs, divided by colons, are needed");
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

absl::StatusOr<vhost::WorkerPlacement> ParseWorker(const DeviceOption& device) {
  vhost::WorkerPlacement worker;
  absl::StatusOr<std::vector<int>> cpus = ParseCpus(device.Text("worker-cpus"));
  if (!cpus.ok()) return cpus.status();
  worker.cpus = *std::move(cpus);
  worker.cgroup = device.Text("worker-cgroup");
  if (device.Has("worker-nice")) {
    int nice = 0;
    if (!absl::SimpleAtoi(device.Text("worker-nice"), &nice) || nice < -20 || nice > 19) {
      return Wrong("worker-nice", device.Text("worker-nice"), "a number from -20 to 19 is needed");
    }
    worker.nice = nice;
  }
  return worker;
}

}  // namespace

vhost::VirtioFeatures Withheld(const DeviceOption& device) {
  vhost::VirtioFeatures withheld;
  for (const DeviceProperty& property : device.driver->properties) {
    if (!device.Switch(property.name, property.is_on)) withheld = withheld | property.features;
  }
  return withheld;
}

absl::StatusOr<vhost::NetOptions> MakeNetOptions(const DeviceOption& device, std::string name) {
  vhost::NetOptions options{.name = std::move(name)};
  absl::StatusOr<vhost::OffloadPolicy> policy = ParsePolicy(device);
  if (!policy.ok()) return policy.status();
  options.policy = *policy;
  options.failover.enabled = device.Switch("failover", true);

  options.device.queue_pairs = static_cast<int>(device.Number("queues", 1));
  options.device.withheld = Withheld(device);
  if (device.Has("queue-size")) {
    options.device.queue_size = static_cast<uint16_t>(device.Number("queue-size", 0));
  }
  if (device.Has("mtu")) options.device.mtu = static_cast<uint16_t>(device.Number("mtu", 0));
  if (device.Has("mac")) {
    absl::StatusOr<vhost::MacAddress> mac = vhost::ParseMacAddress(device.Text("mac"));
    if (!mac.ok()) return mac.status();
    options.device.mac = *mac;
  }

  if (device.Has("tap") && device.Has("fds")) {
    return absl::InvalidArgumentError("tap and fds: give one of them");
  }
  options.tap.name = device.Text("tap");
  absl::StatusOr<std::vector<kernel_abi::UniqueFd>> tap_fds = TakeFds(device, "fds");
  if (!tap_fds.ok()) return tap_fds.status();
  options.tap.fds = *std::move(tap_fds);
  const auto sndbuf = static_cast<int>(device.Number("sndbuf", vhost::kDefaultSndbufBytes));
  options.tap.sndbuf_bytes = sndbuf == 0 ? vhost::kUnlimitedSndbuf : sndbuf;

  options.backend.node = device.Text("vhostdev", options.backend.node);
  absl::StatusOr<std::vector<kernel_abi::UniqueFd>> vhost_fds = TakeFds(device, "vhostfds");
  if (!vhost_fds.ok()) return vhost_fds.status();
  options.backend.vhost_fds = *std::move(vhost_fds);
  options.backend.busyloop_us = static_cast<uint32_t>(device.Number("poll-us", 0));
  absl::StatusOr<vhost::WorkerPlacement> worker = ParseWorker(device);
  if (!worker.ok()) return worker.status();
  options.in_process.thread_options.placement = *worker;
  if (device.Has("poll-us")) {
    options.in_process.thread_options.busy_poll_us = options.backend.busyloop_us;
  }
  options.backend.worker = *std::move(worker);
  absl::StatusOr<vhost::inprocess::IoEngine> io_engine = ParseIoEngine(device);
  if (!io_engine.ok()) return io_engine.status();
  options.in_process.io_engine = *io_engine;
  return options;
}

absl::StatusOr<vhost::VsockOptions> MakeVsockOptions(const DeviceOption& device, std::string name) {
  vhost::VsockOptions options{.name = std::move(name)};
  absl::StatusOr<vhost::OffloadPolicy> policy = ParsePolicy(device);
  if (!policy.ok()) return policy.status();
  options.policy = *policy;
  options.failover.enabled = device.Switch("failover", true);

  options.device.withheld = Withheld(device);
  if (device.Has("queue-size")) {
    options.device.queue_size = static_cast<uint16_t>(device.Number("queue-size", 0));
  }

  if (device.Has("guest-cid")) options.backend.cid = device.Number("guest-cid", 0);
  options.backend.node = device.Text("vhostdev", options.backend.node);
  absl::StatusOr<std::vector<kernel_abi::UniqueFd>> fds = TakeFds(device, "vhostfd");
  if (!fds.ok()) return fds.status();
  if (fds->size() > 1) return Wrong("vhostfd", device.Text("vhostfd"), "one is needed");
  if (!fds->empty()) options.backend.vhost_fd = std::move(fds->front());
  options.backend.busyloop_us = static_cast<uint32_t>(device.Number("poll-us", 0));
  absl::StatusOr<vhost::WorkerPlacement> worker = ParseWorker(device);
  if (!worker.ok()) return worker.status();
  options.in_process.host.uds_path = device.Text("uds-path");
  options.in_process.thread_options.placement = *worker;
  if (device.Has("poll-us")) {
    options.in_process.thread_options.busy_poll_us = options.backend.busyloop_us;
  }
  options.backend.worker = *std::move(worker);
  return options;
}

}  // namespace vmm
