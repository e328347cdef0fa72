// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/virtio_device.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/system_error.h"
#include "vhost/device/virtio_device_lock.h"

namespace vhost {

namespace status_bit = device_status;

namespace {

// Bits that only a driver from before virtio 1 may be offered (virtio 1.3, 6.3).
constexpr VirtioFeatures kLegacyOnly = {VirtioFeature::kNotifyOnEmpty, VirtioFeature::kAnyLayout};
// The bits that such a driver can see.
constexpr VirtioFeatures kLegacySees = VirtioFeatures::FromWords(0xffff'ffff);

}  // namespace

// ---- Life --------------------------------------------------------------------------------------

VirtioDevice::VirtioDevice(Options options)
    : name_(std::move(options.name)),
      kernel_(*options.kernel),
      guest_memory_(*options.memory),
      loop_(*options.loop),
      model_(std::move(options.model)),
      config_size_(static_cast<uint32_t>(model_->config().size())),
      backends_(std::move(options.backends)),
      offered_(backends_.Supported(model_->features())),
      failover_(options.failover),
      stalls_(options.watchdog == nullptr
                  ? std::nullopt
                  : std::optional<StallDetector>(options.watchdog->options())),
      journal_(name_, options.events),
      back_off_ms_(options.failover.back_off_ms) {}

absl::StatusOr<std::unique_ptr<VirtioDevice>> VirtioDevice::Create(Options options) {
  Watchdog* const watchdog = options.watchdog;
  std::unique_ptr<VirtioDevice> device(new VirtioDevice(std::move(options)));
  VirtioDevice* self = device.get();
  absl::StatusOr<std::unique_ptr<QueueSet>> queues =
      QueueSet::Create(self->kernel_, self->loop_, *self->model_, self->backends_,
                       [self](int queue) { self->OnKick(queue); });
  if (!queues.ok()) return kernel_abi::AddContext(queues.status(), self->name_);
  self->queues_ = *std::move(queues);
  self->model_->SetHost(self);
  absl::Status status;
  {
    absl::MutexLock lock(&self->mutex_);
    status = self->WatchErrors();
  }
  if (status.ok()) status = self->guest_memory_.AddListener(self);
  if (!status.ok()) return kernel_abi::AddContext(status, self->name_);
  self->listening_ = true;
  if (const int fd = self->model_->host_fd(); fd >= 0) {
    auto watch = self->loop_.WatchReadable(fd, [self] {
      Lock lock(*self);
      self->ReadHostChanges();
    });
    if (!watch.ok()) return kernel_abi::AddContext(watch.status(), self->name_);
    self->host_watch_ = *std::move(watch);
  }
  if (watchdog != nullptr) {
    self->watchdog_ =
        watchdog->Register([self] { self->CheckProgress(StallDetector::Clock::now()); });
  }
  return device;
}

VirtioDevice::~VirtioDevice() {
  if (queues_ == nullptr) return;  // Create failed before there was anything.
  if (listening_) guest_memory_.RemoveListener(this);
  EndWatches();
  Lock lock(*this);
  queues_->Stop();
  model_->Reset();
  queues_->RetireAll();
}

void VirtioDevice::EndWatches() {
  watchdog_.reset();
  host_watch_.reset();
  // They end without the lock, which their callbacks take.
  std::map<const Backend*, Watches> ended;
  absl::MutexLock lock(&mutex_);
  ended.swap(error_watches_);
}

std::vector<kernel_abi::UniqueFd> VirtioDevice::Release() {
  if (std::exchange(listening_, false)) guest_memory_.RemoveListener(this);
  EndWatches();
  Lock lock(*this);
  Reset();
  return backends_.ReleaseFds();
}

absl::Status VirtioDevice::WatchErrors() {
  for (Backend* backend : backends_.backends()) {
    if (error_watches_.contains(backend)) continue;
    Watches& watches = error_watches_[backend];
    for (int queue = 0; queue < queues_->count(); ++queue) {
      const int fd = backend->error_fd(queue);
      if (fd < 0) continue;
      absl::StatusOr<std::unique_ptr<Watch>> watch =
          loop_.WatchReadable(fd, [this, backend, queue] { OnError(backend, queue); });
      if (!watch.ok()) return watch.status();
      watches.push_back(*std::move(watch));
    }
  }
  return absl::OkStatus();
}

// ---- Events ------------------------------------------------------------------------------------
// On the loop's thread.

void VirtioDevice::OnKick(int queue) {
  // The plain lock: there is no need to end the watch that is being called just now.
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = queues_->HandleKick(queue); !status.ok()) Break(status);
  BreakIfStuck();
}

void VirtioDevice::OnError(Backend* backend, int queue) {
  // The whole lock: a failover ends watches, and may end the one that is being called.
  Lock lock(*this);
  // A start takes the signals of the run before it away; one that was seen before that is none.
  if (!kernel_abi::EventFd::DrainEventFd(kernel_, backend->error_fd(queue))) return;
  backend->CountError(queue);
  // A signal may be of a run that is over.
  if (backends_.running() != backend) return;
  ReadHostChanges();  // Which may be why.
  const std::string why = absl::StrCat(queues_->Label(queue), ": the ", Name(backend->kind()),
                                       " backend found the ring broken, or lost what it is "
                                       "attached to; the kernel log may say more");
  journal_.Note(EventKind::kRingError, why, queue);
  // If the ring is really broken, the other one finds that too.
  if (!Failover(why)) Break(absl::InternalError(why));
}

void VirtioDevice::Locked(const std::function<void()>& action) {
  Lock lock(*this);
  action();
  BreakIfStuck();
}

void VirtioDevice::ConfigChanged() {
  NoteConfig();
  // virtio 1.3, 2.1.2 and 2.5: silent before DRIVER_OK.
  if (HasStatus(status_bit::kDriverOk) && interrupter_ != nullptr) interrupter_->ConfigChanged();
}

absl::Status VirtioDevice::ApplyActiveQueues() {
  absl::Status status = queues_->ApplyActiveQueues();
  if (queues_->must_stop()) stuck_ = status;
  return status;
}

void VirtioDevice::KickQueue(int queue) { queues_->KickLocal(queue); }

// ---- Status ------------------------------------------------------------------------------------

uint8_t VirtioDevice::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

void VirtioDevice::WriteStatus(uint8_t status) {
  Lock lock(*this);
  SetStatus(status);
}

void VirtioDevice::WriteLegacyStatus(uint8_t status) {
  Lock lock(*this);
  if (status != 0 && status_ == 0) legacy_ = true;
  if (!legacy_) {
    SetStatus(status);
    return;
  }
  status &= static_cast<uint8_t>(~status_bit::kFeaturesOk);
  if ((status & ~status_ & status_bit::kDriverOk) != 0) {
    // Nothing was ever refused to such drivers: what was not offered has no effect.
    acked_ = acked_ & offered_to_legacy();
    status |= status_bit::kFeaturesOk;
  }
  SetStatus(status);
}

void VirtioDevice::SetStatus(uint8_t status) {
  if (status == 0) {
    Reset();
    return;
  }
  // A driver must not clear a bit but by a reset (2.1.1): one that tries is not followed.
  const uint8_t added = status & ~status_ & ~status_bit::kNeedsReset;
  status_ |= added & ~(status_bit::kFeaturesOk | status_bit::kDriverOk);
  if ((added & status_bit::kFeaturesOk) != 0) {
    if (absl::Status check = CheckFeatures(); check.ok()) {
      status_ |= status_bit::kFeaturesOk;
      problem_.clear();
    } else {
      problem_ = absl::StrCat("FEATURES_OK refused: ", std::string(check.message()));
    }
  }
  if ((added & status_bit::kFailed) != 0) {
    queues_->Stop();  // The driver has given up: nothing is to be written to its memory.
    return;
  }
  if ((added & status_bit::kDriverOk) == 0 || HasStatus(status_bit::kFailed)) return;
  status_ |= status_bit::kDriverOk;
  if (HasStatus(status_bit::kNeedsReset)) return;
  if (!HasStatus(status_bit::kFeaturesOk)) {
    Break(absl::FailedPreconditionError(
        absl::StrCat("DRIVER_OK without FEATURES_OK", problem_.empty() ? "" : "; ", problem_)));
    return;
  }
  if (absl::Status start = Start(); !start.ok()) Break(start);
}

absl::Status VirtioDevice::CheckFeatures() const {
  const VirtioFeatures offered = legacy_ ? offered_to_legacy() : this->offered();
  if (!offered.Contains(acked_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the driver acked what was not offered: ",
                     absl::StrJoin(FeatureNames(model_->id(), acked_ - offered), " ")));
  }
  if (!legacy_ && !acked_.Has(VirtioFeature::kVersion1)) {
    return absl::InvalidArgumentError("the driver did not ack VIRTIO_F_VERSION_1");
  }
  return model_->CheckFeatures(acked_);
}

