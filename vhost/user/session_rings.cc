// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The rings of a session: what the front end told of each, and when the backend runs it.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/system_error.h"
#include "vhost/user/discarded_ring.h"
#include "vhost/user/session.h"

namespace vhost::user {
namespace {

using enum FrontEndRequest;
using kernel_abi::UniqueFd;

// Whether `fd` can be signalled: the front end chose what is behind it. Writing into a file or a
// device that it may not write to itself is not for us to do.
absl::Status CheckSignal(const UniqueFd& fd) {
  struct stat what {};
  if (fstat(fd.get(), &what) != 0) {
    return kernel_abi::MakeSystemError({.error = errno, .subject = "eventfd", .call = "fstat"});
  }
  // An eventfd has no type of file. Pipes are what some use in its place.
  if ((what.st_mode & S_IFMT) == 0 || S_ISFIFO(what.st_mode)) return absl::OkStatus();
  return absl::InvalidArgumentError("came with an fd that is no eventfd");
}

// A full pipe, or an eventfd at its end, must not make a data thread wait for ever.
absl::Status NeverBlock(const UniqueFd& fd) {
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) != 0) return absl::OkStatus();
  if (flags >= 0 && fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) == 0) return absl::OkStatus();
  return kernel_abi::MakeSystemError({.error = errno, .subject = "eventfd", .call = "fcntl"});
}

absl::Status OfQueue(int queue, const absl::Status& status) {
  return kernel_abi::AddContext(status, absl::StrCat("queue ", queue));
}

}  // namespace

VringLayout Session::layout() const {
  return acked_.Has(VirtioFeature::kRingPacked) ? VringLayout::kPacked : VringLayout::kSplit;
}

absl::Status Session::CheckIndex(uint64_t index) const {
  if (index < rings_.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("queue ", index, " is not of the ", rings_.size(), " of this device"));
}

// ---- What is told of a ring --------------------------------------------------------------------

absl::Status Session::SetVringState(const Message& request) {
  const absl::StatusOr<VringState> state = GetPayload<VringState>(request);
  if (!state.ok()) return state.status();
  if (absl::Status status = CheckIndex(state->index); !status.ok()) return status;
  const int queue = static_cast<int>(state->index);
  Ring& ring = rings_[state->index];
  if (request.Is(kSetVringNum)) {
    if (state->num == 0 || state->num > kMaxQueueSize) {
      return OfQueue(queue, absl::InvalidArgumentError(absl::StrCat("a size of ", state->num)));
    }
    Halt(queue);
    ring.size = static_cast<uint16_t>(state->num);
  } else if (request.Is(kSetVringBase)) {
    if (layout() == VringLayout::kSplit && state->num > 0xffff) {
      return OfQueue(queue, absl::InvalidArgumentError(absl::StrCat("a base of ", state->num)));
    }
    Halt(queue);
    ring.base = state->num;
    // Some tell of a packed ring only where the driver is. Nothing is under way then, so the device
    // is there, too. (Whoever tells both never tells this: a used place of 0 with a cleared wrap
    // counter, and the driver elsewhere, takes buffers that were left behind.)
    if (layout() == VringLayout::kPacked && state->num <= 0xffff) {
      ring.base = state->num << 16 | state->num;
    }
    ring.base_was_set = true;
  } else {
    if (state->num > 1) {
      return OfQueue(queue, absl::InvalidArgumentError(
                                absl::StrCat(state->num, " is neither enabled nor disabled")));
    }
    ring.enabled = state->num == 1;
  }
  return Settle(queue);
}

absl::Status Session::SetAddress(const VringAddr& address) {
  if (absl::Status status = CheckIndex(address.index); !status.ok()) return status;
  const int queue = static_cast<int>(address.index);
  if (address.flags != 0) {
    return OfQueue(queue, absl::UnimplementedError("this back end keeps no log of what it writes"));
  }
  Halt(queue);
  rings_[address.index].address = address;
  return Settle(queue);
}

