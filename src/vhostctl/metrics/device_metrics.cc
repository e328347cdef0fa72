// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/metrics/device_metrics.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vhost/control/report_json.h"
#include "vhost/device/device.h"

namespace vhost::ctl {
namespace {

struct Declared {
  const char* name;
  MetricType type;
  const char* help;
};
constexpr auto kGauge = MetricType::kGauge;
constexpr auto kCounter = MetricType::kCounter;

// Labels: vm, pid and device everywhere; queue and role of a vring.
constexpr Declared kFamilies[] = {
    {"vhost_up", kGauge, "1 if the process behind the control socket answered."},
    {"vhost_device_info", kGauge, "1; the labels say what the device is and who serves it."},
    {"vhost_device_running", kGauge, "1 while a backend serves its vrings."},
    {"vhost_device_paused", kGauge, "1 while the host has paused it."},
    {"vhost_device_needs_reset", kGauge, "1 if it has given up until the driver resets it."},
    {"vhost_device_fallback", kGauge, "1 if a backend that is preferred was passed over."},
    {"vhost_device_link_up", kGauge, "1 if the driver sees the link up."},
    {"vhost_device_resets", kCounter, "Resets of the device."},
    {"vhost_device_starts", kCounter, "Times that a driver was ready and vrings were served."},
    {"vhost_device_handovers", kCounter, "Moves between backends, by result."},
    {"vhost_device_failovers", kCounter, "Moves because the old backend failed or stalled."},
    {"vhost_device_stalls", kCounter, "Queues that stood still with work in them."},
    {"vhost_device_spins", kCounter, "Workers that used CPU time while nothing got on."},
    {"vhost_device_watchdog_kicks", kCounter, "Kicks given again to queues that did not get on."},
    {"vhost_device_stalled_queues", kGauge, "Queues that stand still now."},
    {"vhost_device_memory_regions", kGauge, "Merged regions of guest memory."},
    {"vhost_device_memory_regions_max", kGauge, "The most regions that the backend takes."},
    {"vhost_device_memory_updates", kCounter, "Memory tables sent to the backend."},
    {"vhost_vring_active", kGauge, "1 if it is handed to whoever serves it."},
    {"vhost_vring_size", kGauge, "Entries, as the driver set it up."},
    {"vhost_vring_in_flight", kGauge, "Chains made available and not given back."},
    {"vhost_vring_avail_index", kGauge, "The driver's index, modulo 65536."},
    {"vhost_vring_used_index", kGauge, "The device's index, modulo 65536."},
    {"vhost_vring_errors", kCounter, "Times that the backend called the ring broken."},
    {"vhost_vring_kicks", kCounter, "Notifications: counted by the kick eventfd, or taken here."},
    {"vhost_vring_calls", kCounter, "Interrupts given (in-process)."},
    {"vhost_vring_suppressed_calls", kCounter, "Interrupts that the driver did not want."},
    {"vhost_vring_packets", kCounter, "Packets (in-process)."},
    {"vhost_vring_bytes", kCounter, "Bytes of those."},
    {"vhost_vring_merged_packets", kCounter, "Packets that went on as part of the one before."},
    {"vhost_vring_cut_packets", kCounter, "Packets that came as part of a larger one."},
    {"vhost_vring_drops", kCounter, "Packets that did not get through, by reason (in-process)."},
    {"vhost_vring_wake_ups", kCounter, "Times that anything woke the data path."},
    {"vhost_vring_polls", kCounter, "Bursts begun by the data path."},
    {"vhost_worker_cpu_seconds", kCounter, "CPU time of a thread that serves vrings."},
    {"vhost_wiring_exits", kCounter, "Notifications that came to the VMM as an exit."},
    {"vhost_sockets_open", kGauge, "Connections of a socket device (in-process)."},
    {"vhost_sockets_half_open", kGauge, "Of those, not established yet."},
    {"vhost_sockets_established", kCounter, "Connections that were established."},
    {"vhost_sockets_bad_clients", kCounter, "Clients that did not say where they wanted to go."},
    {"vhost_sockets_held_bytes", kGauge, "Bytes of guests that their peers have not taken."},
    {"vhost_foreign_device_info", kGauge, "1; an fd of a vhost node that has no control socket."},
    {"vhost_foreign_worker_cpu_seconds", kCounter, "CPU time of a worker of such a process."},
};

constexpr double kNsPerSecond = 1e9;

class Writer {
 public:
  Writer(Exposition& to, Labels labels) : to_(to), labels_(std::move(labels)) {}
  template <typename Number>
  void Add(const char* name, Number value) {
    to_.Add(name, labels_, static_cast<double>(value));
  }
  Writer With(const char* key, std::string value) const {
    Labels labels = labels_;
    labels.emplace_back(key, std::move(value));
    return {to_, std::move(labels)};
  }

