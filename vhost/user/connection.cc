// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"

namespace vhost::user {
namespace {

using kernel_abi::UniqueFd;

union ControlBuffer {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int) * kMostFds)];
};

absl::Status Failure(const std::string& name, const char* call, int error) {
  if (error == EPIPE || error == ECONNRESET) {
    return absl::UnavailableError(absl::StrCat(name, ": the peer closed the connection"));
  }
  return kernel_abi::MakeSystemError({.error = error, .subject = name, .call = call});
}

// Takes over all fds that came, whatever else is wrong with the message.
void TakeFds(const msghdr& header, std::vector<UniqueFd>& fds) {
  for (const cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr;
       part = CMSG_NXTHDR(const_cast<msghdr*>(&header), const_cast<cmsghdr*>(part))) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
}

}  // namespace

Connection::Connection(UniqueFd socket, RequestSet set, Role role, std::string name)
    : socket_(std::move(socket)), set_(set), role_(role), name_(std::move(name)) {
  const int flags = fcntl(socket_.get(), F_GETFL);
  if (flags < 0 || fcntl(socket_.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    broken_ = Failure(name_, "fcntl", errno);
  }
}

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> Connection::MakeSockets() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return Failure("vhost-user", "socketpair", errno);
  }
  return std::pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

std::optional<PeerCredentials> Connection::peer() const {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return std::nullopt;
  }
  return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

void Connection::Drop() {
  incoming_ = Incoming();
  socket_.Reset();
}

absl::Status Connection::Break(absl::Status why) {
  broken_ = std::move(why);
  // Shut down and not closed: somebody may watch the fd, and learns it so.
  if (socket_.valid()) shutdown(socket_.get(), SHUT_RDWR);
  incoming_ = Incoming();
  return broken_;
}

absl::Status Connection::Wait(short events, Deadline deadline, const char* what) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{.fd = socket_.get(), .events = events, .revents = 0};
    const int result = poll(&entry, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    if (result > 0) return absl::OkStatus();
    if (result < 0 && errno != EINTR) return Break(Failure(name_, "poll", errno));
    if (left <= 0) {
      return Break(absl::DeadlineExceededError(absl::StrCat(name_, ": the peer ", what)));
    }
  }
}

