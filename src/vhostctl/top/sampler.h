// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Samples at an interval, taken on a thread of its own: a process that does not answer for seconds
// must not keep `top` from its keys.
#pragma once

#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernel-abi/event_fd.h"
#include "src/vhostctl/top/board.h"
#include "src/vhostctl/verb.h"

namespace vhost::ctl::top {

Sample TakeSample(const Invocation& invocation);

class Sampler {
 public:
  // `invocation` must outlive it.
  static absl::StatusOr<std::unique_ptr<Sampler>> Start(const Invocation& invocation,
                                                        absl::Duration interval);
  // Waits for a sample that is being taken, up to kAnswerTimeout.
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // Readable when there is a new sample.
  int fd() const { return ready_.get(); }
  // The latest, once.
  std::optional<Sample> Take() ABSL_LOCKS_EXCLUDED(mutex_);
  void SetInterval(absl::Duration interval) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Sampler(const Invocation& invocation, absl::Duration interval, kernel_abi::EventFd ready,
          kernel_abi::EventFd changed)
      : invocation_(invocation),
        ready_(std::move(ready)),
        changed_(std::move(changed)),
        interval_(interval) {}
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  // Until the next sample is due. False: there is to be none.
  bool WaitSince(absl::Time last) ABSL_LOCKS_EXCLUDED(mutex_);

  const Invocation& invocation_;
  const kernel_abi::EventFd ready_;
  const kernel_abi::EventFd changed_;  // the interval, or `stop_`
  absl::Mutex mutex_;
  absl::Duration interval_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Sample> latest_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace vhost::ctl::top