 private:
  Exposition& to_;
  Labels labels_;
};

void AddDataPath(Writer writer, const DataPathReport& path) {
  writer.Add("vhost_vring_packets", path.packets);
  writer.Add("vhost_vring_bytes", path.bytes);
  writer.Add("vhost_vring_merged_packets", path.merged);
  writer.Add("vhost_vring_cut_packets", path.cut);
  writer.Add("vhost_vring_kicks", path.kicks);
  writer.Add("vhost_vring_calls", path.calls);
  writer.Add("vhost_vring_suppressed_calls", path.suppressed_calls);
  writer.Add("vhost_vring_wake_ups", path.wake_ups);
  writer.Add("vhost_vring_polls", path.polls);
  for (const DropReport& drop : path.drops) {
    writer.With("reason", drop.reason).Add("vhost_vring_drops", drop.packets);
  }
}

void AddVring(Writer writer, const VringReport& vring, const BackendVringReport* backend) {
  writer.Add("vhost_vring_active", vring.active);
  writer.Add("vhost_vring_size", vring.setup.size);
  if (vring.indices.has_value()) {
    writer.Add("vhost_vring_in_flight", control::InFlight(*vring.indices));
    writer.Add("vhost_vring_avail_index", vring.indices->avail);
    writer.Add("vhost_vring_used_index", vring.indices->used);
  }
  if (backend != nullptr) writer.Add("vhost_vring_errors", backend->errors);
  // Of a ring that this process serves, the data path knows better than its eventfd.
  if (backend != nullptr && backend->data_path.has_value()) {
    AddDataPath(writer, *backend->data_path);
  } else if (vring.kick_count.has_value()) {
    writer.Add("vhost_vring_kicks", *vring.kick_count);
  }
}

void AddBackend(Writer writer, const BackendReport& backend) {
  writer.Add("vhost_device_memory_regions_max", backend.max_memory_regions);
  writer.Add("vhost_device_memory_updates", backend.memory_updates);
  for (const WorkerReport& worker : backend.workers) {
    if (!worker.cpu_time_ns.has_value()) continue;
    writer.With("tid", absl::StrCat(worker.tid))
        .Add("vhost_worker_cpu_seconds", static_cast<double>(*worker.cpu_time_ns) / kNsPerSecond);
  }
  if (!backend.sockets.has_value()) return;
  writer.Add("vhost_sockets_open", backend.sockets->open);
  writer.Add("vhost_sockets_half_open", backend.sockets->half_open);
  writer.Add("vhost_sockets_established", backend.sockets->established);
  writer.Add("vhost_sockets_bad_clients", backend.sockets->bad_clients);
  writer.Add("vhost_sockets_held_bytes", backend.sockets->held_bytes);
}

void AddMoves(Writer writer, const DeviceReport& device) {
  writer.With("result", "done").Add("vhost_device_handovers", device.handover_counts.done);
  writer.With("result", "failed").Add("vhost_device_handovers", device.handover_counts.failed);
  writer.Add("vhost_device_failovers", device.handover_counts.failovers);
  if (!device.watchdog.has_value()) return;
  writer.Add("vhost_device_stalls", device.watchdog->stalls);
  writer.Add("vhost_device_spins", device.watchdog->spins);
  writer.Add("vhost_device_watchdog_kicks", device.watchdog->kicks);
  writer.Add("vhost_device_stalled_queues", device.watchdog->stalled.size());
}

void AddDevice(Writer writer, const DeviceReport& device) {
  writer.With("type", Name(device.id))
      .With("backend", device.backend.has_value() ? Name(device.backend->kind) : "none")
      .With("policy", device.policy)
      .With("transport", device.transport)
      .With("guest_cid", device.guest_cid.has_value() ? absl::StrCat(*device.guest_cid) : "")
      .With("tap",
            absl::StrJoin(device.taps, ",",
                          [](std::string* out, const TapReport& tap) { out->append(tap.name); }))
      .Add("vhost_device_info", 1);
  writer.Add("vhost_device_running", device.backend.has_value() && device.backend->running);
  writer.Add("vhost_device_paused", device.paused);
  writer.Add("vhost_device_needs_reset", (device.status & device_status::kNeedsReset) != 0);
  writer.Add("vhost_device_fallback", !device.refusals.empty());
  if (device.link_up.has_value()) writer.Add("vhost_device_link_up", *device.link_up);
  writer.Add("vhost_device_resets", device.resets);
  writer.Add("vhost_device_starts", device.starts);
  AddMoves(writer, device);
  writer.Add("vhost_device_memory_regions", device.memory.size());
  if (device.backend.has_value()) AddBackend(writer, *device.backend);
  for (const VringReport& vring : device.vrings) {
    const BackendVringReport* backend = nullptr;
    if (device.backend.has_value()) {
      for (const BackendVringReport& row : device.backend->vrings) {
        if (row.queue == vring.queue) backend = &row;
      }
    }
    AddVring(writer.With("queue", absl::StrCat(vring.queue)).With("role", vring.role), vring,
             backend);
  }
  for (const WiringReport& wire : device.wiring) {
    if (!wire.exits.has_value()) continue;
    writer.With("what", wire.what).Add("vhost_wiring_exits", *wire.exits);
  }
}

}  // namespace

std::vector<std::string> MetricNames() {
  std::vector<std::string> names;
  for (const Declared& row : kFamilies) {
    names.push_back(absl::StrCat(row.name, row.type == kCounter ? "_total" : ""));
  }
  return names;
}

Exposition MetricsOf(const Gathered& gathered, const std::vector<ForeignProcess>& foreign) {
  Exposition exposition;
  for (const Declared& row : kFamilies) exposition.Declare(row.name, row.type, row.help);
  for (const std::string& socket : gathered.silent) {
    exposition.Add("vhost_up", {{"socket", socket}}, 0);
  }
  for (const ProcessReports& process : gathered.processes) {
    exposition.Add("vhost_up", {{"socket", process.socket}}, 1);
    for (const DeviceReport& device : process.devices) {
      AddDevice(Writer(exposition, {{"vm", process.process.vm},
                                    {"pid", absl::StrCat(process.process.pid)},
                                    {"device", device.name}}),
                device);
    }
  }
  for (const ForeignProcess& process : foreign) {
    const Writer writer(exposition, {{"vm", process.vm}, {"pid", absl::StrCat(process.pid)}});
    for (const ForeignDevice& device : process.devices) {
      writer.With("device", NameOf(device))
          .With("type", device.type)
          .With("node", device.node)
          .Add("vhost_foreign_device_info", 1);
    }
    for (const WorkerReport& worker : process.workers) {
      if (!worker.cpu_time_ns.has_value()) continue;
      writer.With("tid", absl::StrCat(worker.tid))
          .Add("vhost_foreign_worker_cpu_seconds",
               static_cast<double>(*worker.cpu_time_ns) / kNsPerSecond);
    }
  }
  return exposition;
}

}  // namespace vhost::ctl
