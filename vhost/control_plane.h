// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The library's face: devices in, a running control plane out. This is the one place where parts
// are put together; each part can also be used without it.
//
//   AddNet:    Tap -> TapPort -> NetDevice ------.
//              Tap's fds -> NetBackend (kernel) --+--> VirtioDevice --> a transport of the VMM's
//   AddVsock:  VsockBackend (kernel), VsockDevice-'
//   AddVhostUser:  Peer -> UserBackend, VhostUserDevice -> the same
//
// What a VMM does:
//
//   1. GuestMemory, with its regions; ControlPlane::Create.
//   2. AddNet, AddVsock: whatever the machine cannot do is an error here, before a guest runs.
//   3. A transport for each device (vhost/transport/, or its own), and SetReportSource with it.
//   4. The guest runs. Devices may be added and removed meanwhile.
//   5. Transports go first, then devices (Remove, or all at once with the control plane), then the
//      memory.
//
// Thread safety: any thread. Do not call it with a lock held that a report source takes, nor
// Remove or the destructor from a callback of the event loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/kernel.h"
#include "vhost/device/net_device.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/vsock_device.h"
#include "vhost/device/watchdog.h"
#include "vhost/event_loop.h"
#include "vhost/event_relay.h"
#include "vhost/guest_memory.h"
#include "vhost/host/tap.h"
#include "vhost/inprocess/net_backend.h"
#include "vhost/inprocess/vsock_backend.h"
#include "vhost/kernel/net_backend.h"
#include "vhost/kernel/vsock_backend.h"
#include "vhost/offload.h"
#include "vhost/packet_capture.h"
#include "vhost/report.h"
#include "vhost/user/device.h"
#include "vhost/user/peer.h"

namespace vhost {

namespace control {
class Server;
class Subject;
}  // namespace control

// Where `vhostctl` finds this process (docs/control-protocol.md).
struct ControlSocketOptions {
  // Default: $XDG_RUNTIME_DIR/libvhost/VM-PID.sock, or /run/libvhost/VM-PID.sock without that
  // variable. A socket at another path is found with `vhostctl --socket` only.
  std::string path;
  // Whose members may connect too, besides this user and root.
  std::optional<gid_t> group;
};

// What a VMM that can add and remove devices while its guest runs lets clients of the control
// socket ask for. Called on the event loop's thread, which it must not hold up, and with no lock
// held.
class DevicePlugger {
 public:
  virtual ~DevicePlugger() = default;
  // Adds a device; `description` is in the VMM's own words. Its name, or why not.
  virtual absl::StatusOr<std::string> Plug(absl::string_view description) = 0;
  // Asks the guest to let go of a device, which is removed when it has.
  virtual absl::Status Unplug(absl::string_view device) = 0;
};

struct ControlPlaneOptions {
  kernel_abi::Kernel* kernel = nullptr;  // lent; nullptr: Linux itself
  GuestMemory* memory = nullptr;         // lent; must be given
  EventLoop* loop = nullptr;             // lent; nullptr: one on a thread of the control plane's
  std::string vm_name = "vm";            // 1 to 48 letters, digits, '.', '-', '_'
  std::optional<ControlSocketOptions> control_socket;  // without: none
  DevicePlugger* plugger = nullptr;                    // lent; nullptr: devices do not come and go
  // Told of what happens to devices, on the event loop's thread, with no lock held: it may call the
  // control plane, but for Remove and the destructor. Empty: nobody is.
  EventRelay::Observer on_event;
  WatchdogOptions watchdog;  // over the queues of all devices
};

// A network device on a TAP.
struct NetOptions {
  std::string name;  // "net0"; of its own among the devices here
  OffloadPolicy policy = OffloadPolicy::kPrefer;
  FailoverOptions failover;
  // What the guest sees. A MAC of zeros: one is made up (locally administered, random).
  NetDeviceOptions device;
  // The TAP behind it. `queues` is set to the queue pairs of `device`.
  TapOptions tap;
  // How vhost is used. `tap_fds` is set to the TAP's.
  NetBackendOptions backend;
  // How this process serves the queues where vhost does not. What is said there of the TAP is set.
  inprocess::InProcessNetOptions in_process;
};

// A socket device.
struct VsockOptions {
  std::string name;  // "vsock0"
  OffloadPolicy policy = OffloadPolicy::kPrefer;
  FailoverOptions failover;
  // How vhost is used, and the guest's CID.
  VsockBackendOptions backend;
  VsockDeviceOptions device;  // its `guest_cid` is set to the one that the backend got
  // How this process serves the device where vhost does not: behind a unix socket. Without a path
  // for that (`host.uds_path`) it does not. Its `guest_cid` is set like the device's.
  inprocess::InProcessVsockOptions in_process;
};

// A device whose vrings another process serves, and of which that process knows the rest.
struct VhostUserOptions {
  std::string name;  // "blk0"
  user::VhostUserDeviceOptions device;
  // Where the process is, and what is done when it goes. What follows from `device` is set.
  user::PeerOptions peer;
  FailoverOptions failover;
};

class ControlPlane {
 public:
  // INVALID_ARGUMENT: no memory, or a VM name that cannot be a file's. Otherwise what the event
  // loop's thread or the control socket met.
  static absl::StatusOr<std::unique_ptr<ControlPlane>> Create(ControlPlaneOptions options);
  // As Remove, of all devices together: their vhost fds are closed at once, which takes about as
  // long as closing one.
  ~ControlPlane();
  ControlPlane(const ControlPlane&) = delete;
  ControlPlane& operator=(const ControlPlane&) = delete;

