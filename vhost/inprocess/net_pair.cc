// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/net_pair.h"

#include <poll.h>
#include <sys/epoll.h>

#include <chrono>
#include <new>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost::inprocess {
namespace {

// Kicks are never read: each wakes anew.
constexpr uint32_t kKickInterest = EPOLLIN | EPOLLET;
// How often a TAP is looked after while it is not watched for being readable.
constexpr std::chrono::milliseconds kLookAfterTap(1000);

// Each pair of a thread says anew that it is there, and changes nothing.
static_assert(std::is_trivially_default_constructible_v<NetScratch> &&
              std::is_trivially_destructible_v<NetScratch>);
static_assert(sizeof(NetScratch) <= DataThread::kScratchBytes);

}  // namespace

NetPair::NetPair(DataThread& thread, int tap_fd, std::unique_ptr<FrameRing> ring,
                 kernel_abi::EventFd rx_error, kernel_abi::EventFd tx_error)
    : thread_(thread),
      tap_fd_(tap_fd),
      ring_(std::move(ring)),
      rx_(std::move(rx_error)),
      tx_(std::move(tx_error)),
      scratch_(*new (thread.scratch().data()) NetScratch) {}

NetPair::~NetPair() {
  thread_.Call([this] {
    if (receive_ != nullptr) StopReceive();
    if (transmit_ != nullptr) StopTransmit();
  });
}

const Virtqueue* NetPair::queue(bool transmit) const {
  if (transmit) return transmit_ != nullptr ? &transmit_->queue() : nullptr;
  return receive_ != nullptr ? &receive_->queue() : nullptr;
}

// ---- Starting and stopping ---------------------------------------------------------------------

absl::Status NetPair::Join(Direction& direction, const BackendVring& vring, Token token) {
  if (receive_ == nullptr && transmit_ == nullptr) {
    thread_.Add(*this);
    interest_ = EPOLLIN | EPOLLET;
    if (absl::Status status = thread_.Watch(*this, tap_fd_, interest_, kTap); !status.ok()) {
      thread_.Remove(*this);
      return status;
    }
  }
  if (absl::Status status = thread_.Watch(*this, vring.kick_fd, kKickInterest, token);
      !status.ok()) {
    if (receive_ == nullptr && transmit_ == nullptr) thread_.Remove(*this);
    return status;
  }
  direction.kick_fd = vring.kick_fd;
  direction.call_fd = vring.call_fd;
  direction.kicks_on = true;
  direction.failed = false;
  direction.problem.clear();
  thread_.Wake(*this);
  return absl::OkStatus();
}

void NetPair::Leave(Direction& direction) {
  if (receive_ == nullptr && transmit_ == nullptr) {
    thread_.Remove(*this);
  } else {
    thread_.Unwatch(*this, direction.kick_fd);
  }
  direction.kick_fd = direction.call_fd = -1;
}

absl::Status NetPair::StartReceive(const BackendVring& vring, std::unique_ptr<Virtqueue> queue,
                                   const ReceiveQueue::Options& options) {
  absl::Status status = Join(rx_, vring, kReceiveKick);
  if (!status.ok()) return status;
  receive_ = std::make_unique<ReceiveQueue>(std::move(queue), options, scratch_, rx_.counters);
  receive_->queue().SignalAlways();
  readable_ = true;
  starved_ = false;
  return absl::OkStatus();
}

absl::Status NetPair::StartTransmit(const BackendVring& vring, std::unique_ptr<Virtqueue> queue,
                                    const TransmitQueue::Options& options) {
  absl::Status status = Join(tx_, vring, kTransmitKick);
  if (!status.ok()) return status;
  transmit_ = std::make_unique<TransmitQueue>(std::move(queue), options, scratch_, tx_.counters);
  transmit_->queue().SignalAlways();
  blocked_ = false;
  return absl::OkStatus();
}

VringBase NetPair::StopReceive() {
  receive_->PutBackUnused();
  // What was returned and not told of yet; also so that nobody waits for it for ever.
  if (receive_->queue().SignalUsed()) ++rx_.counters.calls;
  const VringBase base = receive_->queue().base();
  receive_.reset();
  Leave(rx_);
  return base;
}

VringBase NetPair::StopTransmit() {
  transmit_->PutBackUnsent();
  if (transmit_->queue().SignalUsed()) ++tx_.counters.calls;
  const VringBase base = transmit_->queue().base();
  transmit_.reset();
  Leave(tx_);
  return base;
}

void NetPair::SetMemory(const std::shared_ptr<const MemoryTable>& memory) {
  // No chain may be held through a change.
  if (receive_ != nullptr) {
    receive_->PutBackUnused();
    receive_->queue().SetMemory(memory);
    readable_ = true;
  }
  if (transmit_ != nullptr) {
    transmit_->PutBackUnsent();
    transmit_->queue().SetMemory(memory);
  }
  if (receive_ != nullptr || transmit_ != nullptr) thread_.Wake(*this);
}

