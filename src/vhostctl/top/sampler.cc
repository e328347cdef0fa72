// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/top/sampler.h"

#include <chrono>
#include <set>
#include <utility>

#include "absl/time/clock.h"
#include "kernel-abi/kernel.h"

namespace vhost::ctl::top {

Sample TakeSample(const Invocation& invocation) {
  Sample sample;
  sample.gathered = Gather(invocation);
  sample.when = absl::Now();
  // Who names a socket or a folder of sockets asks for those.
  if (!invocation.socket.empty() || !invocation.directory.empty()) return sample;
  std::set<pid_t> known;
  for (const ProcessReports& process : sample.gathered.processes) {
    known.insert(process.process.pid);
  }
  sample.foreign = FindForeign(known);
  sample.foreign_when = std::chrono::steady_clock::now();
  return sample;
}

absl::StatusOr<std::unique_ptr<Sampler>> Sampler::Start(const Invocation& invocation,
                                                        absl::Duration interval) {
  absl::StatusOr<kernel_abi::EventFd> ready =
      kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  if (!ready.ok()) return ready.status();
  std::unique_ptr<Sampler> sampler(new Sampler(invocation, interval, *std::move(ready)));
  sampler->thread_ = std::thread([raw = sampler.get()] { raw->Run(); });
  return sampler;
}

Sampler::~Sampler() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

std::optional<Sample> Sampler::Take() {
  ready_.Drain();
  absl::MutexLock lock(&mutex_);
  return std::exchange(latest_, std::nullopt);
}

void Sampler::SetInterval(absl::Duration interval) {
  absl::MutexLock lock(&mutex_);
  if (interval_ == interval) return;
  interval_ = interval;
  interval_changed_ = true;
}

void Sampler::Run() {
  while (true) {
    Sample sample = TakeSample(invocation_);
    const absl::Time taken = absl::Now();
    absl::MutexLock lock(&mutex_);
    latest_ = std::move(sample);
    ready_.Signal();
    do {
      interval_changed_ = false;
      const auto is_over = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return stop_ || interval_changed_;
      };
      mutex_.AwaitWithDeadline(absl::Condition(&is_over), taken + interval_);
    } while (!stop_ && interval_changed_);
    if (stop_) return;
  }
}

}  // namespace vhost::ctl::top