  // The device stays the control plane's; the pointer is good until Remove. ALREADY_EXISTS: the
  // name is taken. RESOURCE_EXHAUSTED: more fds than RLIMIT_NOFILE leaves, or more memory regions
  // than vhost takes, with the limit and how to raise it. An error leaves nothing behind.
  absl::StatusOr<VirtioDevice*> AddNet(NetOptions options);
  absl::StatusOr<VirtioDevice*> AddVsock(VsockOptions options);
  // Waits for the process as `peer.connect_timeout` says: it must be there, since the device is
  // what it says. UNAVAILABLE: it is not.
  absl::StatusOr<VirtioDevice*> AddVhostUser(VhostUserOptions options);
  // Stops the device and closes all that it holds. Its transport must be gone. NOT_FOUND names the
  // devices that there are.
  absl::Status Remove(absl::string_view name);

  // The type-specific side of a device, for what the host does to it (a link going down, a
  // transport reset). nullptr if there is none of that name and type; good until Remove.
  NetDevice* FindNet(absl::string_view name);
  VsockDevice* FindVsock(absl::string_view name);

  // What `source` returns stands for the device's report from now on: a transport's Report(), which
  // adds the wiring. It is called on any thread. An empty function takes it back, and when that
  // returns the old one is not running any more: do it before the transport goes.
  absl::Status SetReportSource(absl::string_view device, std::function<DeviceReport()> source);

  // Everything that is known, of all devices or one, without stopping anything.
  std::vector<DeviceReport> Describe() const;
  absl::StatusOr<DeviceReport> Describe(absl::string_view device) const;

  // See VirtioDevice. NOT_FOUND names the devices that there are.
  absl::StatusOr<HandoverReport> Handover(absl::string_view device, BackendKind to,
                                          absl::string_view reason);
  absl::Status Pause(absl::string_view device, absl::string_view reason);
  absl::Status Resume(absl::string_view device);
  // The packets that this process carries for the device. FAILED_PRECONDITION: it carries none, or
  // they are seen better elsewhere, and where.
  absl::StatusOr<CaptureBatch> Capture(absl::string_view device, const CaptureRequest& request);

  // Of the control socket; empty without one.
  std::string control_socket_path() const;
  EventLoop& loop() { return *loop_; }

 private:
  class ControlSubject;
  struct Entry {
    std::unique_ptr<VirtioDevice> device;
    NetDevice* net = nullptr;  // the device's model, by its type
    VsockDevice* vsock = nullptr;
    std::function<DeviceReport()> source;
    std::shared_ptr<PacketCapture> capture;  // nullptr: this process sees no packets of it
  };
  using Entries = std::map<std::string, Entry, std::less<>>;

  explicit ControlPlane(ControlPlaneOptions options);
  absl::Status OpenSocket();
  // On the event loop's thread.
  void OnEvent(const DeviceEvent& event, uint64_t dropped) ABSL_LOCKS_EXCLUDED(publisher_mutex_);
  // Keeps a name for a device that is being made, so that two of one name cannot be.
  absl::Status Reserve(const std::string& name) ABSL_LOCKS_EXCLUDED(mutex_);
  void Unreserve(const std::string& name) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<Entry> MakeNet(NetOptions options);
  absl::StatusOr<Entry> MakeVsock(VsockOptions options);
  absl::StatusOr<Entry> MakeVhostUser(VhostUserOptions options);
  absl::StatusOr<VirtioDevice*> Add(const std::string& name,
                                    const std::function<absl::StatusOr<Entry>()>& make)
      ABSL_LOCKS_EXCLUDED(mutex_);
  static void Destroy(Entries& entries);
  static DeviceReport ReportOf(const Entry& entry);
  absl::StatusOr<VirtioDevice*> Find(absl::string_view name) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::Status NoSuchDevice(absl::string_view name) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const ControlPlaneOptions options_;
  kernel_abi::Kernel& kernel_;
  GuestMemory& memory_;
  const std::shared_ptr<const HostFacts> host_;  // for all devices
  std::unique_ptr<EventLoop> own_loop_;
  EventLoop* loop_ = nullptr;

  // Where clients of the control socket hear of events; nullptr before it is open and after it
  // closed. The lock keeps it while an event is published, which `events_` may do to its end.
  absl::Mutex publisher_mutex_;
  control::Server* publisher_ ABSL_GUARDED_BY(publisher_mutex_) = nullptr;
  std::unique_ptr<EventRelay> events_;  // nullptr: nobody wants to be told
  std::unique_ptr<Watchdog> watchdog_;  // nullptr: it is turned off

  // Held for reading while reports are gathered and while a device is moved or paused, so it is the
  // outermost lock of all: nothing is created or destroyed under it.
  mutable absl::Mutex mutex_;
  Entries devices_ ABSL_GUARDED_BY(mutex_);  // one without a device is being made

  // The last members: they end first.
  std::unique_ptr<control::Subject> subject_;
  std::unique_ptr<control::Server> server_;
};

}  // namespace vhost
