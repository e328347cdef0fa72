// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/peer.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "vhost/user/message.h"

namespace vhost::user {
namespace {

using kernel_abi::EventFd;
using kernel_abi::UniqueFd;
using std::chrono::milliseconds;

// Bits that mean something else between front end and back end than to a guest, or that the front
// end does not have. A packed ring's position is nowhere but in the back end: with the back end it
// would be lost.
constexpr VirtioFeatures kNeverPassed =
    VirtioFeatures{VirtioFeature::kAccessPlatform, VirtioFeature::kRingPacked} |
    VirtioFeatures::FromWords(uint64_t{1} << 26 | uint64_t{1} << kProtocolFeaturesBit);

constexpr uint8_t kStatusDriver = kernel_abi::kStatusAcknowledge | kernel_abi::kStatusDriver;

// A driver that writes to the configuration space without end must not fill memory.
constexpr size_t kMostConfigWrites = 64;
// Of a back end's requests that are served at once.
constexpr int kMostRequestsAtOnce = 16;

VringBase UsedIndex(const Vring& vring) {
  return vring.layout() == VringLayout::kSplit ? ReadIndices(vring).used : 0;
}

// What this front end knows. HOST_NOTIFIER and INBAND_NOTIFICATIONS are left alone: an ioeventfd
// and an irqfd are better. LOG_SHMFD and DEVICE_STATE are for moves to another host, which this
// library does not make.
ProtocolFeatures WantedProtocol(const PeerOptions& options) {
  using enum ProtocolFeature;
  ProtocolFeatures wanted{kMq,          kReplyAck,          kBackendReq, kInflightShmFd,
                          kResetDevice, kConfigureMemSlots, kStatus};
  if (options.config_bytes != 0) wanted.Set(kConfig);
  if (options.mtu.has_value()) wanted.Set(kNetMtu);
  return wanted;
}

}  // namespace

// ---- Life --------------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<Peer>> Peer::Create(kernel_abi::Kernel& kernel,
                                                   PeerOptions options) {
  if (options.queues < 1 || options.queues > static_cast<int>(kMostVrings)) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.queues, " queues: vhost-user has 1 to ", kMostVrings));
  }
  if (options.config_bytes > kMostConfigBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a configuration space of ",
                                                   options.config_bytes, " bytes: vhost-user has ",
                                                   kMostConfigBytes, " at most"));
  }
  std::vector<EventFd> events;
  for (int i = 0; i < options.queues + 2; ++i) {
    absl::StatusOr<EventFd> event = EventFd::Create(kernel);
    if (!event.ok()) return event.status();
    events.push_back(*std::move(event));
  }
  EventFd wake = std::move(events.back());
  events.pop_back();
  EventFd news = std::move(events.back());
  events.pop_back();
  std::shared_ptr<Peer> peer(
      new Peer(kernel, std::move(options), std::move(wake), std::move(news), std::move(events)));
  if (peer->options_.server) {
    absl::StatusOr<UnixListener> listener = UnixListener::Create(peer->options_.socket);
    if (!listener.ok()) return listener.status();
    peer->listener_.emplace(*std::move(listener));
  }
  // On this thread, which has the peer for itself until there is the other.
  const auto deadline = Connection::Clock::now() + peer->options_.connect_timeout;
  absl::Status status = peer->Connect();
  while (peer->options_.server && absl::IsUnavailable(status) &&
         Connection::Clock::now() < deadline) {
    pollfd entry{.fd = peer->listener_->fd(), .events = POLLIN, .revents = 0};
    poll(&entry, 1, 100);
    status = peer->Connect();
  }
  if (!status.ok()) return status;
  peer->give_up_first_ = false;
  peer->thread_ = std::thread([raw = peer.get()] { raw->Loop(); });
  return peer;
}

Peer::~Peer() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  Cut();
  wake_.Signal();
  thread_.join();
}

