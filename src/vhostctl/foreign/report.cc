// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/foreign/report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/json_text.h"

namespace vhost::ctl {
namespace {

constexpr char kUnknown[] = "?";

// A process whose fds cannot be read has one device of which nothing is known.
std::vector<ForeignDevice> DevicesOf(const ForeignProcess& process) {
  return process.devices.empty() ? std::vector<ForeignDevice>{{}} : process.devices;
}

template <typename T>
std::string NumberOrNull(const std::optional<T>& value) {
  return value.has_value() ? absl::StrCat(*value) : "null";
}
std::string TextOrNull(const std::optional<std::string>& value) {
  return value.has_value() ? control::Quoted(*value) : "null";
}

std::string JsonOf(const WorkerReport& worker) {
  return JsonObject()
      .Value("tid", worker.tid)
      .Text("name", worker.name)
      .Json("cpu_time_ns", NumberOrNull(worker.cpu_time_ns))
      .Json("affinity", TextOrNull(worker.affinity))
      .Json("nice", NumberOrNull(worker.nice))
      .Json("cgroup", TextOrNull(worker.cgroup))
      .Done();
}

std::string JsonOf(const ForeignTap& tap) {
  return JsonObject()
      .Text("name", tap.name)
      .Value("queues", tap.queues)
      .Json("header_bytes", NumberOrNull(tap.header_bytes))
      .Json("sndbuf_bytes", NumberOrNull(tap.sndbuf_bytes))
      .Done();
}

std::vector<std::string> OfferedNames(const ForeignDevice& device) {
  return FeatureNames(device.type == "vsock" ? DeviceId::kVsock : DeviceId::kNet,
                      *device.vhost_offered);
}

std::string JsonOfFeatures(const ForeignDevice& device) {
  if (!device.vhost_offered.has_value()) return "null";
  return JsonObject()
      .Text("bits", absl::StrFormat("0x%x", device.vhost_offered->low()))
      .Json("names", JsonStrings(OfferedNames(device)))
      .Done();
}

template <typename T>
std::string JsonOfAll(const std::vector<T>& values) {
  std::vector<std::string> list;
  for (const T& value : values) list.push_back(JsonOf(value));
  return JsonList(list);
}

}  // namespace

std::string ProcessJson(const ForeignProcess& process) {
  return JsonObject()
      .Text("vm", process.vm)
      .Value("pid", process.pid)
      .Text("command", process.command)
      .Text("user", process.user)
      .Value("foreign", true)
      .Json("cgroup", TextOrNull(process.cgroup))
      .Json("network_namespace", TextOrNull(process.network_namespace))
      .Json("taps", JsonOfAll(process.taps))
      .Json("workers", JsonOfAll(process.workers))
      .Value("vcpus", process.vcpus)
      .Value("eventfds", process.eventfds)
      .Value("eventfd_count", process.eventfd_count)
      .Json("claimed_cids", JsonStrings(process.claimed_cids))
      .Done();
}

std::vector<std::vector<std::string>> RowsOf(const ForeignProcess& process) {
  std::vector<std::vector<std::string>> rows;
  for (const ForeignDevice& device : DevicesOf(process)) {
    const bool known = device.fd >= 0;
    rows.push_back({process.vm, absl::StrCat(process.pid), NameOf(device),
                    known ? device.type : kUnknown, "kernel", kUnknown,
                    device.vrings.has_value() ? absl::StrCat("?/", *device.vrings) : kUnknown,
                    PeerOf(process, device), WorkersOf(process), kUnknown});
  }
  return rows;
}

std::string JsonOf(const ForeignProcess& process, const ForeignDevice& device) {
  JsonObject unknown;
  for (const Unknown& row : Unknowns(process, device)) unknown.Text(row.what, row.reason);
  return JsonObject()
      .Text("name", NameOf(device))
      .Json("type", device.fd < 0 ? "null" : control::Quoted(device.type))
      .Json("node", device.fd < 0 ? "null" : control::Quoted(device.node))
      .Json("vhost_fd", device.fd < 0 ? "null" : absl::StrCat(device.fd))
      .Text("backend", "kernel")
      .Json("queues", NumberOrNull(device.vrings))
      .Json("vhost_offered", JsonOfFeatures(device))
      .Json("unknown", unknown.Done())
      .Done();
}

std::string JsonOf(const ForeignProcess& process) {
  std::vector<std::string> devices;
  for (const ForeignDevice& device : DevicesOf(process)) {
    devices.push_back(JsonOf(process, device));
  }
  return JsonObject()
      .Json("process", ProcessJson(process))
      .Json("devices", JsonList(devices))
      .Done();
}

std::string TextOf(const ForeignProcess& process, const ForeignDevice& device) {
  std::string out =
      absl::StrCat(NameOf(device), ": ", device.type, ", ", device.node, ", VM ",
                   Printable(process.vm), ", process ", process.pid, " (",
                   Printable(process.command), ", user ", Printable(process.user), ")\n");
  const auto fact = [&out](absl::string_view key, absl::string_view value) {
    absl::StrAppendFormat(&out, "  %-24s%s\n", absl::StrCat(key, ":"), Printable(value));
  };
  fact("seen", "from outside: the process has no control socket");
  if (device.vhost_offered.has_value()) {
    fact("offered by vhost", absl::StrFormat("0x%x %s", device.vhost_offered->low(),
                                             absl::StrJoin(OfferedNames(device), " ")));
  }
  if (device.type == "net") fact("TAP", PeerOf(process, device));
  for (const ForeignTap& tap : process.taps) {
    if (device.type != "net" || !tap.header_bytes.has_value()) continue;
    fact("", absl::StrCat(tap.name, ": header ", *tap.header_bytes, " bytes, sndbuf ",
                          tap.sndbuf_bytes.value_or(0), " bytes"));
  }
  fact("workers", WorkersOf(process));
  for (const WorkerReport& worker : process.workers) {
    fact("", absl::StrCat(
                 worker.tid, " ", worker.name, ", CPU time ",
                 worker.cpu_time_ns.has_value()
                     ? absl::StrFormat("%.3f s", static_cast<double>(*worker.cpu_time_ns) / 1e9)
                     : "unknown",
                 ", CPUs ", worker.affinity.value_or("unknown")));
  }
  fact("cgroup", process.cgroup.value_or("unknown"));
  fact("network namespace", absl::StrCat(process.network_namespace.value_or("unknown"),
                                         process.network_namespace_is_ours ? " (this one)" : ""));
  fact("vCPUs", absl::StrCat(process.vcpus));
  fact("eventfds", absl::StrCat(process.eventfds, ", which hold ", process.eventfd_count,
                                " signals (vhost takes no kick back)"));
  for (const Unknown& row : Unknowns(process, device)) {
    fact(row.what, absl::StrCat("unknown: ", row.reason));
  }
  return out;
}

}  // namespace vhost::ctl
