// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/device_property.h"

namespace vmm {
namespace {

using Kind = DeviceProperty::Kind;
using F = vhost::VirtioFeature;

constexpr uint64_t kMostPollUs = 1'000'000;
constexpr uint64_t kMostQueueEntries = 32768;

constexpr DeviceProperty Text(const char* name, const char* meaning, const char* otherwise = "") {
  return {.name = name, .kind = Kind::kText, .meaning = meaning, .otherwise = otherwise};
}

constexpr DeviceProperty Number(const char* name, const char* meaning, uint64_t min, uint64_t max,
                                const char* otherwise = "") {
  return {.name = name,
          .kind = Kind::kNumber,
          .meaning = meaning,
          .otherwise = otherwise,
          .min = min,
          .max = max};
}

// A feature that is offered where the host has it, unless it is switched off.
constexpr DeviceProperty Feature(const char* name, const char* meaning,
                                 vhost::VirtioFeatures features) {
  return {.name = name,
          .kind = Kind::kSwitch,
          .meaning = meaning,
          .otherwise = "on",
          .features = features};
}

// One that is offered only once it is switched on.
constexpr DeviceProperty FeatureOff(const char* name, const char* meaning,
                                    vhost::VirtioFeatures features) {
  return {.name = name,
          .kind = Kind::kSwitch,
          .meaning = meaning,
          .otherwise = "off",
          .features = features,
          .is_on = false};
}

constexpr DeviceProperty kVhost =
    Text("vhost", "who serves: require, prefer or never the host kernel", "require");
constexpr DeviceProperty kFailover = {
    .name = "failover",
    .kind = Kind::kSwitch,
    .meaning = "another backend takes over when the one that serves fails or stalls",
    .otherwise = "on"};
constexpr DeviceProperty kPollUs =
    Number("poll-us", "microseconds that a thread polls at most before it sleeps", 0, kMostPollUs,
           "0 of vhost, 100 of this process");
constexpr DeviceProperty kQueueSize =
    Number("queue-size", "entries of a queue, a power of two", 2, kMostQueueEntries, "256");
constexpr DeviceProperty kWorkerCpus =
    Text("worker-cpus", "host CPUs of the threads that serve, \"0-3:8\"", "as this process");
constexpr DeviceProperty kWorkerNice =
    Text("worker-nice", "nice value of the threads that serve, -20 to 19", "as this process");
constexpr DeviceProperty kWorkerCgroup =
    Text("worker-cgroup", "cgroup directory of the threads that serve", "as this process");

constexpr DeviceProperty kNetProperties[] = {
    Text("id", "name in messages and for vhostctl", "net0, net1, ..."),
    Text("tap", "TAP interface, made if it is not there; also \"ifname\"", "a new one"),
    Text("fds", "open and attached TAP queues instead, divided by colons; also \"fd\""),
    Number("queues", "queue pairs", 1, 256, "1"),
    Text("mac", "MAC address", "a random local one"),
    Number("mtu", "MTU that the guest is told", 68, 65535),
    Number("sndbuf", "bytes that may be under way behind the TAP; 0: no limit", 0, 0x7FFF'FFFF,
           "1048576"),
    kVhost,
    kFailover,
    Text("vhostdev", "path of the vhost node", "/dev/vhost-net"),
    Text("vhostfds",
         "open vhost nodes instead, one a queue pair, divided by colons; also \"vhostfd\""),
    kPollUs,
    kQueueSize,
    kWorkerCpus,
    kWorkerNice,
    kWorkerCgroup,
    Text("io-engine",
         "how this process reads and writes the TAP when it serves the device: auto, syscall or "
         "io_uring",
         "auto"),
    Feature("csum", "guest leaves checksums to the host", {F::kNetCsum}),
    Feature("guest_csum", "host leaves checksums to the guest", {F::kNetGuestCsum}),
    Feature("gso", "segmentation is left to the other side: all of the following",
            {F::kNetGuestTso4, F::kNetGuestTso6, F::kNetGuestEcn, F::kNetGuestUfo, F::kNetGuestUso4,
             F::kNetGuestUso6, F::kNetHostTso4, F::kNetHostTso6, F::kNetHostEcn, F::kNetHostUfo,
             F::kNetHostUso}),
    Feature("host_tso4", "TCP over IPv4, guest to host", {F::kNetHostTso4}),
    Feature("host_tso6", "TCP over IPv6, guest to host", {F::kNetHostTso6}),
    Feature("host_ecn", "TCP with ECN, guest to host", {F::kNetHostEcn}),
    Feature("host_ufo", "UDP fragmentation, guest to host", {F::kNetHostUfo}),
    Feature("host_uso", "UDP segmentation, guest to host", {F::kNetHostUso}),
    Feature("guest_tso4", "TCP over IPv4, host to guest", {F::kNetGuestTso4}),
    Feature("guest_tso6", "TCP over IPv6, host to guest", {F::kNetGuestTso6}),
    Feature("guest_ecn", "TCP with ECN, host to guest", {F::kNetGuestEcn}),
    Feature("guest_ufo", "UDP fragmentation, host to guest", {F::kNetGuestUfo}),
    Feature("guest_uso4", "UDP segmentation over IPv4, host to guest", {F::kNetGuestUso4}),
    Feature("guest_uso6", "UDP segmentation over IPv6, host to guest", {F::kNetGuestUso6}),
    Feature("mrg_rxbuf", "packets over several receive buffers", {F::kNetMrgRxbuf}),
    Feature("status", "link status", {F::kNetStatus}),
    Feature("ctrl_vq", "control queue", {F::kNetCtrlVq}),
    Feature("ctrl_guest_offloads", "guest switches its offloads while it runs",
            {F::kNetCtrlGuestOffloads}),
    Feature("mq", "more than one queue pair at a time", {F::kNetMq}),
};

constexpr DeviceProperty kVsockProperties[] = {
    Text("id", "name in messages and for vhostctl", "vsock0, vsock1, ..."),
    Text("uds-path",
         "unix socket where host programs reach the guest when this process serves the device "
         "(needed for that): PATH and \"CONNECT <port>\"; the guest's calls go to PATH_<port>"),
    Number("guest-cid", "context id of the guest", 3, 0xFFFF'FFFE, "the first free one"),
    kVhost,
    kFailover,
    Text("vhostdev", "path of the vhost node", "/dev/vhost-vsock"),
    Text("vhostfd", "an open vhost node instead"),
    kPollUs,
    kQueueSize,
    kWorkerCpus,
    kWorkerNice,
    kWorkerCgroup,
    Feature("seqpacket", "sequential packet sockets", {F::kVsockSeqpacket}),
};

// Devices that another process serves.
constexpr DeviceProperty UserId(const char* otherwise) {
  return Text("id", "name in messages and for vhostctl", otherwise);
}
constexpr DeviceProperty kSocket =
    Text("socket", "path of the unix socket that the back end listens on (needed)");
constexpr DeviceProperty kServer = {
    .name = "server",
    .kind = Kind::kSwitch,
    .meaning = "listen on the socket instead, and wait for the back end to connect",
    .otherwise = "off",
    .is_on = false};
constexpr DeviceProperty kOnLoss =
    Text("on-loss",
         "what the driver sees when the back end is gone: wait until it is back, or fail, which "
         "asks the driver for a reset",
         "wait");
constexpr uint64_t kMostUserQueues = 250;
constexpr DeviceProperty kUserQueues =
    Number("num-queues", "request queues", 1, kMostUserQueues, "1");

constexpr DeviceProperty kUserBlockProperties[] = {
    UserId("blk0, blk1, ..."), kSocket, kServer, kOnLoss, kUserQueues, kQueueSize};
constexpr DeviceProperty kUserNetProperties[] = {
    UserId("net0, net1, ..."),
    kSocket,
    kServer,
    kOnLoss,
    kQueueSize,
    Text("mac", "MAC address", "a random local one"),
    Number("mtu", "MTU that the guest and the back end are told", 68, 65535),
};
constexpr DeviceProperty kUserFsProperties[] = {
    UserId("fs0, fs1, ..."),
    kSocket,
    kServer,
    kOnLoss,
    kUserQueues,
    kQueueSize,
    Text("tag", "name by which the guest mounts it (needed)"),
};
constexpr DeviceProperty kUserVsockProperties[] = {
    UserId("vsock0, vsock1, ..."),
    kSocket,
    kServer,
    kOnLoss,
    kQueueSize,
    Number("guest-cid", "context id of the guest", 3, 0xFFFF'FFFE, "what the back end says"),
};
constexpr DeviceProperty kUserScsiProperties[] = {
    UserId("scsi0, scsi1, ..."), kSocket, kServer, kOnLoss, kUserQueues, kQueueSize};
constexpr DeviceProperty kUserRngProperties[] = {UserId("rng0, rng1, ..."), kSocket, kServer,
                                                 kOnLoss, kQueueSize};
constexpr DeviceProperty kUserAnyProperties[] = {
    UserId("user0, user1, ..."),
    kSocket,
    kServer,
    kOnLoss,
    kQueueSize,
    Number("virtio-id", "number of the device type (virtio 1.3, 5) (needed)", 1, 63),
    Number("num-vqs", "queues of all kinds", 1, 256, "1"),
    Number("config-size", "bytes of the configuration space, which the back end tells", 0, 256,
           "0"),
};

constexpr DeviceProperty kRingFeatures[] = {
    Feature("event_idx", "interrupts and notifications by event index", {F::kEventIdx}),
    Feature("indirect_desc", "indirect descriptors", {F::kIndirectDesc}),
    Feature("queue_reset", "reset of single queues", {F::kRingReset}),
    FeatureOff("packed", "packed rings, which the host kernel cannot serve", {F::kRingPacked}),
    FeatureOff("in_order", "buffers are used in order, which the host kernel does not promise",
               {F::kInOrder}),
};

}  // namespace

std::span<const DeviceProperty> NetProperties() { return kNetProperties; }
std::span<const DeviceProperty> VsockProperties() { return kVsockProperties; }
std::span<const DeviceProperty> UserBlockProperties() { return kUserBlockProperties; }
std::span<const DeviceProperty> UserNetProperties() { return kUserNetProperties; }
std::span<const DeviceProperty> UserFsProperties() { return kUserFsProperties; }
std::span<const DeviceProperty> UserVsockProperties() { return kUserVsockProperties; }
std::span<const DeviceProperty> UserScsiProperties() { return kUserScsiProperties; }
std::span<const DeviceProperty> UserRngProperties() { return kUserRngProperties; }
std::span<const DeviceProperty> UserAnyProperties() { return kUserAnyProperties; }
std::span<const DeviceProperty> RingFeatureProperties() { return kRingFeatures; }

}  // namespace vmm