absl::Status Session::SetRingFd(Message& request) {
  const uint64_t number = GetU64(request).value_or(0);
  const uint64_t index = number & kVringFdIndexMask;
  if (absl::Status status = CheckIndex(index); !status.ok()) return status;
  const int queue = static_cast<int>(index);
  Ring& ring = rings_[index];
  UniqueFd fd;
  if (!request.fds.empty()) fd = std::move(request.fds.front());
  if (fd.valid()) {
    absl::Status status = CheckSignal(fd);
    if (status.ok()) status = NeverBlock(fd);
    if (!status.ok()) return OfQueue(queue, status);
  }
  if (request.Is(kSetVringErr)) {
    ring.err = std::move(fd);
    return absl::OkStatus();
  }
  if (request.Is(kSetVringCall)) {
    // The old one stays open until nobody signals it any more.
    absl::Status status;
    if (ring.is_running) status = device_.backend().SetCall(queue, fd.get());
    if (!status.ok()) return OfQueue(queue, status);
    if (ring.discarded != nullptr) ring.discarded->SetCall(fd.get());
    ring.call = std::move(fd);
    return absl::OkStatus();
  }
  if (!fd.valid()) {
    return OfQueue(queue, absl::UnimplementedError(
                              "without an fd for kicks it would have to be polled, which this back "
                              "end does not do"));
  }
  Halt(queue);
  ring.kick_watch.reset();
  ring.kick = std::move(fd);
  if (ring.is_started) return Settle(queue);
  absl::StatusOr<std::unique_ptr<Watch>> watch =
      loop_.WatchReadable(ring.kick.get(), [this, queue] { OnKick(queue); });
  if (!watch.ok()) {
    ring.kick.Reset();
    return OfQueue(queue, watch.status());
  }
  ring.kick_watch = *std::move(watch);
  return absl::OkStatus();
}

absl::StatusOr<VringState> Session::GetVringBase(const VringState& state) {
  if (absl::Status status = CheckIndex(state.index); !status.ok()) return status;
  Ring& ring = rings_[state.index];
  Halt(static_cast<int>(state.index));
  ring.is_started = false;
  // Its count is still there, and would start the ring again at once.
  ring.kick_watch.reset();
  ring.kick.Reset();
  return VringState{.index = state.index, .num = ring.base.value_or(InitialBase(layout()))};
}

void Session::ResetRings() {
  HaltAll();
  status_ = 0;
  for (Ring& ring : rings_) {
    ring.is_started = false;
    ring.kick_watch.reset();
    ring.kick.Reset();
    ring.base.reset();
  }
  device_.DriverIsNew();
}

// ---- Running -----------------------------------------------------------------------------------

void Session::OnKick(int queue) {
  Ring& ring = rings_[static_cast<size_t>(queue)];
  // The kick stays in the eventfd, for whoever serves the ring.
  ring.kick_watch.reset();
  ring.is_started = true;
  if (absl::Status status = Settle(queue); !status.ok()) on_failure_(status);
}

void Session::OnRingError(int queue) {
  Ring& ring = rings_[static_cast<size_t>(queue)];
  kernel_abi::EventFd::DrainEventFd(kernel_, device_.backend().error_fd(queue));
  device_.backend().CountError(queue);
  if (ring.err.valid()) kernel_abi::EventFd::SignalEventFd(kernel_, ring.err.get());
}

absl::Status Session::Settle(int queue) {
  Ring& ring = rings_[static_cast<size_t>(queue)];
  const bool can_run = ring.is_started && ring.size != 0 && ring.address.has_value() &&
                       memory_.size() != 0 && device_.is_served(queue);
  const bool runs = can_run && IsEnabled(ring);
  const bool discards = can_run && !runs && device_.is_discarded_when_disabled(queue);
  if (runs == ring.is_running && discards == (ring.discarded != nullptr)) return absl::OkStatus();
  Halt(queue);
  if (runs) return OfQueue(queue, Run(queue));
  if (!discards) return absl::OkStatus();
  const absl::StatusOr<BackendVring> vring = Locate(queue);
  if (!vring.ok()) return OfQueue(queue, vring.status());
  absl::StatusOr<std::unique_ptr<DiscardedRing>> discarded =
      DiscardedRing::Create(kernel_, loop_, *vring, acked_, memory_.table());
  if (!discarded.ok()) return OfQueue(queue, discarded.status());
  ring.discarded = *std::move(discarded);
  return absl::OkStatus();
}

