// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The members of every report, once for both directions: `Fields(archive, report)` names each to
// an archive that writes it (json_writer.h) or reads it (json_reader.h). Internal to this folder.
//
// What an archive offers:
//   Value(key, x)     a string, number or bool, or an optional or vector of those
//   Hex(key, x)       a number, or optional, as a hexadecimal string
//   Fd(key, fd)       a descriptor; -1 is null
//   Object(key, x)    a struct that has Fields, or an optional of one
//   List(key, xs)     a vector of structs that have Fields
//   Named(key, x)     an enum by its name
//   Features(key, x)  a feature set as {"bits": "0x...", "names": [...]}
//   Of(id)            whose feature names the members that follow have
//   Derived(key, f)   written as f() for the convenience of readers; not read back
#pragma once

#include <type_traits>

#include "vhost/control/report_json.h"

namespace vhost::control {

// `Report` is const when writing.
template <typename Report, typename Wanted>
concept ReportOf = std::is_same_v<std::remove_const_t<Report>, Wanted>;

template <typename Archive, ReportOf<WorkerReport> Report>
void Fields(Archive& archive, Report& worker) {
  archive.Value("tid", worker.tid);
  archive.Value("name", worker.name);
  archive.Value("queues", worker.queues);
  archive.Value("cpu_time_ns", worker.cpu_time_ns);
  archive.Value("affinity", worker.affinity);
  archive.Value("nice", worker.nice);
  archive.Value("cgroup", worker.cgroup);
  archive.Value("unknown_because", worker.unknown_because);
}

template <typename Archive, ReportOf<DropReport> Report>
void Fields(Archive& archive, Report& drop) {
  archive.Value("reason", drop.reason);
  archive.Value("packets", drop.packets);
}

template <typename Archive, ReportOf<DataPathReport> Report>
void Fields(Archive& archive, Report& path) {
  archive.Value("packets", path.packets);
  archive.Value("bytes", path.bytes);
  archive.Value("merged", path.merged);
  archive.Value("cut", path.cut);
  archive.Value("kicks", path.kicks);
  archive.Value("calls", path.calls);
  archive.Value("suppressed_calls", path.suppressed_calls);
  archive.Value("wake_ups", path.wake_ups);
  archive.Value("polls", path.polls);
  archive.List("drops", path.drops);
}

template <typename Archive, ReportOf<BackendVringReport> Report>
void Fields(Archive& archive, Report& vring) {
  archive.Value("queue", vring.queue);
  archive.Fd("vhost_fd", vring.vhost_fd);
  archive.Value("vhost_index", vring.vhost_index);
  archive.Fd("kick_fd", vring.kick_fd);
  archive.Fd("call_fd", vring.call_fd);
  archive.Fd("err_fd", vring.err_fd);
  archive.Value("errors", vring.errors);
  archive.Value("last_avail", vring.last_avail);
  archive.Value("busyloop_us", vring.busyloop_us);
  archive.Object("data_path", vring.data_path);
  archive.Value("problem", vring.problem);
}

template <typename Archive, ReportOf<RefusalReport> Report>
void Fields(Archive& archive, Report& refusal) {
  archive.Named("backend", refusal.kind);
  archive.Value("reason", refusal.reason);
}

template <typename Archive, ReportOf<HandoverReport> Report>
void Fields(Archive& archive, Report& handover) {
  archive.Value("time", handover.time);
  archive.Named("from", handover.from);
  archive.Named("to", handover.to);
  archive.Named("cause", handover.cause);
  archive.Value("reason", handover.reason);
  archive.Value("problem", handover.problem);
  archive.Value("stopped_us", handover.stopped_us);
}

template <typename Archive, ReportOf<HandoverCounts> Report>
void Fields(Archive& archive, Report& counts) {
  archive.Value("done", counts.done);
  archive.Value("failed", counts.failed);
  archive.Value("failovers", counts.failovers);
}

template <typename Archive, ReportOf<EventReport> Report>
void Fields(Archive& archive, Report& event) {
  archive.Value("time", event.time);
  archive.Value("what", event.what);
  archive.Value("queue", event.queue);
  archive.Value("text", event.text);
}

template <typename Archive, ReportOf<DeviceEvent> Report>
void Fields(Archive& archive, Report& event) {
  archive.Value("device", event.device);
  Fields(archive, event.report);
  archive.Object("handover", event.handover);
}

template <typename Archive, ReportOf<WatchdogReport> Report>
void Fields(Archive& archive, Report& watchdog) {
  archive.Value("period_ms", watchdog.period_ms);
  archive.Value("stall_ms", watchdog.stall_ms);
  archive.Value("checks", watchdog.checks);
  archive.Value("kicks", watchdog.kicks);
  archive.Value("stalls", watchdog.stalls);
  archive.Value("spins", watchdog.spins);
  archive.Value("stalled", watchdog.stalled);
}

template <typename Archive, ReportOf<VringSetup> Report>
void Fields(Archive& archive, Report& setup) {
  archive.Value("size", setup.size);
  archive.Hex("desc", setup.desc);
  archive.Hex("driver", setup.driver);
  archive.Hex("device", setup.device);
}

template <typename Archive, ReportOf<PackedPositions> Report>
void Fields(Archive& archive, Report& at) {
  archive.Value("avail", at.avail);
  archive.Value("avail_wrap", at.avail_wrap);
  archive.Value("used", at.used);
  archive.Value("used_wrap", at.used_wrap);
  archive.Value("taken", at.taken);
  archive.Value("waiting", at.waiting);
  archive.Value("returned", at.returned);
  archive.Value("driver_event", at.driver_event);
  archive.Value("driver_flags", at.driver_flags);
  archive.Value("device_event", at.device_event);
  archive.Value("device_flags", at.device_flags);
}

template <typename Archive, ReportOf<VringIndices> Report>
void Fields(Archive& archive, Report& indices) {
  archive.Value("avail", indices.avail);
  archive.Value("used", indices.used);
  archive.Derived("in_flight", [&] { return InFlight(indices); });
  archive.Value("used_event", indices.used_event);
  archive.Value("avail_event", indices.avail_event);
  archive.Value("avail_flags", indices.avail_flags);
  archive.Value("used_flags", indices.used_flags);
}

template <typename Archive, ReportOf<VringReport> Report>
void Fields(Archive& archive, Report& vring) {
  archive.Value("queue", vring.queue);
  archive.Value("role", vring.role);
  archive.Value("served_by", vring.served_by);
  archive.Value("enabled", vring.enabled);
  archive.Value("active", vring.active);
  archive.Value("max_size", vring.max_size);
  archive.Object("setup", vring.setup);
  archive.Object("indices", vring.indices);
  archive.Object("positions", vring.positions);
  archive.Fd("kick_fd", vring.kick_fd);
  archive.Fd("call_fd", vring.call_fd);
  archive.Value("kick_count", vring.kick_count);
}

template <typename Archive, ReportOf<MemoryRegion> Report>
void Fields(Archive& archive, Report& region) {
  archive.Hex("start", region.start);
  archive.Hex("size", region.size);
  archive.Hex("host", region.host);
  archive.Fd("memfd", region.memfd);
  archive.Hex("memfd_offset", region.memfd_offset);
}

template <typename Archive, ReportOf<WiringReport> Report>
void Fields(Archive& archive, Report& wire) {
  archive.Value("what", wire.what);
  archive.Value("how", wire.how);
  archive.Hex("address", wire.address);
  archive.Hex("data", wire.data);
  archive.Value("gsi", wire.gsi);
  archive.Fd("event_fd", wire.event_fd);
  archive.Value("masked", wire.masked);
  archive.Value("pending", wire.pending);
  archive.Value("queue", wire.queue);
  archive.Value("exits", wire.exits);
  archive.Value("problem", wire.problem);
}

template <typename Archive, ReportOf<TapReport> Report>
void Fields(Archive& archive, Report& tap) {
  archive.Value("name", tap.name);
  archive.Value("queues", tap.queues);
  archive.Value("active_queues", tap.active_queues);
  archive.Value("vnet_header", tap.vnet_header);
  archive.Value("header_bytes", tap.header_bytes);
  archive.Value("offloads", tap.offloads);
  archive.Value("link_up", tap.link_up);
  archive.Value("mtu", tap.mtu);
  archive.Value("sndbuf_bytes", tap.sndbuf_bytes);
}

template <typename Archive, ReportOf<ConnectionReport> Report>
void Fields(Archive& archive, Report& connection) {
  archive.Value("type", connection.type);
  archive.Value("state", connection.state);
  archive.Value("by_guest", connection.by_guest);
  archive.Value("guest_port", connection.guest_port);
  archive.Value("host_port", connection.host_port);
  archive.Value("bytes_to_guest", connection.bytes_to_guest);
  archive.Value("bytes_from_guest", connection.bytes_from_guest);
  archive.Value("credit_bytes", connection.credit_bytes);
  archive.Value("guest_credit_bytes", connection.guest_credit_bytes);
  archive.Value("held_bytes", connection.held_bytes);
}

template <typename Archive, ReportOf<SocketsReport> Report>
void Fields(Archive& archive, Report& sockets) {
  archive.Value("open", sockets.open);
  archive.Value("half_open", sockets.half_open);
  archive.Value("established", sockets.established);
  archive.Value("bad_clients", sockets.bad_clients);
  archive.Value("held_bytes", sockets.held_bytes);
  archive.List("connections", sockets.connections);
}

template <typename Archive, ReportOf<BackendReport> Report>
void Fields(Archive& archive, Report& backend) {
  archive.Named("kind", backend.kind);
  archive.Value("node", backend.node);
  archive.Value("running", backend.running);
  archive.Features("vhost_offered", backend.vhost_offered);
  archive.Features("vhost_acked", backend.vhost_acked);
  archive.Value("memory_updates", backend.memory_updates);
  archive.Value("max_memory_regions", backend.max_memory_regions);
  archive.Value("io_engine", backend.io_engine);
  archive.Value("io_engine_reason", backend.io_engine_reason);
  archive.List("vrings", backend.vrings);
  archive.List("workers", backend.workers);
  archive.Object("sockets", backend.sockets);
}

template <typename Archive, ReportOf<ReceiveFilterReport> Report>
void Fields(Archive& archive, Report& filter) {
  archive.Value("promiscuous", filter.promiscuous);
  archive.Value("all_multicast", filter.all_multicast);
  archive.Value("all_unicast", filter.all_unicast);
  archive.Value("no_multicast", filter.no_multicast);
  archive.Value("no_unicast", filter.no_unicast);
  archive.Value("no_broadcast", filter.no_broadcast);
  archive.Value("unicast_overflow", filter.unicast_overflow);
  archive.Value("multicast_overflow", filter.multicast_overflow);
  archive.Value("unicast", filter.unicast);
  archive.Value("multicast", filter.multicast);
  archive.Value("vlans", filter.vlans);
  archive.Value("applied_by", filter.applied_by);
}

template <typename Archive, ReportOf<DeviceReport> Report>
void Fields(Archive& archive, Report& device) {
  archive.Value("name", device.name);
  archive.Named("type", device.id);
  archive.Of(device.id);
  archive.Value("transport", device.transport);
  archive.Value("status", device.status);
  archive.Derived("status_names", [&] { return StatusNames(device.status); });
  archive.Value("problem", device.problem);
  archive.Features("offered", device.offered);
  archive.Features("acked", device.acked);
  archive.Value("policy", device.policy);
  archive.Object("backend", device.backend);
  archive.List("refusals", device.refusals);
  archive.Value("paused", device.paused);
  archive.List("handovers", device.handovers);
  archive.Object("handover_counts", device.handover_counts);
  archive.List("events", device.events);
  archive.Object("watchdog", device.watchdog);
  archive.List("vrings", device.vrings);
  archive.List("memory", device.memory);
  archive.List("wiring", device.wiring);
  archive.List("taps", device.taps);
  archive.Value("guest_cid", device.guest_cid);
  archive.Value("mac", device.mac);
  archive.Value("mtu", device.mtu);
  archive.Value("active_queue_pairs", device.active_queue_pairs);
  archive.Value("link_up", device.link_up);
  archive.Object("receive_filter", device.receive_filter);
  archive.Value("resets", device.resets);
  archive.Value("starts", device.starts);
}

template <typename Archive, ReportOf<DeviceSummary> Report>
void Fields(Archive& archive, Report& summary) {
  archive.Value("name", summary.name);
  archive.Named("type", summary.id);
  archive.Value("transport", summary.transport);
  archive.Value("status", summary.status);
  archive.Derived("status_names", [&] { return StatusNames(summary.status); });
  archive.Value("policy", summary.policy);
  archive.Named("backend", summary.backend);
  archive.Value("running", summary.running);
  archive.Value("paused", summary.paused);
  archive.Value("problem", summary.problem);
  archive.Value("queues", summary.queues);
  archive.Value("active_queues", summary.active_queues);
  archive.Value("taps", summary.taps);
  archive.Value("guest_cid", summary.guest_cid);
  archive.Value("worker_tids", summary.worker_tids);
}

}  // namespace vhost::control
