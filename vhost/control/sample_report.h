// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A report with every member set, and one with as little as can be: for tests of what renders them.
#pragma once

#include "vhost/report.h"

namespace vhost::control {

inline DeviceReport SampleNet() {
  DeviceReport report;
  report.name = "net0";
  report.id = DeviceId::kNet;
  report.transport = "virtio-pci 00:01.0";
  report.status = 0x0f;
  report.offered = {VirtioFeature::kVersion1, VirtioFeature::kEventIdx, VirtioFeature::kNetMac,
                    VirtioFeature::kNetCsum, VirtioFeature::kNetGuestUdpTunnelGso};
  report.acked = {VirtioFeature::kVersion1, VirtioFeature::kNetMac};
  report.policy = "prefer";
  BackendReport backend;
  backend.kind = BackendKind::kKernel;
  backend.node = "/dev/vhost-net";
  backend.running = true;
  backend.vhost_offered = VhostFeatures::FromWords(0x33d008000);
  backend.vhost_acked = VhostFeatures::FromWords(0x100000000);
  backend.memory_updates = 2;
  backend.max_memory_regions = 64;
  backend.io_engine = "syscall";
  backend.io_engine_reason = "asked for";
  backend.vrings = {{.queue = 0,
                     .vhost_fd = 20,
                     .vhost_index = 0,
                     .kick_fd = 12,
                     .call_fd = 13,
                     .err_fd = 21,
                     .errors = 0,
                     .last_avail = 65535,
                     .busyloop_us = 50},
                    {.queue = 1,
                     .vhost_fd = 20,
                     .vhost_index = 1,
                     .kick_fd = 14,
                     .call_fd = -1,
                     .err_fd = 22,
                     .errors = 3,
                     .last_avail = std::nullopt,
                     .busyloop_us = std::nullopt,
                     .data_path = DataPathReport{.packets = 1000,
                                                 .bytes = 64000,
                                                 .merged = 10,
                                                 .cut = 1,
                                                 .kicks = 40,
                                                 .calls = 30,
                                                 .suppressed_calls = 20,
                                                 .wake_ups = 50,
                                                 .polls = 400,
                                                 .drops = {{"bad-header", 2}, {"refused", 1}}},
                     .problem = "a descriptor of 0 bytes"}};
  backend.workers = {{.tid = 4321,
                      .name = "vhost-4320",
                      .queues = {0, 1},
                      .cpu_time_ns = 1'234'567'890,
                      .affinity = "0-1",
                      .nice = 0,
                      .cgroup = "/vm.slice",
                      .unknown_because = ""},
                     {.tid = 4322,
                      .name = "vhost-\x1b[31m",
                      .queues = {},
                      .unknown_because = "/proc/4322: ENOENT (No such file or directory)"}};
  backend.sockets = SocketsReport{.open = 2,
                                  .half_open = 1,
                                  .established = 7,
                                  .bad_clients = 3,
                                  .held_bytes = 4096,
                                  .connections = {{.type = "stream",
                                                   .state = "established",
                                                   .by_guest = true,
                                                   .guest_port = 1024,
                                                   .host_port = 52,
                                                   .bytes_to_guest = 10,
                                                   .bytes_from_guest = 20,
                                                   .credit_bytes = 262144,
                                                   .guest_credit_bytes = 258048,
                                                   .held_bytes = 4096}}};
  report.backend = backend;
  report.refusals = {{BackendKind::kVhostUser, "/run/vu.sock: connect: ENOENT"}};
  report.paused = true;
  report.handovers = {{.time = "2026-05-01T12:00:00.123Z",
                       .from = BackendKind::kInProcess,
                       .to = BackendKind::kKernel,
                       .cause = HandoverCause::kRequest,
                       .reason = "by hand",
                       .problem = "",
                       .stopped_us = 87},
                      {.time = "2026-05-01T12:00:01.000Z",
                       .from = BackendKind::kKernel,
                       .to = BackendKind::kInProcess,
                       .cause = HandoverCause::kFailover,
                       .reason = "queue 1 (tx0) stands still",
                       .problem = "no threads",
                       .stopped_us = std::nullopt}};
  report.handover_counts = {.done = 17, .failed = 1, .failovers = 2};
  report.events = {
      {.time = "2026-05-01T12:00:00.000Z",
       .what = "started",
       .queue = std::nullopt,
       .text = "by the kernel backend"},
      {.time = "2026-05-01T12:00:00.900Z", .what = "stall", .queue = 1, .text = "tx0"}};
  report.watchdog = WatchdogReport{.period_ms = 1000,
                                   .stall_ms = 3000,
                                   .checks = 60,
                                   .kicks = 4,
                                   .stalls = 3,
                                   .spins = 2,
                                   .stalled = {1}};
  report.vrings = {{.queue = 0,
                    .role = "rx0",
                    .served_by = "kernel",
                    .enabled = true,
                    .active = true,
                    .max_size = 1024,
                    .setup = {.size = 256,
                              .desc = GuestAddress{0x10000},
                              .driver = GuestAddress{0x11000},
                              .device = GuestAddress{0x12000}},
                    .indices = VringIndices{.avail = 4,
                                            .used = 65530,
                                            .used_event = 65530,
                                            .avail_event = 3,
                                            .avail_flags = 0,
                                            .used_flags = 1},
                    .kick_fd = 12,
                    .call_fd = 13,
                    .kick_count = 17},
                   {.queue = 1,
                    .role = "tx0",
                    .served_by = "kernel",
                    .enabled = true,
                    .active = true,
                    .max_size = 1024,
                    .setup = {.size = 256,
                              .desc = GuestAddress{0x20000},
                              .driver = GuestAddress{0x21000},
                              .device = GuestAddress{0x22000}},
                    .indices = std::nullopt,
                    .positions = PackedPositions{.avail = 5,
                                                 .avail_wrap = true,
                                                 .used = 250,
                                                 .used_wrap = false,
                                                 .taken = 11,
                                                 .waiting = true,
                                                 .returned = 123456,
                                                 .driver_event = 0x8005,
                                                 .driver_flags = 2,
                                                 .device_event = 5,
                                                 .device_flags = 1},
                    .kick_fd = 14,
                    .call_fd = 15,
                    .kick_count = std::nullopt},
                   {.queue = 2,
                    .role = "control",
                    .served_by = "device",
                    .enabled = false,
                    .active = false,
                    .max_size = 64,
                    .setup = {},
                    .indices = std::nullopt,
                    .kick_fd = 16,
                    .call_fd = 17,
                    .kick_count = std::nullopt}};
  report.memory = {{.start = GuestAddress{0},
                    .size = 0xc0000000,
                    .host = reinterpret_cast<std::byte*>(uintptr_t{0x7f0000000000}),
                    .memfd = 7,
                    .memfd_offset = 0},
                   {.start = GuestAddress{0x100000000},
                    .size = 0x40001000,
                    .host = reinterpret_cast<std::byte*>(uintptr_t{0x7f00c0000000}),
                    .memfd = -1,
                    .memfd_offset = 0}};
  report.wiring = {{.what = "notify 0",
                    .how = "ioeventfd",
                    .address = 0xfe003000,
                    .data = std::nullopt,
                    .gsi = std::nullopt,
                    .event_fd = 12,
                    .masked = false,
                    .pending = false,
                    .queue = 0,
                    .exits = 3,
                    .problem = "KVM_IOEVENTFD: EEXIST (File exists)"},
                   {.what = "msix 1",
                    .how = "irqfd",
                    .address = 0xfee01000,
                    .data = 0x4021,
                    .gsi = 25,
                    .event_fd = 13,
                    .masked = true,
                    .pending = true,
                    .queue = 0}};
  report.taps = {{.name = "tap0",
                  .queues = 2,
                  .active_queues = 1,
                  .vnet_header = true,
                  .header_bytes = 12,
                  .offloads = {"CSUM", "TSO4"},
                  .link_up = true,
                  .mtu = 1500,
                  .sndbuf_bytes = 1048576}};
  report.mac = "52:54:00:12:34:56";
  report.mtu = 1500;
  report.active_queue_pairs = 1;
  report.link_up = true;
  report.receive_filter = ReceiveFilterReport{.promiscuous = false,
                                              .all_multicast = true,
                                              .multicast_overflow = true,
                                              .unicast = {"52:54:00:00:00:07"},
                                              .multicast = {"33:33:00:00:00:01"},
                                              .vlans = {0, 5},
                                              .applied_by = "tap"};
  report.resets = 1;
  report.starts = 2;
  return report;
}

inline DeviceReport SampleVsock() {
  DeviceReport report;
  report.name = "vsock0";
  report.id = DeviceId::kVsock;
  report.transport = "none";
  report.status = 0x47;
  report.problem = "vsock0: tx: used ring at 0x5000: outside of memory";
  report.policy = "require";
  report.guest_cid = 3;
  return report;
}

}  // namespace vhost::control