void NetPair::SetCall(bool transmit, int call_fd) {
  Virtqueue* queue = const_cast<Virtqueue*>(this->queue(transmit));
  if (queue == nullptr) return;
  queue->SetCall(call_fd);
  direction(transmit).call_fd = call_fd;
}

// ---- Serving -----------------------------------------------------------------------------------

void NetPair::OnReady(uint32_t token, uint32_t events) {
  switch (token) {
    case kReceiveKick:
      ++rx_.counters.kicks;
      return;
    case kTransmitKick:
      ++tx_.counters.kicks;
      return;
    default:
      break;
  }
  // A TAP is in error when its interface is gone or the queue was detached.
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) FailTap(0);
  if ((events & EPOLLIN) != 0) readable_ = true;
  if ((events & EPOLLOUT) != 0) blocked_ = false;
}

bool NetPair::Poll() {
  bool worked = false;
  if (transmit_ != nullptr && !tx_.failed && !blocked_) worked |= PollTransmit();
  if (receive_ != nullptr && !rx_.failed && readable_) worked |= PollReceive();
  return worked;
}

bool NetPair::PollTransmit() {
  if (std::exchange(tx_.kicks_on, false)) transmit_->queue().DisableKicks();
  switch (transmit_->Burst()) {
    case TransmitQueue::Outcome::kIdle:
      return false;
    case TransmitQueue::Outcome::kWorked:
      return true;
    case TransmitQueue::Outcome::kBlocked:
      blocked_ = true;
      UpdateTapInterest(/*look_anew=*/true);
      return true;
    case TransmitQueue::Outcome::kBroken:
      Fail(tx_, std::string(transmit_->queue().broken().message()));
      return true;
    case TransmitQueue::Outcome::kTapGone:
      FailTap(transmit_->tap_error());
      return true;
  }
  return false;
}

bool NetPair::PollReceive() {
  if (starved_) {
    if (!receive_->HasBuffers()) {
      if (!receive_->queue().broken().ok()) {
        Fail(rx_, std::string(receive_->queue().broken().message()));
      }
      return false;
    }
    starved_ = false;
    // While we did not watch it, more may have come.
    UpdateTapInterest(/*look_anew=*/false);
  }
  if (std::exchange(rx_.kicks_on, false)) receive_->queue().DisableKicks();
  switch (receive_->Burst()) {
    case ReceiveQueue::Outcome::kIdle:
      readable_ = false;
      return false;
    case ReceiveQueue::Outcome::kWorked:
      return true;
    case ReceiveQueue::Outcome::kStarved:
      starved_ = true;
      return false;
    case ReceiveQueue::Outcome::kBroken:
      Fail(rx_, std::string(receive_->queue().broken().message()));
      return true;
    case ReceiveQueue::Outcome::kTapGone:
      FailTap(receive_->tap_error());
      return true;
  }
  return false;
}

bool NetPair::Arm() {
  bool more = false;
  if (transmit_ != nullptr && !tx_.failed && !blocked_) {
    tx_.kicks_on = true;
    more |= transmit_->queue().EnableKicks();
  }
  if (receive_ != nullptr && !rx_.failed && starved_) {
    rx_.kicks_on = true;
    more |= receive_->queue().EnableKicks();
    if (!more) {
      // Frames that arrive now are not to wake us each. Nor would the TAP's end: it is looked for.
      UpdateTapInterest(/*look_anew=*/false);
      thread_.SetTimer(*this, DataThread::Clock::now() + kLookAfterTap);
    }
  }
  return more;
}

void NetPair::OnTimer() {
  pollfd tap{.fd = tap_fd_, .events = 0, .revents = 0};
  if (::poll(&tap, 1, 0) == 1 && (tap.revents & (POLLERR | POLLHUP)) != 0) FailTap(0);
}

void NetPair::UpdateTapInterest(bool look_anew) {
  uint32_t interest = EPOLLET;
  if (receive_ != nullptr && !rx_.failed && !starved_) interest |= EPOLLIN;
  if (transmit_ != nullptr && !tx_.failed && blocked_) interest |= EPOLLOUT;
  if (interest == interest_ && !look_anew) return;
  interest_ = interest;
  // Changing the interest of an fd that is watched does not fail.
  thread_.SetInterest(*this, tap_fd_, interest).IgnoreError();
}

void NetPair::Fail(Direction& direction, std::string problem) {
  if (std::exchange(direction.failed, true)) return;
  direction.problem = std::move(problem);
  direction.error.Signal();
}

void NetPair::FailTap(int error) {
  std::string problem = "the TAP is gone: its interface was removed, or its queue detached";
  if (error != 0) absl::StrAppend(&problem, " (", kernel_abi::ErrnoText(error), ")");
  if (receive_ != nullptr) Fail(rx_, problem);
  if (transmit_ != nullptr) Fail(tx_, std::move(problem));
}

}  // namespace vhost::inprocess
