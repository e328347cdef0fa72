// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control_plane.h"

#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/system_error.h"
#include "vhost/control/commands.h"
#include "vhost/control/runtime_directory.h"
#include "vhost/control/server.h"
#include "vhost/device/tap_port.h"
#include "vhost/epoll_loop.h"
#include "vhost/fd_budget.h"
#include "vhost/user/backend.h"
#include "vhost/version.h"

namespace vhost {
namespace {

// What a device opens at most, for CheckFdBudget. Of a queue: kick and call eventfd; and what a
// kernel backend adds for it, an error eventfd. Of a queue pair: a vhost node and a TAP's queue. Of
// a transport: an eventfd for configuration changes, and a few for what comes and goes.
constexpr int kFdsOfAQueue = 3;
constexpr int kFdsOfAQueuePair = 2 * kFdsOfAQueue + 2;
constexpr int kFdsOfATransport = 4;
constexpr int kFdsOfAConnection = 6;  // of vhost-user: two sockets, wake-ups, in-flight memory
constexpr int kFdsOfALinkWatch = 2;   // netlink sockets: one for questions, one for news

// Not to be told from a card's by its shape: bit 1 of the first byte says "locally administered".
absl::StatusOr<MacAddress> RandomMac() {
  MacAddress mac;
  if (getrandom(mac.data(), mac.size(), 0) != static_cast<ssize_t>(mac.size())) {
    return kernel_abi::MakeSystemError(
        {.error = errno, .subject = "MAC address", .call = "getrandom"});
  }
  mac[0] = static_cast<uint8_t>((mac[0] & 0xfc) | 0x02);
  return mac;
}

using MakeBackend = std::function<absl::StatusOr<std::unique_ptr<Backend>>()>;

// Candidates in order of preference. One that may not serve is not made either: it would open a
// node, own it and have a worker. `make_again` is empty where `make_offloaded` can be called only
// once. With `on_demand` the one of this process is made only if the other one cannot be had.
absl::StatusOr<BackendSelector> SelectBackend(OffloadPolicy policy,
                                              const MakeBackend& make_offloaded,
                                              MakeBackend make_again, MakeBackend make_in_process,
                                              bool on_demand) {
  std::vector<BackendCandidate> candidates;
  if (policy != OffloadPolicy::kNever) {
    candidates.push_back({BackendKind::kKernel, make_offloaded(), std::move(make_again)});
  }
  if (policy != OffloadPolicy::kRequire) {
    const bool later = on_demand && !candidates.empty() && candidates[0].backend.ok();
    candidates.push_back(
        {BackendKind::kInProcess,
         later ? absl::UnavailableError("made when it is needed") : make_in_process(),
         make_in_process, later});
  }
  return BackendSelector::Create(policy, std::move(candidates));
}

// The options but for the fds that were handed in, which can be used once.
NetBackendOptions CopyOf(const NetBackendOptions& options) {
  return {.node = options.node,
          .tap_fds = options.tap_fds,
          .taps_are_checked = options.taps_are_checked,
          .busyloop_us = options.busyloop_us,
          .worker = options.worker,
          .host = options.host,
          .fork_mode = options.fork_mode,
          .wide_features = options.wide_features};
}
VsockBackendOptions CopyOf(const VsockBackendOptions& options) {
  return {.node = options.node,
          .cid = options.cid,
          .first_cid = options.first_cid,
          .last_cid = options.last_cid,
          .busyloop_us = options.busyloop_us,
          .worker = options.worker,
          .host = options.host,
          .fork_mode = options.fork_mode};
}

}  // namespace

// The control socket's view of the control plane.
class ControlPlane::ControlSubject final : public control::Subject {
 public:
  explicit ControlSubject(ControlPlane& plane) : plane_(plane) {}
  control::ProcessInfo Process() const override {
    return {plane_.options_.vm_name, getpid(), LibraryVersion()};
  }
  std::vector<DeviceReport> Describe() const override { return plane_.Describe(); }
  absl::StatusOr<DeviceReport> Describe(absl::string_view device) const override {
    return plane_.Describe(device);
  }
  absl::StatusOr<HandoverReport> Handover(absl::string_view device, BackendKind to,
                                          absl::string_view reason) override {
    return plane_.Handover(device, to, reason);
  }
  absl::Status Pause(absl::string_view device, absl::string_view reason) override {
    return plane_.Pause(device, reason);
  }
  absl::Status Resume(absl::string_view device) override { return plane_.Resume(device); }
  absl::StatusOr<CaptureBatch> Capture(absl::string_view device,
                                       const CaptureRequest& request) override {
    return plane_.Capture(device, request);
  }
  absl::StatusOr<std::string> Plug(absl::string_view description) override {
    DevicePlugger* plugger = plane_.options_.plugger;
    return plugger != nullptr ? plugger->Plug(description) : Subject::Plug(description);
  }
  absl::Status Unplug(absl::string_view device) override {
    DevicePlugger* plugger = plane_.options_.plugger;
    return plugger != nullptr ? plugger->Unplug(device) : Subject::Unplug(device);
  }