void Peer::Post(std::function<void()> job) {
  {
    absl::MutexLock lock(&mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.Signal();
}

void Peer::Do(milliseconds limit, std::function<void()> job) {
  absl::Notification done;
  Post([&] {
    job();
    done.Notify();
  });
  {
    absl::MutexLock lock(&mutex_);
    if (negotiating_ && live_fd_ >= 0) shutdown(live_fd_, SHUT_RDWR);
  }
  if (done.WaitForNotificationWithTimeout(absl::FromChrono(limit))) return;
  // All that the thread can wait for is this connection.
  Cut();
  done.WaitForNotification();
}

void Peer::Cut() {
  absl::MutexLock lock(&mutex_);
  if (live_fd_ >= 0) shutdown(live_fd_, SHUT_RDWR);
}

// ---- The thread --------------------------------------------------------------------------------

void Peer::Loop() {
  while (RunJobs()) {
    if (!link_.has_value() && Connection::Clock::now() >= next_try_) {
      if (absl::Status status = Connect(); !status.ok()) {
        {
          absl::MutexLock lock(&mutex_);
          report_.why_not = std::string(status.message());
        }
        retry_ = std::clamp(retry_ * 2, options_.first_retry, options_.longest_retry);
        next_try_ = Connection::Clock::now() + retry_;
      }
    }
    WaitForSomething();
  }
  link_.reset();
}

bool Peer::RunJobs() {
  wake_.Drain();
  while (true) {
    std::function<void()> job;
    {
      absl::MutexLock lock(&mutex_);
      if (jobs_.empty()) return !ending_;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

void Peer::WaitForSomething() {
  std::array<pollfd, 3> entries{};
  size_t count = 0;
  const auto add = [&](int fd) { entries[count++] = {.fd = fd, .events = POLLIN, .revents = 0}; };
  add(wake_.get());
  int timeout_ms = -1;
  if (link_.has_value()) {
    add(link_->ops.connection().fd());
    if (link_->requests.has_value()) add(link_->requests->fd());
  } else {
    if (listener_.has_value()) add(listener_->fd());
    const auto left = std::chrono::ceil<milliseconds>(next_try_ - Connection::Clock::now()).count();
    timeout_ms = static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
  }
  if (poll(entries.data(), count, timeout_ms) <= 0) return;
  if (!link_.has_value()) {
    if (count > 1 && entries[1].revents != 0) next_try_ = {};  // Somebody connects.
    return;
  }
  if (entries[1].revents != 0) {
    // Replies are read where they are asked for: what comes now was not, or is the end.
    const absl::StatusOr<std::optional<Message>> message = link_->ops.connection().TryReceive();
    if (!message.ok()) return Lose(message.status());
    if (message->has_value()) {
      return Lose(absl::InvalidArgumentError(
          absl::StrCat(options_.socket, ": the back end answered what it was not asked")));
    }
  }
  if (count > 2 && entries[2].revents != 0) ReadRequests();
}

// ---- Connections -------------------------------------------------------------------------------

absl::StatusOr<UniqueFd> Peer::ConnectOrAccept() {
  if (!listener_.has_value()) return ConnectUnix(options_.socket);
  UniqueFd fd(accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.valid()) return fd;
  if (errno == EAGAIN) {
    return absl::UnavailableError(absl::StrCat(options_.socket, ": no back end has connected yet"));
  }
  return kernel_abi::MakeSystemError(
      {.error = errno, .subject = options_.socket, .call = "accept"});
}

absl::Status Peer::Connect() {
  absl::StatusOr<UniqueFd> fd = ConnectOrAccept();
  if (!fd.ok()) return fd.status();
  std::vector<int> errors;
  for (const EventFd& error : errors_) errors.push_back(error.get());
  link_.emplace(UserVhostOps(
      Connection(*std::move(fd), RequestSet::kFrontEnd, Role::kRequester, options_.socket),
      std::move(errors), options_.request_timeout));
  {
    absl::MutexLock lock(&mutex_);
    live_fd_ = link_->ops.connection().fd();
    negotiating_ = true;
  }
  const absl::Status status = BringUp();
  {
    absl::MutexLock lock(&mutex_);
    negotiating_ = false;
    if (!status.ok()) live_fd_ = -1;
  }
  if (!status.ok()) {
    link_.reset();
    return status;
  }
  retry_ = milliseconds(0);
  {
    absl::MutexLock lock(&mutex_);
    report_.connected = true;
    report_.why_not.clear();
    ++report_.connections;
    const auto peer = link_->ops.connection().peer();
    report_.pid = peer.has_value() ? std::optional(peer->pid) : std::nullopt;
  }
  UpdateReport();
  if (!give_up_first_) {
    Tell(true, absl::StrCat(options_.socket, ": the back end is there again"));
  }
  return absl::OkStatus();
}

// From a new connection to where it does what is wanted.
absl::Status Peer::BringUp() {
  absl::Status status = Negotiate(*link_);
  if (status.ok() && options_.config_bytes != 0) status = RefreshConfig();
  if (status.ok()) status = WriteConfigs();
  if (!status.ok() || !wanted_.has_value()) return status;
  {
    // From here on it may touch memory, and whoever wants that to be over waits for its answer.
    absl::MutexLock lock(&mutex_);
    negotiating_ = false;
  }
  for (auto& [queue, vring] : wanted_->vrings) {
    vring.base = UsedIndex(vring.vring);
    if (!is_relayed()) continue;
    const absl::StatusOr<VringBase> base = relay_->Rewind(queue);
    if (!base.ok()) return base.status();
    vring.base = *base;
  }
  return ServeWanted();
}

absl::Status Peer::CheckOffer(VhostFeatures offered) const {
  if ((offered.low() & uint64_t{1} << 32) == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        options_.socket, ": the back end does not offer VIRTIO_F_VERSION_1, which is needed"));
  }
  absl::MutexLock lock(&mutex_);
  if (!first_offer_.has_value()) return absl::OkStatus();
  const auto wanted =
      VirtioFeatures::FromWords(first_offer_->low()) & (options_.features - kNeverPassed);
  const VirtioFeatures missing = wanted - VirtioFeatures::FromWords(offered.low());
  if (missing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(options_.socket, ": the back end that is there now does not offer ",
                   absl::StrJoin(FeatureNames(options_.id, missing), " "),
                   ", which the guest was offered: start one like the first"));
}

absl::Status Peer::Negotiate(Link& link) {
  UserVhostOps& ops = link.ops;
  const absl::StatusOr<VhostFeatures> offered = ops.GetFeatures();
  if (!offered.ok()) return offered.status();
  if (absl::Status status = CheckOffer(*offered); !status.ok()) return status;
  link.offered = *offered;
  if (absl::Status status = ops.SetOwner(); !status.ok()) return status;
  if ((offered->low() & uint64_t{1} << kProtocolFeaturesBit) != 0) {
    ProtocolFeatures protocol = WantedProtocol(options_);
    if (relay_ != nullptr) protocol.Set(ProtocolFeature::kInflightShmFd, false);
    const auto agreed = ops.NegotiateProtocol(protocol);
    if (!agreed.ok()) return agreed.status();
  }
  if (options_.config_bytes != 0 && !ops.Has(ProtocolFeature::kConfig)) {
    return absl::FailedPreconditionError(absl::StrCat(
        options_.socket,
        ": the back end does not tell the configuration space (no PROTOCOL_F_CONFIG): is it one "
        "for a device of this type?"));
  }
  if (ops.Has(ProtocolFeature::kMq)) {
    const absl::StatusOr<uint64_t> queues = ops.GetQueueNum();
    if (!queues.ok()) return queues.status();
    // Of a network device it counts pairs.
    const auto needed = static_cast<uint64_t>(options_.id == DeviceId::kNet ? options_.queues / 2
                                                                            : options_.queues);
    if (*queues < needed) {
      return absl::FailedPreconditionError(absl::StrCat(options_.socket, ": the back end serves ",
                                                        *queues, " queues, not ", needed,
                                                        ": ask for fewer, or give it more"));
    }
  }
  // Without an answer that a region was taken, one after the other cannot be told.
  if (ops.Has(ProtocolFeature::kConfigureMemSlots) && ops.Has(ProtocolFeature::kReplyAck)) {
    const absl::StatusOr<uint64_t> slots = ops.GetMaxMemSlots();
    if (!slots.ok()) return slots.status();
    ops.set_max_regions(std::max<uint64_t>(*slots, kTableRegions));
    absl::MutexLock lock(&mutex_);
    report_.max_regions = static_cast<uint32_t>(std::min<uint64_t>(*slots, UINT32_MAX));
  }
  if (ops.Has(ProtocolFeature::kBackendReq)) {
    if (absl::Status status = OpenRequestChannel(link); !status.ok()) return status;
  }
  if (ops.Has(ProtocolFeature::kNetMtu)) {
    if (absl::Status status = ops.SetMtu(*options_.mtu); !status.ok()) return status;
  }
  if (options_.track_in_flight && !ops.Has(ProtocolFeature::kInflightShmFd) && relay_ == nullptr &&
      give_up_first_) {
    std::vector<int> errors;
    for (const EventFd& error : errors_) errors.push_back(error.get());
    auto relay = AvailRelay::Create(kernel_, options_.queues, std::move(errors));
    if (!relay.ok()) return relay.status();
    relay_ = *std::move(relay);
  }
  absl::MutexLock lock(&mutex_);
  if (!first_offer_.has_value()) first_offer_ = *offered;
  return absl::OkStatus();
}

absl::Status Peer::OpenRequestChannel(Link& link) {
  auto sockets = Connection::MakeSockets();
  if (!sockets.ok()) return sockets.status();
  absl::Status status = link.ops.SetBackendReqFd(sockets->second.get());
  if (!status.ok()) return status;
  link.requests.emplace(std::move(sockets->first), RequestSet::kBackEnd, Role::kServer,
                        absl::StrCat(options_.socket, " (requests)"));
  return absl::OkStatus();
}

// What the back end asks of us.
void Peer::ReadRequests() {
  Connection& requests = *link_->requests;
  for (int i = 0; i < kMostRequestsAtOnce; ++i) {
    absl::StatusOr<std::optional<Message>> message = requests.TryReceive();
    if (!message.ok()) return Lose(message.status());
    if (!message->has_value()) return;
    const Message& request = **message;
    // The others need features that were not agreed on.
    const bool known = request.Is(BackEndRequest::kConfigChange);
    if (request.wants_ack()) {
      // It waits for that, so it may not be able to answer us before.
      absl::Status status = requests.Send(MakeAck(request, known),
                                          Connection::Clock::now() + options_.request_timeout);
      if (!status.ok()) return Lose(status);
    }
    if (!known) continue;
    if (absl::Status status = RefreshConfig(); !status.ok()) return Lose(status);
  }
}

void Peer::Lose(const absl::Status& why) {
  if (!link_.has_value()) return;
  {
    absl::MutexLock lock(&mutex_);
    live_fd_ = -1;
    report_.connected = false;
    report_.why_not = std::string(why.message());
    report_.pid.reset();
  }
  link_->ops.Close();
  link_.reset();
  retry_ = milliseconds(0);
  next_try_ = {};
  Tell(false, std::string(why.message()));
  if (options_.on_loss == OnLoss::kFail && wanted_.has_value()) {
    for (const auto& [queue, vring] : wanted_->vrings) {
      errors_[static_cast<size_t>(queue)].Signal();
    }
  }
}

void Peer::LoseIfBroken(const absl::Status& why) {
  if (link_.has_value() && !link_->ops.connection().status().ok()) Lose(why);
}

// ---- Vrings ------------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<const MemoryTable>> Peer::MemoryForPeer(
    const std::shared_ptr<const MemoryTable>& memory) const {
  if (!is_relayed()) return memory;
  return relay_->WithRings(*memory);
}

absl::StatusOr<VhostVring> Peer::ForPeer(const BackendVring& vring,
                                         const MemoryTable& memory) const {
  BackendVring given = vring;
  if (is_relayed()) {
    absl::StatusOr<BackendVring> relayed = relay_->ForBackEnd(vring, memory);
    if (!relayed.ok()) return relayed.status();
    given = *std::move(relayed);
  }
  return VhostVring{.index = static_cast<uint32_t>(given.queue),
                    .vring = given.vring,
                    .base = given.base,
                    .kick_fd = given.kick_fd,
                    .call_fd = given.call_fd};
}

absl::Status Peer::SetStatus(uint8_t status) {
  UserVhostOps& ops = link_->ops;
  if (!ops.Has(ProtocolFeature::kStatus)) return absl::OkStatus();
  if (absl::Status result = ops.SetStatus(status); !result.ok()) return result;
  // virtio 1.3, 3.1.1: a device that cannot do with the features does not take FEATURES_OK.
  if (status != (kStatusDriver | kernel_abi::kStatusFeaturesOk)) return absl::OkStatus();
  const absl::StatusOr<uint8_t> taken = ops.GetStatus();
  if (!taken.ok() || (*taken & kernel_abi::kStatusFeaturesOk) != 0) return taken.status();
  return absl::FailedPreconditionError(absl::StrCat(
      options_.socket, ": the back end does not take the features that the driver acked"));
}

absl::Status Peer::SetUpInflight() {
  if (!link_->ops.Has(ProtocolFeature::kInflightShmFd)) return absl::OkStatus();
  if (!inflight_.has_value()) {
    uint16_t size = 0;
    for (const auto& [queue, vring] : wanted_->vrings) size = std::max(size, vring.vring.size());
    if (size == 0) return absl::OkStatus();
    absl::StatusOr<UserVhostOps::Inflight> got =
        link_->ops.GetInflight(static_cast<uint16_t>(options_.queues), size);
    if (!got.ok()) return got.status();
    inflight_ = *std::move(got);
  }
  return link_->ops.SetInflight(*inflight_);
}

absl::Status Peer::ServeWanted() {
  constexpr uint8_t kAgreed =
      kernel_abi::kStatusAcknowledge | kernel_abi::kStatusDriver | kernel_abi::kStatusFeaturesOk;
  auto device = VhostDevice::Create(kernel_, link_->ops, link_->enabler,
                                    static_cast<uint32_t>(options_.queues), /*busyloop_us=*/0);
  if (!device.ok()) return device.status();
  link_->device = *std::move(device);
  VirtioFeatures acked = wanted_->acked;
  if (is_relayed()) acked.Set(VirtioFeature::kEventIdx, false);
  const auto features = VhostFeatures::FromWords(acked.low() & link_->offered.low());
  auto memory = MemoryForPeer(wanted_->memory);
  if (!memory.ok()) return memory.status();
  wanted_->peers_memory = *memory;
  absl::Status status = link_->device->Announce(features, *memory, {});
  if (status.ok()) status = SetStatus(kAgreed);
  if (status.ok()) status = SetUpInflight();
  if (!status.ok()) return status;
  std::vector<VhostVring> vrings;
  for (const auto& [queue, vring] : wanted_->vrings) {
    const absl::StatusOr<VhostVring> given = ForPeer(vring, **memory);
    if (!given.ok()) return given.status();
    vrings.push_back(*given);
  }
  status = link_->device->Prepare(features, *memory, vrings);
  if (status.ok()) status = link_->device->Attach();
  if (status.ok()) status = SetStatus(kAgreed | kernel_abi::kStatusDriverOk);
  if (status.ok()) UpdateReport();
  return status;
}

void Peer::Start(const BackendStart& start) {
  Wanted wanted{.acked = start.acked, .memory = start.memory, .vrings = {}};
  for (const BackendVring& vring : start.vrings) wanted.vrings.emplace(vring.queue, vring);
  Post([this, wanted = std::move(wanted)] {
    wanted_ = wanted;
    if (is_relayed()) {
      for (const auto& [queue, vring] : wanted_->vrings) relay_->Add(vring);
    }
    if (!link_.has_value()) return;
    if (absl::Status status = ServeWanted(); !status.ok()) Lose(status);
  });
}

bool Peer::Drain(const Vring& vring, VringBase base) const {
  if (vring.layout() != VringLayout::kSplit) return true;
  const auto deadline = Connection::Clock::now() + options_.stop_timeout;
  while (static_cast<uint16_t>(UsedIndex(vring)) != static_cast<uint16_t>(base)) {
    // Not a wait for the answer to anything: the peer's used index is all that tells. Cut ends it
    // too, since that closes the socket for both.
    pollfd entry{.fd = link_->ops.connection().fd(), .events = POLLIN, .revents = 0};
    if (poll(&entry, 1, 1) != 0 || Connection::Clock::now() >= deadline) return false;
  }
  return true;
}

std::vector<StoppedVring> Peer::StopWanted() {
  std::map<int, VringBase> bases;
  if (link_.has_value() && link_->device != nullptr) {
    for (const StoppedVhostVring& vring : link_->device->Stop()) {
      bases[static_cast<int>(vring.index)] = vring.base;
    }
    absl::Status status = link_->ops.connection().status();
    for (const auto& [queue, base] : bases) {
      if (!status.ok()) break;
      if (Drain(wanted_->vrings.at(queue).vring, base)) continue;
      status = absl::DeadlineExceededError(
          absl::StrCat(options_.socket, ": the back end stopped queue ", queue,
                       " and did not give back all that it had taken from it; it is cut off"));
    }
    if (status.ok()) {
      link_->device.reset();
      status = SetStatus(0);
    }
    if (!status.ok()) Lose(status);
    if (!status.ok()) bases.clear();
  }
  std::vector<StoppedVring> stopped;
  for (const auto& [queue, vring] : wanted_->vrings) {
    const auto base = bases.find(queue);
    stopped.push_back({queue, base != bases.end() ? base->second : UsedIndex(vring.vring)});
  }
  return stopped;
}

std::vector<StoppedVring> Peer::Stop() {
  std::vector<StoppedVring> stopped;
  Do(options_.stop_timeout, [&] {
    if (!wanted_.has_value()) return;
    stopped = StopWanted();
    if (is_relayed()) {
      for (const auto& [queue, vring] : wanted_->vrings) relay_->Remove(queue);
    }
    wanted_.reset();
    // What it notes is of rings that are no more.
    inflight_.reset();
  });
  return stopped;
}

void Peer::StartVring(const BackendVring& vring) {
  Post([this, vring] {
    if (!wanted_.has_value()) return;
    wanted_->vrings.insert_or_assign(vring.queue, vring);
    if (is_relayed()) relay_->Add(vring);
    if (!link_.has_value() || link_->device == nullptr) return;
    const absl::StatusOr<VhostVring> given = ForPeer(vring, *wanted_->peers_memory);
    absl::Status status = given.status();
    if (status.ok()) {
      status =
          link_->device->Prepare(link_->device->features(), wanted_->peers_memory, {&*given, 1});
    }
    if (status.ok()) status = link_->device->Attach();
    if (!status.ok()) Lose(status);
  });
}

absl::StatusOr<VringBase> Peer::StopVring(int queue) {
  absl::StatusOr<VringBase> result =
      absl::NotFoundError(absl::StrCat(options_.socket, ": queue ", queue, " is not in use"));
  Do(options_.stop_timeout, [&] {
    if (!wanted_.has_value()) return;
    const auto found = wanted_->vrings.find(queue);
    if (found == wanted_->vrings.end()) return;
    const Vring vring = found->second.vring;
    if (link_.has_value() && link_->device != nullptr) {
      result = link_->device->StopVring(static_cast<uint32_t>(queue));
      absl::Status status = link_->ops.connection().status();
      if (status.ok() && result.ok() && !Drain(vring, *result)) {
        status = absl::DeadlineExceededError(
            absl::StrCat(options_.socket, ": the back end did not give back all of queue ", queue));
      }
      if (!status.ok()) {
        Lose(status);
        result = UsedIndex(vring);
      }
    } else {
      result = UsedIndex(vring);
    }
    if (is_relayed()) relay_->Remove(queue);
    wanted_->vrings.erase(queue);
  });
  return result;
}

absl::Status Peer::SetMemory(const std::shared_ptr<const MemoryTable>& memory) {
  absl::Status result;
  Do(options_.stop_timeout, [&] {
    if (!wanted_.has_value()) return;
    for (const auto& [queue, vring] : wanted_->vrings) {
      if (vring.vring.SamePlaceIn(*memory)) continue;
      result = absl::FailedPreconditionError(
          absl::StrCat("queue ", queue, " is not where it was in this memory table"));
      return;
    }
    if (link_.has_value() && link_->device != nullptr) {
      const auto given = MemoryForPeer(memory);
      result = given.ok() ? link_->device->SetMemory(*given) : given.status();
      if (result.ok()) wanted_->peers_memory = *given;
      // A peer that is gone has let the old table go as well; the next one gets the new.
      if (!result.ok() && !link_->ops.connection().status().ok()) {
        Lose(result);
        result = absl::OkStatus();
      }
    }
    if (result.ok()) wanted_->memory = memory;
    if (link_.has_value()) UpdateReport();
  });
  return result;
}

absl::Status Peer::SetCall(int queue, int call_fd) {
  absl::Status result;
  Do(options_.stop_timeout, [&] {
    if (!wanted_.has_value()) return;
    const auto found = wanted_->vrings.find(queue);
    if (found == wanted_->vrings.end()) return;
    found->second.call_fd = call_fd;
    if (!link_.has_value() || link_->device == nullptr) return;
    absl::Status status = link_->device->SetCall(static_cast<uint32_t>(queue), call_fd);
    if (!status.ok()) LoseIfBroken(status);
  });
  return result;
}

// ---- The configuration space, and news ---------------------------------------------------------

std::vector<std::byte> Peer::config() const {
  absl::MutexLock lock(&mutex_);
  return config_;
}

absl::Status Peer::RefreshConfig() {
  absl::StatusOr<std::vector<std::byte>> config = link_->ops.GetConfig(options_.config_bytes);
  if (!config.ok()) return config.status();
  SetConfigCopy(*std::move(config));
  return absl::OkStatus();
}

void Peer::SetConfigCopy(std::vector<std::byte> config) {
  {
    absl::MutexLock lock(&mutex_);
    if (config_ == config) return;
    const bool is_first = config_.empty();
    config_ = std::move(config);
    if (is_first) return;
    news_.config_changed = true;
  }
  news_event_.Signal();
}

void Peer::WriteConfig(uint32_t offset, std::span<const std::byte> from) {
  {
    absl::MutexLock lock(&mutex_);
    if (config_writes_.size() == kMostConfigWrites) config_writes_.pop_front();
    config_writes_.push_back({.offset = offset, .bytes = {from.begin(), from.end()}});
  }
  PostConfigWrites();
}

// At most one such job waits: a driver that goes on while the back end does not answer must not
// make a queue of them.
void Peer::PostConfigWrites() {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(config_job_waits_, true)) return;
  }
  Post([this] {
    {
      absl::MutexLock lock(&mutex_);
      config_job_waits_ = false;
    }
    if (!link_.has_value()) return;  // The next one is told when it comes.
    if (absl::Status status = WriteConfigs(); !status.ok()) Lose(status);
  });
}

