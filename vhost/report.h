// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a device tells of itself, as plain values: the source of `vhostctl show`, of metrics and of
// tests. Gathered under a device's lock without stopping anything, rendered afterwards. A value
// that cannot be known is nullopt or empty, never a guess.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vhost/features.h"
#include "vhost/guest_memory.h"
#include "vhost/vring.h"

namespace vhost {

enum class BackendKind : uint8_t { kKernel, kInProcess, kVhostUser };
inline const char* Name(BackendKind kind) {
  switch (kind) {
    case BackendKind::kKernel:
      return "kernel";
    case BackendKind::kInProcess:
      return "in-process";
    case BackendKind::kVhostUser:
      return "vhost-user";
  }
  return "unknown";
}

// A thread that serves vrings: a vhost worker, or a data-path thread of this process.
struct WorkerReport {
  pid_t tid = 0;
  std::string name;                     // comm, "vhost-1234"
  std::vector<int> queues;              // virtqueues that it serves
  std::optional<uint64_t> cpu_time_ns;  // since it started
  std::optional<std::string> affinity;  // "0-3,8"
  std::optional<int> nice;
  std::optional<std::string> cgroup;
  std::string unknown_because;  // why fields are missing; empty if none is
};

struct DropReport {
  std::string reason;  // "bad-header"
  uint64_t packets = 0;
};

// What a data path in this process has seen of a virtqueue, since its backend was made.
struct DataPathReport {
  uint64_t packets = 0;
  uint64_t bytes = 0;
  uint64_t merged = 0;            // packets that went on as part of the one before them
  uint64_t cut = 0;               // packets that came as part of a larger one
  uint64_t kicks = 0;             // times that a kick woke the data path
  uint64_t calls = 0;             // interrupts given
  uint64_t suppressed_calls = 0;  // and those that the driver did not want
  uint64_t wake_ups = 0;          // times that anything woke it; of both queues of a pair
  uint64_t polls = 0;             // bursts begun; likewise
  std::vector<DropReport> drops;  // by reason, those that happened
};

// A virtqueue as its backend has it.
struct BackendVringReport {
  int queue = 0;
  int vhost_fd = -1;         // kernel backend: the node that serves it
  uint32_t vhost_index = 0;  // and the vring's index there
  int kick_fd = -1;
  int call_fd = -1;
  int err_fd = -1;
  uint64_t errors = 0;                 // times that the backend called the ring broken
  std::optional<uint16_t> last_avail;  // where the backend stands (VHOST_GET_VRING_BASE)
  std::optional<uint32_t> busyloop_us;
  std::optional<DataPathReport> data_path;  // in-process backend
  std::string problem;                      // why it is not served any more, if it is not
};

// A connection of a socket device that this process serves.
struct ConnectionReport {
  std::string type;   // "stream", "seqpacket"
  std::string state;  // "dialling", "requested", "established", "closing", "resetting", "closed"
  bool by_guest = false;  // the guest asked for it
  uint32_t guest_port = 0;
  uint32_t host_port = 0;
  uint64_t bytes_to_guest = 0;
  uint64_t bytes_from_guest = 0;
  uint32_t credit_bytes = 0;        // that may be sent to the guest now
  uint32_t guest_credit_bytes = 0;  // that the guest may send
  uint32_t held_bytes = 0;          // of the guest's, that the host's process has not taken yet
};

struct SocketsReport {
  uint64_t open = 0;         // connections now
  uint64_t half_open = 0;    // of them; and clients that have not said yet where they want to go
  uint64_t established = 0;  // since the backend was made
  uint64_t bad_clients = 0;  // that said nothing, or nonsense, instead of CONNECT
  uint64_t held_bytes = 0;   // of all connections
  std::vector<ConnectionReport> connections;  // not more than the first 100
};

struct BackendReport {
  BackendKind kind = BackendKind::kKernel;
  std::string node;  // "/dev/vhost-net", or how an fd came in
  bool running = false;
  VhostFeatures vhost_offered;
  VhostFeatures vhost_acked;
  uint64_t memory_updates = 0;  // VHOST_SET_MEM_TABLE since creation
  uint32_t max_memory_regions = 0;
  std::string io_engine;         // "syscall", "io_uring": in-process network devices
  std::string io_engine_reason;  // why that one
  std::vector<BackendVringReport> vrings;
  std::vector<WorkerReport> workers;
  std::optional<SocketsReport> sockets;  // of a socket device that this process serves
};

struct RefusalReport {  // a candidate that does not serve, though it was preferred
  BackendKind kind = BackendKind::kKernel;
  std::string reason;
};

// Why a device was moved to another backend.
enum class HandoverCause : uint8_t {
  kRequest,   // it was asked for
  kFailover,  // the old one failed or stalled
  kMemory,    // the old one does not take the guest's memory
};
inline const char* Name(HandoverCause cause) {
  switch (cause) {
    case HandoverCause::kRequest:
      return "request";
    case HandoverCause::kFailover:
      return "failover";
    case HandoverCause::kMemory:
      return "memory";
  }
  return "unknown";
}

// A move from one backend to another while the driver runs.
struct HandoverReport {
  std::string time;  // UTC, "2026-05-01T12:00:00.123Z"
  BackendKind from = BackendKind::kKernel;
  BackendKind to = BackendKind::kKernel;
  HandoverCause cause = HandoverCause::kRequest;
  std::string reason;
  std::string problem;  // why it did not come about; empty if it did
  // How long nobody served the vrings, in microseconds; nullopt: they were not stopped.
  std::optional<uint64_t> stopped_us;
};

struct HandoverCounts {
  uint64_t done = 0;
  uint64_t failed = 0;
  uint64_t failovers = 0;  // of those done
};

// What watches over queues that have work in them and do not get on
// (vhost/device/stall_detector.h).
struct WatchdogReport {
  uint32_t period_ms = 0;
  uint32_t stall_ms = 0;
  uint64_t checks = 0;
  uint64_t kicks = 0;        // given again to queues that did not get on
  uint64_t stalls = 0;       // queues that stood still for stall_ms
  uint64_t spins = 0;        // workers that used CPU time while nothing got on
  std::vector<int> stalled;  // queues that stand still now
};

struct EventReport {
  std::string time;  // UTC
  std::string what;  // the EventKind's name: "started", "handover", ...
  std::optional<int> queue;
  std::string text;
};

struct VringReport {
  int queue = 0;
  std::string role;       // "rx0", "tx0", "control", "event"
  std::string served_by;  // "kernel", "in-process", "device" (control and event queues), "none"
  bool enabled = false;
  bool active = false;  // handed to whoever serves it
  uint16_t max_size = 0;
  VringSetup setup;
  std::optional<VringIndices> indices;       // live, if active and split
  std::optional<PackedPositions> positions;  // live, if active, packed, and the server tells
  int kick_fd = -1;
  int call_fd = -1;
  std::optional<uint64_t> kick_count;  // eventfd count: of a kernel-served ring, kicks since start
};

// How a queue's notifications and interrupts reach KVM.
struct WiringReport {
  std::string what;                 // "notify 0", "msix 2", "config", "intx"
  std::string how;                  // "ioeventfd", "irqfd", "thread", "exit", "none"
  std::optional<uint64_t> address;  // of the notify register or the MSI message
  std::optional<uint32_t> data;     // datamatch or MSI data
  std::optional<uint32_t> gsi;
  int event_fd = -1;
  bool masked = false;
  bool pending = false;
  std::optional<uint16_t> queue;
  std::optional<uint64_t> exits;  // times that the guest's write came as an exit all the same
  std::string problem;            // why it is not done the way it was meant to be
};

struct TapReport {
  std::string name;
  int queues = 0;
  int active_queues = 0;
  bool vnet_header = false;
  int header_bytes = 0;
  std::vector<std::string> offloads;  // what TUNSETOFFLOAD was last given, by name
  std::optional<bool> link_up;
  std::optional<int> mtu;
  std::optional<int> sndbuf_bytes;
};

// Which frames a driver of a network device wants (virtio 1.3, 5.1.6.5).
struct ReceiveFilterReport {
  bool promiscuous = true;  // also until the driver has said what it wants
  bool all_multicast = false;
  bool all_unicast = false;
  bool no_multicast = false;
  bool no_unicast = false;
  bool no_broadcast = false;
  bool unicast_overflow = false;  // more addresses than are kept: all of the kind pass
  bool multicast_overflow = false;
  std::vector<std::string> unicast;  // "52:54:00:12:34:56"
  std::vector<std::string> multicast;
  std::vector<uint16_t> vlans;
  std::string applied_by;  // "tap", or why nobody does: "nobody: ..."
};

struct DeviceReport {
  std::string name;  // "net0"
  DeviceId id = DeviceId::kNet;
  std::string transport;  // "virtio-pci 00:01.0", "virtio-mmio 0xd0000000", "none"
  uint8_t status = 0;     // virtio device status
  std::string problem;    // why DEVICE_NEEDS_RESET was set, if it was
  VirtioFeatures offered;
  VirtioFeatures acked;
  std::string policy;                    // "require", "prefer", "never"
  std::optional<BackendReport> backend;  // who serves now, or would after DRIVER_OK
  std::vector<RefusalReport> refusals;
  bool paused = false;                    // by the host; nothing is served
  std::vector<HandoverReport> handovers;  // the last ones
  HandoverCounts handover_counts;
  std::vector<EventReport> events;  // the last ones
  std::optional<WatchdogReport> watchdog;
  std::vector<VringReport> vrings;
  std::vector<MemoryRegion> memory;  // the merged table
  std::vector<WiringReport> wiring;
  std::vector<TapReport> taps;
  std::optional<uint64_t> guest_cid;
  std::optional<std::string> mac;
  std::optional<uint16_t> mtu;
  std::optional<int> active_queue_pairs;
  std::optional<bool> link_up;  // as the driver sees it
  std::optional<ReceiveFilterReport> receive_filter;
  uint64_t resets = 0;
  uint64_t starts = 0;
};

}  // namespace vhost