 private:
  ControlPlane& plane_;
};

absl::StatusOr<std::unique_ptr<ControlPlane>> ControlPlane::Create(ControlPlaneOptions options) {
  if (options.memory == nullptr) {
    return absl::InvalidArgumentError("control plane: no guest memory was given");
  }
  std::unique_ptr<ControlPlane> plane(new ControlPlane(std::move(options)));
  if (plane->options_.loop == nullptr) {
    absl::StatusOr<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
    if (!loop.ok()) return loop.status();
    plane->own_loop_ = *std::move(loop);
    plane->loop_ = plane->own_loop_.get();
  }
  if (plane->options_.on_event != nullptr || plane->options_.control_socket.has_value()) {
    auto events =
        EventRelay::Create(plane->kernel_, *plane->loop_,
                           [raw = plane.get()](const DeviceEvent& event, uint64_t dropped) {
                             raw->OnEvent(event, dropped);
                           });
    if (!events.ok()) return events.status();
    plane->events_ = *std::move(events);
  }
  if (plane->options_.watchdog.period_ms > 0) {
    auto watchdog = Watchdog::Create(*plane->loop_, plane->options_.watchdog);
    if (!watchdog.ok()) return watchdog.status();
    plane->watchdog_ = *std::move(watchdog);
  }
  if (plane->options_.control_socket.has_value()) {
    if (absl::Status status = plane->OpenSocket(); !status.ok()) return status;
  }
  return plane;
}

ControlPlane::ControlPlane(ControlPlaneOptions options)
    : options_(std::move(options)),
      kernel_(options_.kernel != nullptr ? *options_.kernel : kernel_abi::LinuxKernel()),
      memory_(*options_.memory),
      host_(std::make_shared<const HostFacts>(kernel_)),
      loop_(options_.loop) {}

absl::Status ControlPlane::OpenSocket() {
  control::ServerOptions server = {.path = options_.control_socket->path,
                                   .group = options_.control_socket->group};
  if (server.path.empty()) {
    const std::string directory = control::RuntimeDirectory();
    absl::StatusOr<std::string> path = control::SocketPath(directory, options_.vm_name, getpid());
    if (!path.ok()) return path.status();
    if (absl::Status status = control::MakeRuntimeDirectory(directory, server.group);
        !status.ok()) {
      return kernel_abi::AddContext(status, "control socket");
    }
    control::RemoveStaleSockets(directory);
    server.path = *std::move(path);
  }
  subject_ = std::make_unique<ControlSubject>(*this);
  absl::StatusOr<std::unique_ptr<control::Server>> opened =
      control::Server::Create(*loop_, control::HandlerFor(*subject_), server);
  if (!opened.ok()) return opened.status();
  server_ = *std::move(opened);
  absl::MutexLock lock(&publisher_mutex_);
  publisher_ = server_.get();
  return absl::OkStatus();
}

void ControlPlane::OnEvent(const DeviceEvent& event, uint64_t dropped) {
  {
    absl::MutexLock lock(&publisher_mutex_);
    if (publisher_ != nullptr) publisher_->Publish(event, dropped);
  }
  if (options_.on_event != nullptr) options_.on_event(event, dropped);
}

ControlPlane::~ControlPlane() {
  {
    absl::MutexLock lock(&publisher_mutex_);
    publisher_ = nullptr;
  }
  server_.reset();  // Nobody asks any more.
  Entries entries;
  {
    absl::MutexLock lock(&mutex_);
    entries.swap(devices_);
  }
  Destroy(entries);
}

void ControlPlane::Destroy(Entries& entries) {
  std::vector<kernel_abi::UniqueFd> slow;
  for (auto& [name, entry] : entries) {
    for (kernel_abi::UniqueFd& fd : entry.device->Release()) slow.push_back(std::move(fd));
  }
  kernel_abi::CloseInParallel(std::move(slow));
  entries.clear();
}

absl::StatusOr<VirtioDevice*> ControlPlane::AddNet(NetOptions options) {
  const std::string name = options.name;
  return Add(name, [&] { return MakeNet(std::move(options)); });
}

absl::StatusOr<VirtioDevice*> ControlPlane::AddVsock(VsockOptions options) {
  const std::string name = options.name;
  return Add(name, [&] { return MakeVsock(std::move(options)); });
}

absl::StatusOr<VirtioDevice*> ControlPlane::AddVhostUser(VhostUserOptions options) {
  const std::string name = options.name;
  return Add(name, [&] { return MakeVhostUser(std::move(options)); });
}

absl::StatusOr<VirtioDevice*> ControlPlane::Add(
    const std::string& name, const std::function<absl::StatusOr<Entry>()>& make) {
  if (absl::Status status = Reserve(name); !status.ok()) return status;
  auto unreserve = absl::MakeCleanup([&] { Unreserve(name); });
  absl::StatusOr<Entry> entry = make();
  if (!entry.ok()) return kernel_abi::AddContext(entry.status(), name);
  std::move(unreserve).Cancel();
  VirtioDevice* device = entry->device.get();
  absl::MutexLock lock(&mutex_);
  devices_[name] = *std::move(entry);
  return device;
}

absl::Status ControlPlane::Reserve(const std::string& name) {
  if (name.empty()) return absl::InvalidArgumentError("device: has no name");
  if (name.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("device ", name, ": a name has no '/', which stands between VM and device"));
  }
  absl::MutexLock lock(&mutex_);
  if (!devices_.emplace(name, Entry{}).second) {
    return absl::AlreadyExistsError(absl::StrCat("device ", name, ": there is one of that name"));
  }
  return absl::OkStatus();
}