std::optional<Peer::ConfigWrite> Peer::NextConfigWrite() {
  absl::MutexLock lock(&mutex_);
  if (config_writes_.empty()) return std::nullopt;
  ConfigWrite write = std::move(config_writes_.front());
  config_writes_.pop_front();
  return write;
}

absl::Status Peer::WriteConfigs() {
  if (!link_->ops.Has(ProtocolFeature::kConfig)) return absl::OkStatus();
  bool any = false;
  // Others have their turn in between, however fast the driver writes.
  for (size_t i = 0; i < kMostConfigWrites; ++i) {
    const std::optional<ConfigWrite> write = NextConfigWrite();
    if (!write.has_value()) return any ? RefreshConfig() : absl::OkStatus();
    any = true;
    const absl::Status status = link_->ops.SetConfig(write->offset, write->bytes);
    // A driver may write what it may not; the back end says no, and that is all.
    if (!status.ok() && !link_->ops.connection().status().ok()) return status;
  }
  PostConfigWrites();
  return RefreshConfig();
}

void Peer::Reset() {
  Post([this] {
    if (!link_.has_value() || link_->device != nullptr) return;
    if (!link_->ops.Has(ProtocolFeature::kResetDevice)) return;
    if (absl::Status status = link_->ops.ResetDevice(); !status.ok()) LoseIfBroken(status);
  });
}

