// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/frame_ring.h"

#include <liburing.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "absl/memory/memory.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"

namespace vhost::inprocess {
namespace {

// Of one piece, which a driver may make as long as it likes; no frame comes near it.
constexpr size_t kMostBytes = 1 << 20;

absl::Status Refused(int error, const char* call, const char* advice) {
  return kernel_abi::MakeSystemError({.error = error, .subject = "io_uring", .call = call}, advice);
}

const char* Advice(int error) {
  switch (error) {
    case ENOSYS:
      return "this kernel has none, or a seccomp filter hides it";
    case EPERM:
    case EACCES:
      return "allow it: sysctl kernel.io_uring_disabled=0, the seccomp filter, the LSM";
    case EOPNOTSUPP:
      return "this kernel does not try a TAP without waiting for it; later ones do";
    default:
      return "";
  }
}

}  // namespace

FrameRing::FrameRing(std::unique_ptr<io_uring> ring) : ring_(std::move(ring)) {}

FrameRing::~FrameRing() {
  // A ring is taken down by the kernel some time after it was closed, and would hold the TAP's
  // queue until then.
  if (registered_) io_uring_unregister_files(ring_.get());
  io_uring_queue_exit(ring_.get());
}

absl::StatusOr<std::unique_ptr<FrameRing>> FrameRing::Create(kernel_abi::Kernel& kernel, int fd) {
  io_uring_params params{};
  // What the kernel cannot prepare ends its chain; without this, it would also leave the rest with
  // us, to be submitted as another one.
  params.flags = IORING_SETUP_SUBMIT_ALL;
  const int setup = kernel.IoUringSetup(kMaxBatch, params);
  if (setup < 0) return Refused(-setup, "io_uring_setup", Advice(-setup));
  kernel_abi::UniqueFd ring_fd(setup);
  auto mapped = std::make_unique<io_uring>();
  if (const int error = io_uring_queue_mmap(ring_fd.get(), &params, mapped.get()); error < 0) {
    return Refused(-error, "mmap", Advice(-error));
  }
  static_cast<void>(ring_fd.Release());  // io_uring_queue_exit closes it.
  // liburing 2.3 leaves this to io_uring_queue_init, which makes the system call itself.
  for (unsigned i = 0; i < params.sq_entries; ++i) mapped->sq.array[i] = i;
  auto ring = absl::WrapUnique(new FrameRing(std::move(mapped)));
  if (const int error = io_uring_register_files(ring->ring_.get(), &fd, 1); error < 0) {
    return Refused(-error, "io_uring_register", Advice(-error));
  }
  ring->registered_ = true;
  // A filter may let all pass but what it is for, and a TAP may not know RWF_NOWAIT. To read
  // nothing takes nothing from a TAP.
  char byte;
  const iovec nothing{&byte, 0};
  ring->AddRead({&nothing, 1});
  const int result = ring->Run()[0];
  if (!ring->broken_.ok()) return ring->broken_;
  if (result == -EOPNOTSUPP) return Refused(-result, "read", Advice(-result));
  return ring;
}

void FrameRing::Add(bool write, std::span<const iovec> pieces) {
  if (queued_ == kMaxBatch) return;  // The caller's mistake; there is no entry more.
  if (!broken_.ok()) {
    ++queued_;
    return;
  }
  io_uring_sqe* entry = io_uring_get_sqe(ring_.get());
  constexpr int kRegistered = 0;  // the index of the TAP's file
  if (pieces.size() == 1) {
    const auto bytes = static_cast<unsigned>(std::min(pieces[0].iov_len, kMostBytes));
    if (write) {
      io_uring_prep_write(entry, kRegistered, pieces[0].iov_base, bytes, 0);
    } else {
      io_uring_prep_read(entry, kRegistered, pieces[0].iov_base, bytes, 0);
    }
  } else {
    const auto count = static_cast<unsigned>(pieces.size());
    if (write) {
      io_uring_prep_writev(entry, kRegistered, pieces.data(), count, 0);
    } else {
      io_uring_prep_readv(entry, kRegistered, pieces.data(), count, 0);
    }
  }
  // O_NONBLOCK is not enough: io_uring waits all the same, by polling.
  entry->rw_flags = RWF_NOWAIT;
  // Reads are not linked: one that is shorter than its buffer, as all are, would end them.
  io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE | (write ? IOSQE_IO_LINK : 0U));
  io_uring_sqe_set_data64(entry, queued_++);
  last_ = entry;
}

void FrameRing::AddWrite(std::span<const iovec> pieces) { Add(true, pieces); }
void FrameRing::AddRead(std::span<const iovec> pieces) { Add(false, pieces); }

size_t FrameRing::Reap() {
  unsigned head;
  unsigned count = 0;
  const io_uring_cqe* done;
  io_uring_for_each_cqe(ring_.get(), head, done) {
    if (done->user_data < queued_) results_[done->user_data] = done->res;
    ++count;
  }
  io_uring_cq_advance(ring_.get(), count);
  return count;
}

std::span<const int> FrameRing::Run() {
  const size_t count = queued_;
  const auto results = std::span<const int>(results_).first(count);
  std::fill_n(results_.begin(), count, kNotTried);
  if (!broken_.ok() || count == 0) {
    queued_ = 0;
    return results;
  }
  // A chain that does not end would be left to a worker thread of the kernel's.
  last_->flags &= static_cast<uint8_t>(~IOSQE_IO_LINK);
  size_t reaped = 0;
  while (reaped < count) {
    const size_t missing = count - reaped;
    const int submitted = io_uring_submit_and_wait(ring_.get(), static_cast<unsigned>(missing));
    reaped += Reap();
    if (submitted >= 0 || submitted == -EINTR) continue;
    if (broken_.ok()) broken_ = Refused(-submitted, "io_uring_enter", Advice(-submitted));
    // What the kernel has not taken it never will: the ring is not used any more. What it has
    // taken must be waited for.
    if (reaped + io_uring_sq_ready(ring_.get()) >= count) break;
  }
  queued_ = 0;
  return results;
}

}  // namespace vhost::inprocess