void ControlPlane::Unreserve(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  devices_.erase(name);
}

absl::StatusOr<ControlPlane::Entry> ControlPlane::MakeNet(NetOptions options) {
  const int pairs = options.device.queue_pairs;
  absl::Status budget =
      CheckFdBudget(pairs * kFdsOfAQueuePair + kFdsOfAQueue + kFdsOfATransport + kFdsOfALinkWatch);
  if (!budget.ok()) return budget;
  if (options.device.mac == MacAddress{}) {
    absl::StatusOr<MacAddress> mac = RandomMac();
    if (!mac.ok()) return mac.status();
    options.device.mac = *mac;
  }
  options.tap.queues = pairs;
  absl::StatusOr<std::unique_ptr<Tap>> tap = Tap::Create(kernel_, std::move(options.tap));
  if (!tap.ok()) return tap.status();
  // The backend is lent the TAP's fds; both are the device's, and the backend goes first.
  options.backend.tap_fds = (*tap)->fds();
  options.backend.taps_are_checked = true;
  options.backend.host = host_;
  options.in_process.tap_fds = (*tap)->fds();
  options.in_process.tap_takes_uso = (*tap)->takes_uso();
  options.in_process.tap_offloads = (*tap)->supported_offloads();
  // Not where vhost may take over: it would give the guest uncut what waits in the TAP.
  if (options.policy == OffloadPolicy::kNever) {
    options.in_process.set_extra_offloads = [tap = tap->get()](unsigned offloads) {
      return tap->SetExtraOffloads(offloads);
    };
  }
  MakeBackend again;
  if (options.backend.vhost_fds.empty()) {
    again = [this, recipe = std::make_shared<const NetBackendOptions>(CopyOf(options.backend))] {
      return NetBackend::Create(kernel_, CopyOf(*recipe));
    };
  }
  absl::StatusOr<BackendSelector> backends = SelectBackend(
      options.policy,
      [&]() -> absl::StatusOr<std::unique_ptr<Backend>> {
        return NetBackend::Create(kernel_, std::move(options.backend));
      },
      std::move(again),
      [this, recipe = options.in_process] {
        return inprocess::InProcessNetBackend::Create(kernel_, recipe);
      },
      /*on_demand=*/false);
  if (!backends.ok()) return backends.status();
  absl::StatusOr<std::unique_ptr<NetDevice>> net =
      NetDevice::Create(std::make_unique<TapPort>(*std::move(tap)), options.device);
  if (!net.ok()) return net.status();
  Entry entry;
  entry.net = net->get();
  absl::StatusOr<std::unique_ptr<VirtioDevice>> device =
      VirtioDevice::Create({.name = options.name,
                            .kernel = &kernel_,
                            .memory = &memory_,
                            .loop = loop_,
                            .model = *std::move(net),
                            .backends = *std::move(backends),
                            .failover = options.failover,
                            .events = events_.get(),
                            .watchdog = watchdog_.get()});
  if (!device.ok()) return device.status();
  entry.device = *std::move(device);
  return entry;
}

