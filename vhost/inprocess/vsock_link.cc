// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_link.h"

#include <limits.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace vhost::inprocess {
namespace {

using State = VsockConnection::State;

constexpr uint32_t kShutdownBoth =
    kernel_abi::kVsockShutdownReceive | kernel_abi::kVsockShutdownSend;

uint32_t BytesOf(std::span<const iovec> pieces) {
  size_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  return static_cast<uint32_t>(bytes);
}

msghdr MessageOf(std::span<const iovec> pieces) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = std::min<size_t>(pieces.size(), IOV_MAX);
  return message;
}

}  // namespace

// ---- Guest to host -----------------------------------------------------------------------------

std::optional<VsockDrop> VsockLink::Deliver(std::span<const iovec> payload, bool ends_message) {
  const uint32_t bytes = BytesOf(payload);
  bytes_from_guest += bytes;
  if (write_ended_ || !fd_.valid()) {
    connection.Forwarded(bytes);
    return VsockDrop::kAfterShutdown;
  }
  return connection.type() == VsockType::kStream ? DeliverStream(payload, bytes)
                                                 : DeliverMessage(payload, bytes, ends_message);
}

std::optional<VsockDrop> VsockLink::DeliverStream(std::span<const iovec> payload, uint32_t bytes) {
  if (bytes == 0) return std::nullopt;
  uint32_t written = 0;
  if (backlog_.empty() && may_write) {
    const std::optional<uint32_t> took = Write(payload);
    if (!took.has_value()) {
      WriteEnded();
      connection.Forwarded(bytes);
      return VsockDrop::kAfterShutdown;
    }
    written = *took;
    connection.Forwarded(written);
    if (written == bytes) return std::nullopt;
  }
  // What the socket did not take is kept, from the piece on in which it stopped.
  size_t index = 0;
  while (written >= payload[index].iov_len)
    written -= static_cast<uint32_t>(payload[index++].iov_len);
  const iovec rest = {static_cast<std::byte*>(payload[index].iov_base) + written,
                      payload[index].iov_len - written};
  backlog_.Append({&rest, 1});
  backlog_.Append(payload.subspan(index + 1));
  // Fewer bytes than asked for without EAGAIN are rare (more pieces than one call takes).
  return may_write ? Flush() : std::nullopt;
}

std::optional<VsockDrop> VsockLink::DeliverMessage(std::span<const iovec> payload, uint32_t bytes,
                                                   bool ends_message) {
  if (ends_message && bytes == 0 && backlog_.open_bytes() == 0) return VsockDrop::kEmptyMessage;
  if (ends_message && backlog_.empty() && may_write && payload.size() <= IOV_MAX) {
    const std::optional<uint32_t> took = Write(payload);
    if (took == bytes) {
      connection.Forwarded(bytes);
      return std::nullopt;
    }
    if (!took.has_value()) {
      if (connection.state() == State::kResetting) return VsockDrop::kMessageTooLong;
      WriteEnded();
      connection.Forwarded(bytes);
      return VsockDrop::kAfterShutdown;
    }
  }
  backlog_.Append(payload);
  if (!ends_message) return std::nullopt;
  backlog_.EndMessage();
  return may_write ? Flush() : std::nullopt;
}

std::optional<VsockDrop> VsockLink::Flush() {
  while (!backlog_.empty() && may_write && fd_.valid()) {
    uint32_t bytes = backlog_.bytes();
    if (connection.type() == VsockType::kSeqpacket) {
      if (!backlog_.has_message()) return std::nullopt;
      bytes = backlog_.first_message_bytes();
    }
    const std::optional<uint32_t> took = Write(backlog_.Front(bytes));
    if (!took.has_value()) {
      if (connection.state() == State::kResetting) return VsockDrop::kMessageTooLong;
      WriteEnded();
      return VsockDrop::kAfterShutdown;
    }
    if (*took == 0) break;
    backlog_.Consume(*took);
    connection.Forwarded(*took);
  }
  return std::nullopt;
}

