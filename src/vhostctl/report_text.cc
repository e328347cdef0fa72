// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/report_text.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/columns.h"
#include "vhost/control/report_json.h"

namespace vhost::ctl {
namespace {

using Rows = std::vector<std::vector<std::string>>;

constexpr int kIndent = 2;
// Where the values of the first level stand: behind the longest key and two spaces.
constexpr int kValueColumn = 18;

std::string Unknown(absl::string_view reason) { return absl::StrCat("unknown: ", reason); }

// Strings of a report come from another process.
std::string Text(absl::string_view text, absl::string_view if_empty = "none") {
  return text.empty() ? std::string(if_empty) : Printable(text);
}

std::string FdText(int fd) { return fd < 0 ? "none" : absl::StrCat("fd ", fd); }

std::string Hex(uint64_t value) { return absl::StrFormat("0x%x", value); }

template <typename T>
std::string Known(const std::optional<T>& value, absl::string_view reason) {
  return value.has_value() ? absl::StrCat(*value) : Unknown(reason);
}

// "  key:            value", with the value's further lines below it.
void Fact(std::string* out, absl::string_view key, absl::string_view value) {
  absl::StrAppend(
      out, absl::StrFormat("  %-*s%s\n", kValueColumn - kIndent, absl::StrCat(key, ":"), value));
}

template <typename Bit>
std::string FeatureText(DeviceId id, FeatureSet<Bit> set) {
  std::vector<std::string> words = FeatureNames(id, set);
  const std::string number =
      set.high() == 0 ? Hex(set.low()) : absl::StrFormat("0x%x%016x", set.high(), set.low());
  words.insert(words.begin(), number);
  return Wrapped(words, kValueColumn);
}

std::string StatusText(uint8_t status) {
  if (status == 0) return "0x0 (no driver)";
  return absl::StrCat(Hex(status), " ", absl::StrJoin(control::StatusNames(status), " "));
}

std::string BackendText(const std::optional<BackendReport>& backend) {
  if (!backend.has_value()) return "none";
  return absl::StrCat(Name(backend->kind), ", ", Text(backend->node, "no node"), ", ",
                      backend->running ? "running" : "stopped");
}

std::string FilterText(const ReceiveFilterReport& filter) {
  std::vector<std::string> words;
  const auto add = [&words](bool set, const char* word) {
    if (set) words.push_back(word);
  };
  add(filter.promiscuous, "promiscuous");
  add(filter.all_unicast, "all-unicast");
  add(filter.all_multicast, "all-multicast");
  add(filter.no_unicast, "no-unicast");
  add(filter.no_multicast, "no-multicast");
  add(filter.no_broadcast, "no-broadcast");
  for (const std::string& mac : filter.unicast) words.push_back(Printable(mac));
  add(filter.unicast_overflow, "and-more-unicast");
  for (const std::string& mac : filter.multicast) words.push_back(Printable(mac));
  add(filter.multicast_overflow, "and-more-multicast");
  for (const uint16_t vlan : filter.vlans) words.push_back(absl::StrCat("vlan ", vlan));
  words.push_back(absl::StrCat("(applied by ", Text(filter.applied_by, "nobody"), ")"));
  return Wrapped(words, kValueColumn);
}

void Handovers(std::string* out, const DeviceReport& report) {
  const HandoverCounts& counts = report.handover_counts;
  Fact(out, "handovers",
       absl::StrCat(counts.done, ", ", counts.failovers, " of them failovers; ", counts.failed,
                    " failed"));
  Rows rows;
  for (const HandoverReport& handover : report.handovers) {
    rows.push_back(
        {Text(handover.time, "-"), absl::StrCat(Name(handover.from), " to ", Name(handover.to)),
         Name(handover.cause),
         handover.stopped_us.has_value() ? absl::StrCat("stopped ", *handover.stopped_us, " us")
                                         : "not stopped",
         absl::StrCat(Text(handover.reason, "-"),
                      handover.problem.empty()
                          ? ""
                          : absl::StrCat("; failed: ", Printable(handover.problem)))});
  }
  absl::StrAppend(out, Columns(rows, 2 * kIndent));
}

void Watchdog(std::string* out, const std::optional<WatchdogReport>& watchdog) {
  if (!watchdog.has_value()) return Fact(out, "watchdog", "none");
  std::string text =
      absl::StrCat("every ", watchdog->period_ms, " ms, stalls of ", watchdog->stall_ms,
                   " ms; looked ", watchdog->checks, " times, kicked ", watchdog->kicks,
                   ", stalls ", watchdog->stalls, ", spins ", watchdog->spins);
  if (!watchdog->stalled.empty()) {
    absl::StrAppend(&text, "; standing still: queue ", absl::StrJoin(watchdog->stalled, " "));
  }
  Fact(out, "watchdog", text);
}

void Events(std::string* out, const DeviceReport& report) {
  if (report.events.empty()) return;
  Fact(out, "events", absl::StrCat("the last ", report.events.size()));
  Rows rows;
  for (const EventReport& event : report.events) {
    rows.push_back({Text(event.time, "-"), Text(event.what, "-"),
                    event.queue.has_value() ? absl::StrCat("queue ", *event.queue) : "-",
                    Text(event.text, "-")});
  }
  absl::StrAppend(out, Columns(rows, 2 * kIndent));
}

void Identity(std::string* out, const control::ProcessInfo& process, const DeviceReport& report) {
  absl::StrAppend(out, Text(report.name, "(no name)"), ": ", Name(report.id), ", ",
                  Text(report.transport, "no transport"), ", VM ", Text(process.vm, "(no name)"),
                  ", process ", process.pid, "\n");
  Fact(out, "status", StatusText(report.status));
  Fact(out, "problem", Text(report.problem));
  Fact(out, "policy", Text(report.policy));
  Fact(out, "backend", BackendText(report.backend));
  if (report.backend.has_value() && !report.backend->io_engine.empty()) {
    Fact(out, "io engine",
         absl::StrCat(report.backend->io_engine, " (",
                      Text(report.backend->io_engine_reason, "not told why"), ")"));
  }
  for (const RefusalReport& refusal : report.refusals) {
    Fact(out, "passed over", absl::StrCat(Name(refusal.kind), ": ", Text(refusal.reason)));
  }
  if (report.paused) Fact(out, "paused", "by the host: nothing is served");
  Handovers(out, report);
  Watchdog(out, report.watchdog);
  Events(out, report);
  Fact(out, "resets", absl::StrCat(report.resets));
  Fact(out, "starts", absl::StrCat(report.starts));
  if (report.mac.has_value()) Fact(out, "mac", Text(*report.mac));
  if (report.mtu.has_value()) Fact(out, "mtu", absl::StrCat(*report.mtu, " bytes"));
  if (report.active_queue_pairs.has_value()) {
    Fact(out, "queue pairs", absl::StrCat(*report.active_queue_pairs, " active"));
  }
  if (report.link_up.has_value()) Fact(out, "link", *report.link_up ? "up" : "down");
  if (report.receive_filter.has_value()) {
    Fact(out, "receive filter", FilterText(*report.receive_filter));
  }
  if (report.guest_cid.has_value()) Fact(out, "guest cid", absl::StrCat(*report.guest_cid));
}

void FeatureLists(std::string* out, const DeviceReport& report) {
  Fact(out, "offered", FeatureText(report.id, report.offered));
  Fact(out, "acked", FeatureText(report.id, report.acked));
  Fact(out, "declined", FeatureText(report.id, report.offered - report.acked));
  if (!report.backend.has_value() || report.backend->kind == BackendKind::kInProcess) return;
  Fact(out, "vhost offered", FeatureText(report.id, report.backend->vhost_offered));
  Fact(out, "vhost acked", FeatureText(report.id, report.backend->vhost_acked));
}

const BackendVringReport* FindBackendVring(const DeviceReport& report, int queue) {
  if (!report.backend.has_value()) return nullptr;
  for (const BackendVringReport& vring : report.backend->vrings) {
    if (vring.queue == queue) return &vring;
  }
  return nullptr;
}

std::string SetupText(const VringReport& vring) {
  if (vring.setup.size == 0) return "not set up by the driver";
  return absl::StrCat("desc ", Describe(vring.setup.desc), ", avail ", Describe(vring.setup.driver),
                      ", used ", Describe(vring.setup.device));
}

std::string PositionsText(const PackedPositions& at) {
  return absl::StrCat("next avail ", at.avail, " wrap ", at.avail_wrap ? 1 : 0, ", next used ",
                      at.used, " wrap ", at.used_wrap ? 1 : 0, ", taken ", at.taken,
                      at.waiting ? ", more waiting" : ", none waiting", ", returned ", at.returned);
}

std::string IndicesText(const VringReport& vring, const BackendVringReport* backend) {
  if (vring.positions.has_value()) return PositionsText(*vring.positions);
  if (!vring.indices.has_value()) {
    return Unknown(vring.active ? "a packed ring keeps none in memory, and its server does not tell"
                                : "nobody serves the ring");
  }
  std::string text = absl::StrCat("avail ", vring.indices->avail, ", used ", vring.indices->used,
                                  ", in flight ", control::InFlight(*vring.indices));
  if (backend != nullptr && backend->last_avail.has_value()) {
    // What is in flight lies in the ring for the backend to take, or was taken by it.
    const auto waiting = static_cast<uint16_t>(vring.indices->avail - *backend->last_avail);
    const auto taken = static_cast<uint16_t>(*backend->last_avail - vring.indices->used);
    absl::StrAppend(&text, " (waiting ", waiting, ", taken ", taken, ")");
  }
  return text;
}

std::string EventsText(const VringReport& vring) {
  if (vring.positions.has_value()) {
    const PackedPositions& at = *vring.positions;
    return absl::StrCat("driver area ", Hex(at.driver_event), " flags ", at.driver_flags,
                        ", device area ", Hex(at.device_event), " flags ", at.device_flags);
  }
  if (!vring.indices.has_value()) return Unknown("as the indices");
  const VringIndices& indices = *vring.indices;
  return absl::StrCat("used_event ", indices.used_event, ", avail_event ", indices.avail_event,
                      ", avail flags ", Hex(indices.avail_flags), ", used flags ",
                      Hex(indices.used_flags));
}

std::string KickText(const VringReport& vring) {
  const bool kernel = vring.served_by == "kernel";
  return absl::StrCat(FdText(vring.kick_fd), ", kicks ",
                      Known(vring.kick_count, kernel ? "/proc/self/fdinfo does not tell"
                                                     : "counted only while the kernel serves"));
}

void DataPathRows(const DataPathReport& path, Rows* rows) {
  std::vector<std::string> drops;
  for (const DropReport& drop : path.drops) {
    drops.push_back(absl::StrCat(Printable(drop.reason), " ", drop.packets));
  }
  rows->push_back({"packets", absl::StrCat(path.packets, ", ", path.bytes, " bytes, merged ",
                                           path.merged, ", cut ", path.cut)});
  rows->push_back({"drops", drops.empty() ? "none" : absl::StrJoin(drops, ", ")});
  rows->push_back({"signals", absl::StrCat("kicks ", path.kicks, ", calls ", path.calls,
                                           ", suppressed calls ", path.suppressed_calls,
                                           ", wake-ups ", path.wake_ups, ", polls ", path.polls)});
}

Rows BackendVringRows(const BackendVringReport& vring) {
  Rows rows = {{"base", Known(vring.last_avail, "not asked of the backend")}};
  if (vring.vhost_fd >= 0) {
    rows.push_back(
        {"vhost", absl::StrCat(FdText(vring.vhost_fd), ", index ", vring.vhost_index, ", kick ",
                               FdText(vring.kick_fd), ", call ", FdText(vring.call_fd))});
  }
  rows.push_back({"errors", absl::StrCat(vring.errors, ", ", FdText(vring.err_fd))});
  if (!vring.problem.empty()) rows.push_back({"problem", Printable(vring.problem)});
  if (vring.vhost_fd >= 0) {
    rows.push_back({"busyloop", vring.busyloop_us.has_value()
                                    ? absl::StrCat(*vring.busyloop_us, " us")
                                    : Unknown("not asked of the backend")});
  }
  if (vring.data_path.has_value()) DataPathRows(*vring.data_path, &rows);
  return rows;
}

void Vrings(std::string* out, const DeviceReport& report) {
  for (const VringReport& vring : report.vrings) {
    const BackendVringReport* backend = FindBackendVring(report, vring.queue);
    Fact(out, absl::StrCat("vring ", vring.queue),
         absl::StrCat(Text(vring.role), ", served by ", Text(vring.served_by), ", ",
                      vring.enabled ? "enabled" : "not enabled", ", ",
                      vring.active ? "active" : "not active"));
    Rows rows = {{"size", absl::StrCat(vring.setup.size, " of at most ", vring.max_size)},
                 {"rings", SetupText(vring)},
                 {"indices", IndicesText(vring, backend)},
                 {"events", EventsText(vring)},
                 {"kick", KickText(vring)},
                 {"call", FdText(vring.call_fd)}};
    if (backend != nullptr) {
      for (std::vector<std::string>& row : BackendVringRows(*backend)) {
        rows.push_back(std::move(row));
      }
    }
    absl::StrAppend(out, Columns(rows, 2 * kIndent));
  }
}

void Memory(std::string* out, const DeviceReport& report) {
  std::string text = absl::StrCat(report.memory.size(), " regions");
  if (report.backend.has_value()) {
    absl::StrAppend(&text, " of at most ", report.backend->max_memory_regions, ", sent ",
                    report.backend->memory_updates, " times");
  }
  Fact(out, "memory", text);
  Rows rows;
  for (const MemoryRegion& region : report.memory) {
    const uint64_t start = Value(region.start);
    rows.push_back({absl::StrCat(Hex(start), "-", Hex(start + region.size - 1)),
                    SizeText(region.size),
                    absl::StrCat("host ", Hex(reinterpret_cast<uintptr_t>(region.host))),
                    region.memfd < 0
                        ? "anonymous"
                        : absl::StrCat("memfd ", region.memfd, " at ", Hex(region.memfd_offset))});
  }
  absl::StrAppend(out, Columns(rows, 2 * kIndent));
}

std::string WireDetails(const WiringReport& wire) {
  std::vector<std::string> details;
  if (wire.queue.has_value()) details.push_back(absl::StrCat("queue ", *wire.queue));
  if (wire.event_fd >= 0) details.push_back(FdText(wire.event_fd));
  if (wire.gsi.has_value()) details.push_back(absl::StrCat("gsi ", *wire.gsi));
  if (wire.address.has_value()) details.push_back(absl::StrCat("address ", Hex(*wire.address)));
  if (wire.data.has_value()) details.push_back(absl::StrCat("data ", Hex(*wire.data)));
  if (wire.masked) details.push_back("masked");
  if (wire.pending) details.push_back("pending");
  if (wire.exits.has_value()) details.push_back(absl::StrCat("exits ", *wire.exits));
  if (!wire.problem.empty()) details.push_back(Printable(wire.problem));
  return absl::StrJoin(details, ", ");
}

void Wiring(std::string* out, const DeviceReport& report) {
  Fact(out, "wiring",
       report.wiring.empty() ? Unknown("the transport reports none")
                             : absl::StrCat(report.wiring.size(), " entries"));
  Rows rows;
  for (const WiringReport& wire : report.wiring) {
    rows.push_back({Text(wire.what), Text(wire.how), WireDetails(wire)});
  }
  absl::StrAppend(out, Columns(rows, 2 * kIndent));
}

void Taps(std::string* out, const DeviceReport& report) {
  for (const TapReport& tap : report.taps) {
    Fact(out, "tap", Text(tap.name, "(no name)"));
    const std::string link = !tap.link_up.has_value() ? Unknown("not asked of the kernel")
                             : *tap.link_up           ? "up"
                                                      : "down";
    absl::StrAppend(
        out,
        Columns({{"queues", absl::StrCat(tap.active_queues, " attached of ", tap.queues)},
                 {"vnet header", tap.vnet_header ? absl::StrCat(tap.header_bytes, " bytes") : "no"},
                 {"offloads", tap.offloads.empty() ? "none" : absl::StrJoin(tap.offloads, " ")},
                 {"link", link},
                 {"mtu", tap.mtu.has_value() ? absl::StrCat(*tap.mtu, " bytes")
                                             : Unknown("not asked of the kernel")},
                 {"sndbuf", tap.sndbuf_bytes.has_value() ? absl::StrCat(*tap.sndbuf_bytes, " bytes")
                                                         : Unknown("not asked of the kernel")}},
                2 * kIndent));
  }
}

void Sockets(std::string* out, const DeviceReport& report) {
  if (!report.backend.has_value() || !report.backend->sockets.has_value()) return;
  const SocketsReport& sockets = *report.backend->sockets;
  Fact(out, "connections",
       absl::StrCat(sockets.open, ", half-open ", sockets.half_open, ", established since start ",
                    sockets.established, ", bad clients ", sockets.bad_clients, ", held ",
                    sockets.held_bytes, " bytes"));
  Rows rows;
  for (const ConnectionReport& each : sockets.connections) {
    rows.push_back({absl::StrCat("guest ", each.guest_port, each.by_guest ? " -> " : " <- ",
                                 "host ", each.host_port),
                    Text(each.type), Text(each.state),
                    absl::StrCat("to guest ", each.bytes_to_guest, " (credit ", each.credit_bytes,
                                 "), from guest ", each.bytes_from_guest, " (credit ",
                                 each.guest_credit_bytes, ", held ", each.held_bytes, ")")});
  }
  if (sockets.open > sockets.connections.size()) {
    rows.push_back({absl::StrCat("and ", sockets.open - sockets.connections.size(), " more")});
  }
  absl::StrAppend(out, Columns(rows, 2 * kIndent));
}

void Workers(std::string* out, const DeviceReport& report) {
  if (!report.backend.has_value()) return;
  if (report.backend->workers.empty()) Fact(out, "workers", Unknown("the backend reports none"));
  for (const WorkerReport& worker : report.backend->workers) {
    const std::string reason = Text(worker.unknown_because, "not told");
    Fact(out, "worker",
         absl::StrCat(worker.tid > 0 ? absl::StrCat(worker.tid) : Unknown(reason), " ",
                      Text(worker.name, "")));
    const std::string cpu =
        worker.cpu_time_ns.has_value()
            ? absl::StrFormat("%.6f s", static_cast<double>(*worker.cpu_time_ns) / 1e9)
            : Unknown(reason);
    absl::StrAppend(
        out,
        Columns(
            {{"queues", worker.queues.empty() ? "none" : absl::StrJoin(worker.queues, " ")},
             {"cpu time", cpu},
             {"affinity", worker.affinity.has_value() ? Text(*worker.affinity) : Unknown(reason)},
             {"nice", Known(worker.nice, reason)},
             {"cgroup", worker.cgroup.has_value() ? Text(*worker.cgroup) : Unknown(reason)}},
            2 * kIndent));
  }
}

}  // namespace

std::string SizeText(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (unit + 1 < std::size(kUnits) && bytes >= 1024 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++unit;
  }
  return absl::StrCat(bytes, " ", kUnits[unit]);
}

std::string ReportText(const control::ProcessInfo& process, const DeviceReport& report) {
  std::string out;
  Identity(&out, process, report);
  FeatureLists(&out, report);
  Vrings(&out, report);
  Memory(&out, report);
  Wiring(&out, report);
  Taps(&out, report);
  Sockets(&out, report);
  Workers(&out, report);
  return out;
}

}  // namespace vhost::ctl
