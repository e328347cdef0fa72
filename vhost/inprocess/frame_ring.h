// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The I/O engine that does a burst of frames in one system call: io_uring on one queue of a TAP,
// which is registered with it. The other engine is no object at all: a read(2) or write(2) a frame.
//
//     ring.AddWrite(pieces); ring.AddWrite(...); ...
//     for (int result : ring.Run()) ...        // bytes, or minus errno; kNotTried
//
// Nothing is under way when Run() returns: nothing may wait (RWF_NOWAIT), so each is done, or is
// refused, within the system call, and Run() waits for all. So guest memory is in use by the kernel
// within Run() alone, as within write(2), and no stop and no change of memory has to wait for it.
//
// Thread safety: one thread at a time, which may be another each time.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"

struct io_uring;
struct io_uring_sqe;

namespace vhost::inprocess {

// How frames get into the TAP and out of it.
enum class IoEngine : uint8_t {
  // kSyscall: a frame takes io_uring more, since a system call is dear only beside what a TAP does
  // with a frame, and it is not. In instructions, out of a burst: a fifth to a quarter more out, a
  // tenth more in, the same for 64 KiB (bench_inprocess_net --only engines; docs/performance.md).
  kAuto,
  kSyscall,
  kIoUring,  // where the kernel lets us, else kSyscall, and the report says why
};
inline const char* Name(IoEngine engine) {
  switch (engine) {
    case IoEngine::kAuto:
      return "auto";
    case IoEngine::kSyscall:
      return "syscall";
    case IoEngine::kIoUring:
      return "io_uring";
  }
  return "unknown";
}

class FrameRing {
 public:
  static constexpr size_t kMaxBatch = 32;
  // The result of a write behind one that failed.
  static constexpr int kNotTried = -ECANCELED;

  // `fd` is lent; the ring holds the file until it goes. UNIMPLEMENTED (ENOSYS; EOPNOTSUPP: a TAP
  // of an old kernel), PERMISSION_DENIED (a sysctl, seccomp) or another answer: no io_uring.
  static absl::StatusOr<std::unique_ptr<FrameRing>> Create(kernel_abi::Kernel& kernel, int fd);
  ~FrameRing();
  FrameRing(const FrameRing&) = delete;
  FrameRing& operator=(const FrameRing&) = delete;

  // Queue one frame; at most kMaxBatch between two Runs, all of them writes or all reads. The
  // pieces must stay as they are until Run() returns.
  void AddWrite(std::span<const iovec> pieces);
  void AddRead(std::span<const iovec> pieces);
  size_t queued() const { return queued_; }

  // Does what was queued, in that order. Writes end with the first that fails: what is behind it
  // must not overtake it, and is kNotTried. Reads go on, so that a frame may come behind a read
  // that found none. The results are good until the next Add.
  std::span<const int> Run();

  // OK until the kernel refuses to run it, from where on all is kNotTried: system calls go on.
  const absl::Status& broken() const { return broken_; }

 private:
  explicit FrameRing(std::unique_ptr<io_uring> ring);
  void Add(bool write, std::span<const iovec> pieces);
  // How many of those submitted are done.
  size_t Reap();

  std::unique_ptr<io_uring> ring_;
  io_uring_sqe* last_ = nullptr;  // of those that are queued
  bool registered_ = false;
  size_t queued_ = 0;
  std::array<int, kMaxBatch> results_{};
  absl::Status broken_;
};

}  // namespace vhost::inprocess