std::optional<uint32_t> VsockLink::Write(std::span<const iovec> pieces) {
  const msghdr message = MessageOf(pieces);
  const ssize_t count = sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (count >= 0) return static_cast<uint32_t>(count);
  switch (errno) {
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
      may_write = false;
      return 0;
    case EINTR:
      return 0;
    case EMSGSIZE:  // longer than the socket's whole buffer
      connection.Reset();
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

void VsockLink::WriteEnded() {
  write_ended_ = true;
  connection.Forwarded(backlog_.bytes());
  backlog_.Clear();
  connection.HostShutdown(/*send=*/false, /*receive=*/true);
}

// ---- Host to guest -----------------------------------------------------------------------------

bool VsockLink::CanRead() const {
  if (connection.state() != State::kEstablished || read_ended_) return false;
  return !message_left().empty() || (may_read && fd_.valid());
}

uint32_t VsockLink::Read(std::span<const iovec> into) {
  msghdr message = MessageOf(into);
  const ssize_t count = recvmsg(fd_.get(), &message, MSG_DONTWAIT);
  if (count < 0) {
    ReadFailed();
    return 0;
  }
  if (count == 0) {
    read_ended_ = true;
    connection.HostShutdown(/*send=*/true, /*receive=*/false);
    return 0;
  }
  // Fewer bytes than there was room for: the socket is empty, and the next byte comes with an
  // event. Not so at the end, which was told before; nor in front of fds that somebody passes,
  // which end a read early (and are thrown away).
  const bool is_empty = static_cast<size_t>(count) < BytesOf(into) &&
                        (message.msg_flags & MSG_CTRUNC) == 0 && !reads_end_soon_;
  if (is_empty) may_read = false;
  bytes_to_guest += static_cast<uint64_t>(count);
  return static_cast<uint32_t>(count);
}

void VsockLink::ReadFailed() {
  if (errno == EAGAIN) {
    may_read = false;
  } else if (errno != EINTR) {
    connection.Reset();  // ECONNRESET: the peer closed without having read everything
  }
}

std::optional<uint32_t> VsockLink::NextMessage(uint64_t& empty) {
  while (true) {
    // A message of 0 bytes and the end are told apart by the credentials of the sender.
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(ucred))> control;
    iovec nothing = {nullptr, 0};
    msghdr message{};
    message.msg_iov = &nothing;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t count = recvmsg(fd_.get(), &message, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    if (count < 0) {
      ReadFailed();
      return std::nullopt;
    }
    if (count > 0) return static_cast<uint32_t>(count);
    if (message.msg_controllen == 0) {
      read_ended_ = true;
      connection.HostShutdown(/*send=*/true, /*receive=*/false);
      return std::nullopt;
    }
    ++empty;
    if (recv(fd_.get(), nullptr, 0, MSG_DONTWAIT) < 0) return std::nullopt;
  }
}

bool VsockLink::ReadMessage(uint32_t bytes, std::span<const iovec> into) {
  msghdr message = MessageOf(into);
  if (recvmsg(fd_.get(), &message, MSG_DONTWAIT) != static_cast<ssize_t>(bytes)) {
    connection.Reset();
    return false;
  }
  bytes_to_guest += bytes;
  return true;
}

bool VsockLink::ReadMessageAside(uint32_t bytes) {
  message_.resize(bytes);
  message_sent_ = 0;
  const iovec into = {message_.data(), message_.size()};
  if (ReadMessage(bytes, {&into, 1})) return true;
  message_.clear();
  return false;
}

void VsockLink::MessageSent(size_t bytes) {
  message_sent_ += bytes;
  if (message_sent_ < message_.size()) return;
  message_ = {};
  message_sent_ = 0;
}

// ---- The socket --------------------------------------------------------------------------------

void VsockLink::OnEvents(uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) may_read = true;
  if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) reads_end_soon_ = true;
  if ((events & EPOLLHUP) != 0) hung_up_ = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) may_write = true;
}

kernel_abi::UniqueFd VsockLink::Settle() {
  if (connection.state() == State::kEstablished && fd_.valid()) {
    const uint32_t guest = connection.peer_shutdown();
    if (guest == kShutdownBoth && !has_to_write()) {
      connection.Reset();
    } else {
      EndWhatTheGuestEnded(guest);
      if (hung_up_ && read_ended_) {
        // The process is gone; or both directions have ended, and nothing can follow either way.
        connection.HostShutdown(/*send=*/true, /*receive=*/true);
      }
    }
  }
  if (connection.state() != State::kClosing && connection.state() != State::kResetting) return {};
  kernel_abi::UniqueFd socket = std::move(fd_);
  CloseSocket();
  return socket;
}

void VsockLink::EndWhatTheGuestEnded(uint32_t shutdown_flags) {
  if ((shutdown_flags & kernel_abi::kVsockShutdownReceive) != 0 && !read_ended_) {
    read_ended_ = true;
    message_ = {};
    message_sent_ = 0;
    shutdown(fd_.get(), SHUT_RD);
  }
  // An unfinished message is none, and stays behind.
  if ((shutdown_flags & kernel_abi::kVsockShutdownSend) != 0 && !write_ended_ && !has_to_write()) {
    write_ended_ = true;
    shutdown(fd_.get(), SHUT_WR);
  }
}

void VsockLink::CloseSocket() {
  fd_.Reset();
  backlog_.Clear();
  message_ = {};
  message_sent_ = 0;
}

}  // namespace vhost::inprocess