void Peer::Tell(std::optional<bool> connected, std::string text) {
  {
    absl::MutexLock lock(&mutex_);
    news_.connected = connected;
    news_.text = std::move(text);
  }
  news_event_.Signal();
}

Peer::News Peer::TakeNews() {
  news_event_.Drain();
  absl::MutexLock lock(&mutex_);
  return std::exchange(news_, News());
}

void Peer::UpdateReport() {
  const uint64_t updates = link_->device != nullptr ? link_->device->memory_updates() : 0;
  absl::MutexLock lock(&mutex_);
  report_.offered = link_->offered;
  report_.protocol = link_->ops.protocol();
  report_.memory_updates = std::max(report_.memory_updates, updates);
}

Peer::Report Peer::report() const {
  absl::MutexLock lock(&mutex_);
  return report_;
}

VirtioFeatures Peer::Supported(VirtioFeatures wanted) const {
  VirtioFeatures offered;
  {
    absl::MutexLock lock(&mutex_);
    offered = VirtioFeatures::FromWords(first_offer_->low());
  }
  offered = (offered & options_.features) - kNeverPassed;
  offered = offered | options_.own_features;
  // The driver's event index is the relay's matter.
  if (relay_ != nullptr) offered.Set(VirtioFeature::kEventIdx);
  // Done by stopping the ring alone.
  offered.Set(VirtioFeature::kRingReset);
  return wanted & offered;
}

absl::Status Peer::CheckMemory(const MemoryTable& memory) const {
  uint64_t most = kTableRegions;
  {
    absl::MutexLock lock(&mutex_);
    most = std::max<uint64_t>(most, report_.max_regions);
  }
  if (relay_ != nullptr) --most;  // The rings of ours are one region more.
  return CheckShareable(memory.merged(), most);
}

}  // namespace vhost::user
