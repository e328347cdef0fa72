// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A virtio device without a backend, for tests of transports: it keeps what the driver wrote, has
// real eventfds, and signals its call eventfds when the test says that buffers were used.
//
// Thread safety: any thread, as vhost::Device wants it.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "vhost/device/device.h"

namespace fakes {

class FakeDevice final : public vhost::Device {
 public:
  static constexpr uint16_t kMaxSize = 256;

  explicit FakeDevice(kernel_abi::Kernel& kernel, int queues = 3) : kernel_(kernel) {
    for (int i = 0; i < queues; ++i) {
      queues_.push_back(std::make_unique<Queue>(*kernel_abi::EventFd::Create(kernel),
                                                *kernel_abi::EventFd::Create(kernel)));
    }
    config_.resize(24);
    for (size_t i = 0; i < config_.size(); ++i) config_[i] = static_cast<std::byte>(i + 1);
  }

  // ---- What the test does and sees ----
  // Whoever serves the ring has used buffers.
  void UseBuffers(int queue) { kernel_abi::EventFd::SignalEventFd(kernel_, call_fd(queue)); }
  void ChangeConfig() {
    absl::MutexLock lock(&mutex_);
    ++generation_;
    if (interrupter_ != nullptr) interrupter_->ConfigChanged();
  }
  bool Kicked(int queue) { return queues_[static_cast<size_t>(queue)]->kick.Drain(); }
  void set_can_share(bool can) { can_share_ = can; }
  // The status that was written by a legacy interface, and not the other.
  bool is_legacy() const { return legacy_; }
  void set_device_id(vhost::DeviceId id) { id_ = id; }
  void set_offered(vhost::VirtioFeatures offered) { offered_ = offered; }
  int resets() const { return resets_; }
  const std::vector<std::byte>& config() const { return config_; }
  const std::string& transport() const { return transport_; }
  vhost::Interrupter* interrupter() const { return interrupter_; }

  // ---- vhost::Device ----
  const std::string& name() const override { return name_; }
  vhost::DeviceId device_id() const override { return id_; }
  void SetInterrupter(vhost::Interrupter* interrupter, std::string transport) override {
    absl::MutexLock lock(&mutex_);
    interrupter_ = interrupter;
    transport_ = std::move(transport);
  }
  vhost::VirtioFeatures offered() const override { return offered_; }
  vhost::VirtioFeatures offered_to_legacy() const override {
    return offered_ & vhost::VirtioFeatures::FromWords(0xffff'ffff);
  }
  vhost::VirtioFeatures acked() const override {
    absl::MutexLock lock(&mutex_);
    return acked_;
  }
  void WriteDriverFeatures(uint32_t word, uint32_t bits) override {
    absl::MutexLock lock(&mutex_);
    uint64_t words[2] = {acked_.low(), acked_.high()};
    uint64_t& half = words[word / 2];
    const unsigned shift = 32 * (word % 2);
    half = (half & ~(uint64_t{0xffffffff} << shift)) | uint64_t{bits} << shift;
    acked_ = vhost::VirtioFeatures::FromWords(words[0], words[1]);
  }
  uint8_t status() const override {
    absl::MutexLock lock(&mutex_);
    return status_;
  }
  void WriteStatus(uint8_t status) override {
    absl::MutexLock lock(&mutex_);
    SetStatus(status);
    legacy_ = false;
  }
  void WriteLegacyStatus(uint8_t status) override {
    absl::MutexLock lock(&mutex_);
    SetStatus(status);
    legacy_ = status != 0;
  }
  int queue_count() const override { return static_cast<int>(queues_.size()); }
  uint16_t queue_max_size(int queue) const override { return Has(queue) ? kMaxSize : 0; }
  vhost::VringSetup queue_setup(int queue) const override {
    absl::MutexLock lock(&mutex_);
    return Has(queue) ? At(queue).setup : vhost::VringSetup{};
  }
  void WriteQueueSetup(int queue, const vhost::VringSetup& setup) override {
    absl::MutexLock lock(&mutex_);
    if (Has(queue) && !At(queue).enabled) At(queue).setup = setup;
  }
  bool queue_enabled(int queue) const override {
    absl::MutexLock lock(&mutex_);
    return Has(queue) && At(queue).enabled;
  }
  void EnableQueue(int queue) override {
    absl::MutexLock lock(&mutex_);
    if (Has(queue)) At(queue).enabled = true;
  }
  void ResetQueue(int queue) override {
    absl::MutexLock lock(&mutex_);
    Clear(queue);
  }
  void ReadConfig(uint32_t offset, std::span<std::byte> to) const override {
    absl::MutexLock lock(&mutex_);
    std::ranges::fill(to, std::byte{0});
    for (size_t i = 0; i < to.size() && offset + i < config_.size(); ++i) {
      to[i] = config_[offset + i];
    }
  }
  void WriteConfig(uint32_t offset, std::span<const std::byte> from) override {
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < from.size() && offset + i < config_.size(); ++i) {
      config_[offset + i] = from[i];
    }
  }
  uint32_t config_size() const override { return static_cast<uint32_t>(config_.size()); }
  uint32_t config_generation() const override {
    absl::MutexLock lock(&mutex_);
    return generation_;
  }
  int kick_fd(int queue) const override { return Has(queue) ? At(queue).kick.get() : -1; }
  int call_fd(int queue) const override {
    return Has(queue) ? At(shared_ ? 0 : queue).call.get() : -1;
  }
  bool ShareCallFd() override { return shared_ = can_share_; }
  void Notify(int queue) override {
    if (Has(queue)) At(queue).kick.Signal();
  }
  vhost::DeviceReport Report() const override {
    absl::MutexLock lock(&mutex_);
    vhost::DeviceReport report;
    report.name = name_;
    report.transport = transport_;
    report.status = status_;
    return report;
  }

 private:
  void SetStatus(uint8_t status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    status_ = status;
    if (status != 0) return;
    ++resets_;
    acked_ = {};
    for (int queue = 0; queue < queue_count(); ++queue) Clear(queue);
  }
  struct Queue {
    Queue(kernel_abi::EventFd kick_event, kernel_abi::EventFd call_event)
        : kick(std::move(kick_event)), call(std::move(call_event)) {}
    kernel_abi::EventFd kick;
    kernel_abi::EventFd call;
    vhost::VringSetup setup{.size = kMaxSize};
    bool enabled = false;
  };
  void Clear(int queue) {
    if (!Has(queue)) return;
    At(queue).enabled = false;
    At(queue).setup = {.size = kMaxSize};
  }
  bool Has(int queue) const { return queue >= 0 && queue < queue_count(); }
  Queue& At(int queue) const { return *queues_[static_cast<size_t>(queue)]; }

  kernel_abi::Kernel& kernel_;
  mutable absl::Mutex mutex_;
  const std::string name_ = "net0";
  std::string transport_;
  vhost::Interrupter* interrupter_ = nullptr;
  vhost::VirtioFeatures offered_ =
      vhost::VirtioFeatures::FromWords(uint64_t{1} << 32 | uint64_t{1} << 40 | 0x8020, 0x5);
  vhost::VirtioFeatures acked_;
  uint8_t status_ = 0;
  uint32_t generation_ = 0;
  int resets_ = 0;
  vhost::DeviceId id_ = vhost::DeviceId::kNet;
  bool legacy_ = false;
  bool can_share_ = true;
  bool shared_ = false;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::vector<std::byte> config_;
};

}  // namespace fakes