absl::Status VirtioDevice::Start() {
  if (absl::Status status = model_->Prepare(acked_); !status.ok()) return status;
  if (paused_) return absl::OkStatus();  // Resume starts them.
  return StartQueues();
}

std::vector<StoppedVring> VirtioDevice::Reset() {
  std::vector<StoppedVring> stopped = queues_->Stop();
  if (paused_) stopped = std::exchange(paused_at_, {});
  served_by_.reset();
  resume_on_.reset();
  for (int queue = 0; queue < queues_->count(); ++queue) queues_->ClearQueue(queue);
  queues_->DrainCalls();
  NoteConfig();
  model_->Reset();
  if (status_ != 0) {
    ++resets_;
    journal_.Note(EventKind::kReset, "");
  }
  status_ = 0;
  legacy_ = false;
  acked_ = {};
  problem_.clear();
  NoteConfig();  // What the driver had set in it (a MAC address) is gone.
  return stopped;
}

void VirtioDevice::BreakIfStuck() {
  if (const absl::Status stuck = std::exchange(stuck_, absl::OkStatus()); !stuck.ok()) {
    Break(stuck);
  }
}

void VirtioDevice::Break(const absl::Status& problem) {
  queues_->Stop();
  if (HasStatus(status_bit::kNeedsReset)) return;
  status_ |= status_bit::kNeedsReset;
  problem_ = std::string(problem.message());
  journal_.Note(EventKind::kNeedsReset, problem_);
  ConfigChanged();  // 2.1.2: DEVICE_NEEDS_RESET is told, if the driver is up.
}

