// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/top/sampler.h"

#include <poll.h>

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
  absl::StatusOr<kernel_abi::EventFd> changed =
      kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  if (!changed.ok()) return changed.status();
  std::unique_ptr<Sampler> sampler(
      new Sampler(invocation, interval, *std::move(ready), *std::move(changed)));
  sampler->thread_ = std::thread([raw = sampler.get()] { raw->Run(); });
  return sampler;
}

Sampler::~Sampler() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  changed_.Signal();
  thread_.join();
}

std::optional<Sample> Sampler::Take() {
  ready_.Drain();
  absl::MutexLock lock(&mutex_);
  return std::exchange(latest_, std::nullopt);
}

void Sampler::SetInterval(absl::Duration interval) {
  {
    absl::MutexLock lock(&mutex_);
    if (interval_ == interval) return;
    interval_ = interval;
  }
  changed_.Signal();
}

void Sampler::Run() {
  absl::Time last;
  do {
    Sample sample = TakeSample(invocation_);
    last = absl::Now();
    {
      absl::MutexLock lock(&mutex_);
      latest_ = std::move(sample);
    }
    ready_.Signal();
  } while (WaitSince(last));
}

bool Sampler::WaitSince(absl::Time last) {
  while (true) {
    absl::Time due;
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) return false;
      due = last + interval_;
    }
    const int64_t left_ms = absl::ToInt64Milliseconds(due - absl::Now());
    if (left_ms <= 0) return true;
    pollfd changed{changed_.get(), POLLIN, 0};
    if (poll(&changed, 1, static_cast<int>(left_ms)) > 0) changed_.Drain();
  }
}

}  // namespace vhost::ctl::top