absl::StatusOr<ControlPlane::Entry> ControlPlane::MakeVsock(VsockOptions options) {
  absl::Status budget = CheckFdBudget(3 * kFdsOfAQueue + 1 + kFdsOfATransport);
  if (!budget.ok()) return budget;
  options.backend.host = host_;
  // Only vhost has to find one that is free.
  options.device.guest_cid = options.backend.cid.value_or(options.backend.first_cid);
  // Whoever is made later gets the CID that the device has.
  auto cid = std::make_shared<uint64_t>(options.device.guest_cid);
  if (options.policy != OffloadPolicy::kRequire && !options.in_process.host.uds_path.empty()) {
    options.in_process.capture = std::make_shared<PacketCapture>();
  }
  MakeBackend again;
  if (!options.backend.vhost_fd.valid()) {
    auto recipe = std::make_shared<const VsockBackendOptions>(CopyOf(options.backend));
    again = [this, cid, recipe] {
      VsockBackendOptions copy = CopyOf(*recipe);
      copy.cid = *cid;
      return VsockBackend::Create(kernel_, std::move(copy));
    };
  }
  absl::StatusOr<BackendSelector> backends = SelectBackend(
      options.policy,
      [&]() -> absl::StatusOr<std::unique_ptr<Backend>> {
        auto backend = VsockBackend::Create(kernel_, std::move(options.backend));
        if (!backend.ok()) return backend.status();
        *cid = (*backend)->guest_cid();
        return backend;
      },
      std::move(again),
      [this, cid, recipe = options.in_process]() -> absl::StatusOr<std::unique_ptr<Backend>> {
        if (recipe.host.uds_path.empty()) {
          return absl::FailedPreconditionError(
              "no path for its unix socket was given (in_process.host.uds_path)");
        }
        inprocess::InProcessVsockOptions copy = recipe;
        copy.guest_cid = *cid;
        return inprocess::InProcessVsockBackend::Create(kernel_, std::move(copy));
      },
      // Nobody would accept on its sockets while the kernel serves.
      /*on_demand=*/!options.in_process.host.uds_path.empty());
  options.device.guest_cid = *cid;
  if (!backends.ok()) return backends.status();
  absl::StatusOr<std::unique_ptr<VsockDevice>> vsock = VsockDevice::Create(options.device);
  if (!vsock.ok()) return vsock.status();
  Entry entry;
  entry.vsock = vsock->get();
  entry.capture = options.in_process.capture;
  absl::StatusOr<std::unique_ptr<VirtioDevice>> device =
      VirtioDevice::Create({.name = options.name,
                            .kernel = &kernel_,
                            .memory = &memory_,
                            .loop = loop_,
                            .model = *std::move(vsock),
                            .backends = *std::move(backends),
                            .failover = options.failover,
                            .events = events_.get(),
                            .watchdog = watchdog_.get()});
  if (!device.ok()) return device.status();
  entry.device = *std::move(device);
  return entry;
}

absl::StatusOr<ControlPlane::Entry> ControlPlane::MakeVhostUser(VhostUserOptions options) {
  const int queues = options.device.type.queue_count;
  absl::Status budget = CheckFdBudget(queues * kFdsOfAQueue + kFdsOfAConnection + kFdsOfATransport);
  if (!budget.ok()) return budget;
  absl::StatusOr<std::shared_ptr<user::Peer>> peer = user::Peer::Create(
      kernel_, user::VhostUserDevice::PeerOptionsFor(options.device, std::move(options.peer)));
  if (!peer.ok()) return peer.status();
  absl::StatusOr<std::unique_ptr<user::VhostUserDevice>> model =
      user::VhostUserDevice::Create(std::move(options.device), *peer);
  if (!model.ok()) return model.status();
  std::vector<BackendCandidate> candidates;
  candidates.push_back({BackendKind::kVhostUser,
                        std::unique_ptr<Backend>(std::make_unique<user::UserBackend>(*peer))});
  absl::StatusOr<BackendSelector> backends =
      BackendSelector::Create(OffloadPolicy::kPrefer, std::move(candidates));
  if (!backends.ok()) return backends.status();
  absl::StatusOr<std::unique_ptr<VirtioDevice>> device =
      VirtioDevice::Create({.name = options.name,
                            .kernel = &kernel_,
                            .memory = &memory_,
                            .loop = loop_,
                            .model = *std::move(model),
                            .backends = *std::move(backends),
                            .failover = options.failover,
                            .events = events_.get(),
                            .watchdog = watchdog_.get()});
  if (!device.ok()) return device.status();
  Entry entry;
  entry.device = *std::move(device);
  return entry;
}