absl::Status Connection::Send(const Message& message, std::span<const int> fds, Deadline deadline) {
  if (!broken_.ok()) return broken_;
  if (fds.size() > kMostFds || message.payload.size() > kMostPayloadBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(RequestName(set_, message.request), ": larger than a message can be"));
  }
  std::array<std::byte, sizeof(Header) + kMostPayloadBytes> bytes;
  const Header header{.request = message.request,
                      .flags = message.flags,
                      .size = static_cast<uint32_t>(message.payload.size())};
  memcpy(bytes.data(), &header, sizeof(header));
  std::ranges::copy(message.payload, bytes.data() + sizeof(header));
  const size_t size = sizeof(header) + message.payload.size();

  ControlBuffer control{};
  size_t sent = 0;
  while (sent < size) {
    iovec piece{.iov_base = bytes.data() + sent, .iov_len = size - sent};
    msghdr out{};
    out.msg_iov = &piece;
    out.msg_iovlen = 1;
    if (sent == 0 && !fds.empty()) {  // They belong to the first byte.
      out.msg_control = control.bytes;
      out.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* part = CMSG_FIRSTHDR(&out);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      memcpy(CMSG_DATA(part), fds.data(), sizeof(int) * fds.size());
    }
    const ssize_t result = sendmsg(socket_.get(), &out, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (result >= 0) {
      sent += static_cast<size_t>(result);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return Break(Failure(name_, "sendmsg", errno));
    if (absl::Status status = Wait(POLLOUT, deadline, "does not read"); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Connection::ReadSome(std::span<std::byte> to) {
  ControlBuffer control;
  iovec piece{.iov_base = to.data(), .iov_len = to.size()};
  msghdr in{};
  in.msg_iov = &piece;
  in.msg_iovlen = 1;
  in.msg_control = control.bytes;
  in.msg_controllen = sizeof(control.bytes);
  ssize_t result = 0;
  do {
    result = recvmsg(socket_.get(), &in, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (result < 0 && errno == EINTR);
  if (result < 0 && errno == EAGAIN) return 0;
  if (result < 0) return Break(Failure(name_, "recvmsg", errno));
  std::vector<UniqueFd>& fds = incoming_.message.fds;
  TakeFds(in, fds);
  if ((in.msg_flags & MSG_CTRUNC) != 0 || fds.size() > kMostFds) {
    return Break(absl::InvalidArgumentError(
        absl::StrCat(name_,
                     ": the peer sent more fds than a message can have, or than there is "
                     "room for (ulimit -n)")));
  }
  if (result == 0) {
    return Break(absl::UnavailableError(
        absl::StrCat(name_, ": the peer closed the connection",
                     incoming_.bytes != 0 ? " in the middle of a message" : "")));
  }
  return static_cast<size_t>(result);
}

absl::Status Connection::CheckIncoming() const {
  const bool is_reply = (incoming_.header.flags & kFlagReply) != 0;
  if (is_reply != (role_ == Role::kRequester)) {
    return absl::InvalidArgumentError(absl::StrCat(
        is_reply ? "a reply, which nobody asked for: " : "a request, where replies go: ",
        RequestName(set_, incoming_.header.request)));
  }
  return CheckHeader(set_, incoming_.header);
}

absl::StatusOr<std::optional<Message>> Connection::TryReceive() {
  if (!broken_.ok()) return broken_;
  while (true) {
    Incoming& in = incoming_;
    std::span<std::byte> rest;
    if (in.bytes < sizeof(Header)) {
      rest = std::as_writable_bytes(std::span(&in.header, 1)).subspan(in.bytes);
    } else {
      rest = std::span(in.message.payload).subspan(in.bytes - sizeof(Header));
    }
    if (!rest.empty()) {
      const absl::StatusOr<size_t> got = ReadSome(rest);
      if (!got.ok()) return got.status();
      if (*got == 0) return std::nullopt;
      in.bytes += *got;
      if (in.bytes == sizeof(Header)) {
        if (absl::Status status = CheckIncoming(); !status.ok()) {
          return Break(kernel_abi::AddContext(status, absl::StrCat(name_, ": the peer sent")));
        }
        in.message.request = in.header.request;
        in.message.flags = in.header.flags;
        in.message.payload.resize(in.header.size);
      }
      if (in.bytes < sizeof(Header) || in.bytes < sizeof(Header) + in.header.size) continue;
    }
    Message message = std::move(in.message);
    incoming_ = Incoming();
    if (absl::Status status = Check(set_, message); !status.ok()) {
      return Break(kernel_abi::AddContext(status, absl::StrCat(name_, ": the peer sent")));
    }
    return message;
  }
}

absl::StatusOr<Message> Connection::Receive(Deadline deadline) {
  while (true) {
    absl::StatusOr<std::optional<Message>> message = TryReceive();
    if (!message.ok()) return message.status();
    if (message->has_value()) return **std::move(message);
    absl::Status status =
        Wait(POLLIN, deadline, incoming_.bytes == 0 ? "does not answer" : "sent half a message");
    if (!status.ok()) return status;
  }
}

absl::StatusOr<Message> Connection::Call(const Message& request, std::span<const int> fds,
                                         Deadline deadline) {
  if (absl::Status status = Send(request, fds, deadline); !status.ok()) return status;
  absl::StatusOr<Message> reply = Receive(deadline);
  if (!reply.ok()) {
    return kernel_abi::AddContext(reply.status(), RequestName(set_, request.request));
  }
  if (reply->request != request.request) {
    return Break(absl::InvalidArgumentError(
        absl::StrCat(name_, ": the peer answered ", RequestName(set_, request.request),
                     " with a reply to ", RequestName(set_, reply->request))));
  }
  return reply;
}

}  // namespace vhost::user