// ---- Features, queues, configuration -----------------------------------------------------------

void VirtioDevice::SetInterrupter(Interrupter* interrupter, std::string transport) {
  absl::MutexLock lock(&mutex_);
  interrupter_ = interrupter;
  transport_ = std::move(transport);
}

VirtioFeatures VirtioDevice::offered() const { return offered_ - kLegacyOnly; }

VirtioFeatures VirtioDevice::offered_to_legacy() const { return offered_ & kLegacySees; }

VirtioFeatures VirtioDevice::acked() const {
  absl::MutexLock lock(&mutex_);
  return acked_;
}

void VirtioDevice::WriteDriverFeatures(uint32_t word, uint32_t bits) {
  absl::MutexLock lock(&mutex_);
  if (HasStatus(status_bit::kFeaturesOk) || word > 3) return;
  const unsigned shift = 32 * (word % 2);
  const uint64_t keep = ~(uint64_t{0xffff'ffff} << shift);
  const uint64_t value = uint64_t{bits} << shift;
  acked_ = word < 2 ? VirtioFeatures::FromWords((acked_.low() & keep) | value, acked_.high())
                    : VirtioFeatures::FromWords(acked_.low(), (acked_.high() & keep) | value);
}

// What decides the roles of queues: what was negotiated, or could be.
VirtioFeatures VirtioDevice::KnownFeatures() const {
  return HasStatus(status_bit::kFeaturesOk) ? acked_ : offered_;
}

uint16_t VirtioDevice::queue_max_size(int queue) const {
  return queues_->Has(queue) ? model_->queue_max_size(queue) : 0;
}

VringSetup VirtioDevice::queue_setup(int queue) const {
  absl::MutexLock lock(&mutex_);
  return queues_->Has(queue) ? queues_->setup(queue) : VringSetup{};
}

void VirtioDevice::WriteQueueSetup(int queue, const VringSetup& setup) {
  absl::MutexLock lock(&mutex_);
  if (!queues_->Has(queue) || queues_->enabled(queue)) return;
  queues_->SetSetup(queue, setup);
}

bool VirtioDevice::queue_enabled(int queue) const {
  absl::MutexLock lock(&mutex_);
  return queues_->Has(queue) && queues_->enabled(queue);
}

void VirtioDevice::EnableQueue(int queue) {
  Lock lock(*this);
  if (!queues_->Has(queue)) return;
  queues_->SetEnabled(queue);
  // After a queue reset the driver sets a queue up anew while the device runs (2.6.1).
  if (absl::Status status = queues_->StartQueue(queue); !status.ok()) Break(status);
}

void VirtioDevice::ResetQueue(int queue) {
  Lock lock(*this);
  if (!queues_->Has(queue)) return;
  // A driver that did not negotiate it must not use it (2.6.1.2), so nothing happens.
  if (!legacy_ && !acked_.Has(VirtioFeature::kRingReset)) return;
  const absl::Status status = queues_->StopQueue(queue);
  if (!status.ok()) Break(status);  // Which stops it for certain.
  queues_->ClearQueue(queue);
}

void VirtioDevice::ReadConfig(uint32_t offset, std::span<std::byte> to) const {
  std::fill(to.begin(), to.end(), std::byte{0});
  absl::MutexLock lock(&mutex_);
  const std::vector<std::byte> config = model_->config();
  if (offset >= config.size()) return;
  const size_t length = std::min(to.size(), config.size() - offset);
  std::copy_n(config.begin() + offset, length, to.begin());
}

void VirtioDevice::WriteConfig(uint32_t offset, std::span<const std::byte> from) {
  absl::MutexLock lock(&mutex_);
  if (offset > config_size_ || from.size() > config_size_ - offset) return;
  legacy_ ? model_->WriteLegacyConfig(offset, from) : model_->WriteConfig(offset, from);
}

uint32_t VirtioDevice::config_generation() const {
  absl::MutexLock lock(&mutex_);
  NoteConfig();  // The driver itself may have changed it, by way of a control queue.
  return config_generation_;
}

void VirtioDevice::NoteConfig() const {
  std::vector<std::byte> config = model_->config();
  if (config == noted_config_) return;
  noted_config_ = std::move(config);
  ++config_generation_;
}

int VirtioDevice::kick_fd(int queue) const {
  return queues_->Has(queue) ? queues_->kick_fd(queue) : -1;
}

int VirtioDevice::call_fd(int queue) const {
  return queues_->Has(queue) ? queues_->call_fd(queue) : -1;
}

bool VirtioDevice::ShareCallFd() {
  absl::MutexLock lock(&mutex_);
  return status_ == 0 && queues_->ShareCallFd();
}

void VirtioDevice::Notify(int queue) {
  if (queues_->Has(queue)) queues_->SignalKick(queue);
}

// ---- Activation in one step --------------------------------------------------------------------

absl::Status VirtioDevice::FillQueue(const QueueActivation& activation) {
  const int queue = activation.queue;
  if (!queues_->Has(queue)) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no queue ", queue, " (", queues_->count(), " queues)"));
  }
  if (queues_->enabled(queue)) {
    return absl::InvalidArgumentError(absl::StrCat("queue ", queue, " is given twice"));
  }
  VringSetup setup;
  if (const auto* host = std::get_if<HostVringSetup>(&activation.setup)) {
    const VringLayout layout =
        acked_.Has(VirtioFeature::kRingPacked) ? VringLayout::kPacked : VringLayout::kSplit;
    absl::StatusOr<Vring> vring =
        Vring::FromHost(host->size, host->desc, host->driver, host->device, layout, *memory_);
    if (!vring.ok()) return kernel_abi::AddContext(vring.status(), queues_->Label(queue));
    setup = vring->setup();
  } else {
    setup = std::get<VringSetup>(activation.setup);
  }
  queues_->SetSetup(queue, setup);
  queues_->SetBase(queue, activation.base);
  queues_->LendEventFds(queue, activation.kick_fd, activation.call_fd);
  queues_->SetEnabled(queue);
  return absl::OkStatus();
}

absl::Status VirtioDevice::Activate(const Activation& activation) {
  Lock lock(*this);
  if (status_ != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, ": is in use (status ", status_, "): deactivate or reset it first"));
  }
  absl::Status status;
  if (!offered_.Contains(activation.acked)) {
    status = absl::InvalidArgumentError(
        absl::StrCat("acked features that are not offered: ",
                     absl::StrJoin(FeatureNames(model_->id(), activation.acked - offered_), " ")));
  }
  if (status.ok()) status = model_->CheckFeatures(activation.acked);
  if (status.ok()) acked_ = activation.acked;
  for (const QueueActivation& queue : activation.queues) {
    if (status.ok()) status = FillQueue(queue);
  }
  if (status.ok()) status = Start();
  if (!status.ok()) {
    Reset();
    return kernel_abi::AddContext(status, name_);
  }
  status_ = status_bit::kAcknowledge | status_bit::kDriver | status_bit::kFeaturesOk |
            status_bit::kDriverOk;
  return absl::OkStatus();
}