absl::Status Session::SettleAll() {
  absl::Status status;
  for (size_t queue = 0; queue < rings_.size(); ++queue) {
    status.Update(Settle(static_cast<int>(queue)));
  }
  return status;
}

absl::StatusOr<BackendVring> Session::Locate(int queue) const {
  const Ring& ring = rings_[static_cast<size_t>(queue)];
  const VringBytes bytes = BytesOf(layout(), ring.size);
  const absl::StatusOr<std::byte*> desc = memory_.Translate(ring.address->desc, bytes.desc);
  if (!desc.ok()) return kernel_abi::AddContext(desc.status(), "descriptors");
  const absl::StatusOr<std::byte*> avail = memory_.Translate(ring.address->avail, bytes.driver);
  if (!avail.ok()) return kernel_abi::AddContext(avail.status(), "available ring");
  const absl::StatusOr<std::byte*> used = memory_.Translate(ring.address->used, bytes.device);
  if (!used.ok()) return kernel_abi::AddContext(used.status(), "used ring");
  absl::StatusOr<Vring> vring =
      Vring::FromHost(ring.size, *desc, *avail, *used, layout(), *memory_.table());
  if (!vring.ok()) return vring.status();
  return BackendVring{.queue = queue,
                      .vring = *vring,
                      .base = ring.base.value_or(InitialBase(layout())),
                      .kick_fd = ring.kick.get(),
                      .call_fd = ring.call.get()};
}

bool Session::AllBeginAnew() const {
  return std::ranges::all_of(rings_, [this](const Ring& ring) {
    const bool is_known = ring.size != 0 && ring.address.has_value();
    return !is_known || (ring.base_was_set && ring.base == InitialBase(layout())) ||
           !ring.base.has_value();
  });
}

absl::Status Session::Run(int queue) {
  Ring& ring = rings_[static_cast<size_t>(queue)];
  absl::StatusOr<BackendVring> vring = Locate(queue);
  if (!vring.ok()) return vring.status();
  Backend& backend = device_.backend();
  if (!is_backend_running_) {
    if (AllBeginAnew()) device_.DriverIsNew();
    if (absl::Status status = device_.Prepare(acked_); !status.ok()) return status;
  }
  if (absl::Status status = device_.QueueStarts(queue); !status.ok()) return status;
  absl::Status status;
  if (is_backend_running_) {
    status = backend.StartVring(*vring);
  } else {
    status = backend.Start({.acked = acked_, .memory = memory_.table(), .vrings = {*vring}});
    is_backend_running_ = status.ok();
  }
  if (!status.ok()) {
    device_.QueueStopped(queue);
    return status;
  }
  ring.is_running = true;
  ring.base_was_set = false;
  if (const int fd = backend.error_fd(queue); fd >= 0) {
    absl::StatusOr<std::unique_ptr<Watch>> watch =
        loop_.WatchReadable(fd, [this, queue] { OnRingError(queue); });
    // It runs without: errors are for people.
    if (watch.ok()) ring.error_watch = *std::move(watch);
  }
  return absl::OkStatus();
}

void Session::Halt(int queue) {
  Ring& ring = rings_[static_cast<size_t>(queue)];
  if (ring.discarded != nullptr) {
    ring.base = ring.discarded->base();
    ring.discarded.reset();
  }
  if (!ring.is_running) return;
  ring.error_watch.reset();
  Backend& backend = device_.backend();
  const absl::StatusOr<VringBase> base = backend.StopVring(queue);
  if (base.ok()) ring.base = *base;
  ring.is_running = false;
  const bool is_last = std::ranges::none_of(rings_, &Ring::is_running);
  if (is_last) {
    backend.Stop();
    is_backend_running_ = false;
  }
  device_.QueueStopped(queue);
}

void Session::HaltAll() {
  for (size_t queue = 0; queue < rings_.size(); ++queue) Halt(static_cast<int>(queue));
}

absl::Status Session::UseMemory(SharedMemory memory) {
  // The mappings of a table differ from those of the one before it, though the memory be the same.
  // So the rings move, which takes a stop; and after it nobody uses what is unmapped here.
  HaltAll();
  memory_ = std::move(memory);
  return SettleAll();
}

}  // namespace vhost::user