absl::Status ControlPlane::Remove(absl::string_view name) {
  Entries entries;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = devices_.find(name);
    if (found == devices_.end() || found->second.device == nullptr) return NoSuchDevice(name);
    entries.insert(devices_.extract(found));
  }
  Destroy(entries);
  return absl::OkStatus();
}

NetDevice* ControlPlane::FindNet(absl::string_view name) {
  absl::ReaderMutexLock lock(&mutex_);
  const auto found = devices_.find(name);
  return found == devices_.end() ? nullptr : found->second.net;
}

VsockDevice* ControlPlane::FindVsock(absl::string_view name) {
  absl::ReaderMutexLock lock(&mutex_);
  const auto found = devices_.find(name);
  return found == devices_.end() ? nullptr : found->second.vsock;
}

absl::Status ControlPlane::SetReportSource(absl::string_view device,
                                           std::function<DeviceReport()> source) {
  // The lock is what makes the old source's callers finish; it dies after the lock was released,
  // since what it holds may do anything when it goes.
  std::function<DeviceReport()> old;
  absl::MutexLock lock(&mutex_);
  const auto found = devices_.find(device);
  if (found == devices_.end() || found->second.device == nullptr) return NoSuchDevice(device);
  old = std::exchange(found->second.source, std::move(source));
  return absl::OkStatus();
}

absl::StatusOr<VirtioDevice*> ControlPlane::Find(absl::string_view name) const {
  const auto found = devices_.find(name);
  if (found == devices_.end() || found->second.device == nullptr) return NoSuchDevice(name);
  return found->second.device.get();
}

// Read-locked for the whole call, so that Remove waits for it.

absl::StatusOr<HandoverReport> ControlPlane::Handover(absl::string_view device, BackendKind to,
                                                      absl::string_view reason) {
  absl::ReaderMutexLock lock(&mutex_);
  const absl::StatusOr<VirtioDevice*> found = Find(device);
  if (!found.ok()) return found.status();
  return (*found)->Handover(to, reason);
}

absl::Status ControlPlane::Pause(absl::string_view device, absl::string_view reason) {
  absl::ReaderMutexLock lock(&mutex_);
  const absl::StatusOr<VirtioDevice*> found = Find(device);
  if (found.ok()) (*found)->Pause(reason);
  return found.status();
}

absl::Status ControlPlane::Resume(absl::string_view device) {
  absl::ReaderMutexLock lock(&mutex_);
  const absl::StatusOr<VirtioDevice*> found = Find(device);
  return found.ok() ? (*found)->Resume() : found.status();
}

absl::StatusOr<CaptureBatch> ControlPlane::Capture(absl::string_view device,
                                                   const CaptureRequest& request) {
  absl::ReaderMutexLock lock(&mutex_);
  if (const auto found = Find(device); !found.ok()) return found.status();
  const Entry& entry = devices_.find(device)->second;
  if (entry.capture != nullptr) return entry.capture->Read(request);
  return absl::FailedPreconditionError(
      absl::StrCat(device, ": this process shows no packets of it: ",
                   entry.net != nullptr
                       ? "capture on its TAP (vhostctl capture does)"
                       : "it is always served elsewhere; the kernel's vsock is seen by vsockmon"));
}

DeviceReport ControlPlane::ReportOf(const Entry& entry) {
  return entry.source != nullptr ? entry.source() : entry.device->Report();
}

std::vector<DeviceReport> ControlPlane::Describe() const {
  absl::ReaderMutexLock lock(&mutex_);
  std::vector<DeviceReport> reports;
  for (const auto& [name, entry] : devices_) {
    if (entry.device != nullptr) reports.push_back(ReportOf(entry));
  }
  return reports;
}

absl::StatusOr<DeviceReport> ControlPlane::Describe(absl::string_view device) const {
  absl::ReaderMutexLock lock(&mutex_);
  const auto found = devices_.find(device);
  if (found == devices_.end() || found->second.device == nullptr) return NoSuchDevice(device);
  return ReportOf(found->second);
}

absl::Status ControlPlane::NoSuchDevice(absl::string_view name) const {
  std::vector<std::string> names;
  for (const auto& [known, entry] : devices_) {
    if (entry.device != nullptr) names.push_back(known);
  }
  return absl::NotFoundError(absl::StrCat("device ", name, ": there is none; ",
                                          names.empty() ? "there are no devices" : "there are ",
                                          absl::StrJoin(names, ", ")));
}

std::string ControlPlane::control_socket_path() const {
  return server_ == nullptr ? "" : server_->path();
}

}  // namespace vhost