std::vector<StoppedVring> VirtioDevice::Deactivate() {
  Lock lock(*this);
  return Reset();
}

absl::Status VirtioDevice::SetCall(int queue, int call_fd) {
  Lock lock(*this);
  if (!queues_->Has(queue)) {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": there is no queue ", queue));
  }
  return kernel_abi::AddContext(queues_->SetCall(queue, call_fd), name_);
}

// ---- Report ------------------------------------------------------------------------------------

DeviceReport VirtioDevice::Report() const {
  absl::MutexLock lock(&mutex_);
  DeviceReport report;
  report.name = name_;
  report.id = model_->id();
  report.transport = transport_;
  report.status = status_;
  report.problem = problem_;
  report.offered = legacy_ ? offered_to_legacy() : offered();
  report.acked = acked_;
  report.policy = Name(backends_.policy());
  report.backend = backends_.current().Report();
  report.refusals = backends_.refusals();
  report.paused = paused_;
  journal_.Describe(report);
  if (stalls_.has_value()) report.watchdog = stalls_->Report();
  report.vrings = queues_->Report(KnownFeatures(), *memory_);
  const std::span<const MemoryRegion> regions = memory_->merged();
  report.memory.assign(regions.begin(), regions.end());
  report.resets = resets_;
  report.starts = starts_;
  model_->Describe(report);
  return report;
}

}  // namespace vhost
