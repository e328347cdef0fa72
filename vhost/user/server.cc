// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/server.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost::user {
namespace {

using kernel_abi::UniqueFd;

// After so many, other users of the loop have their turn.
constexpr int kMessagesPerTurn = 64;

absl::Status Failure(const char* call, int error) {
  return kernel_abi::MakeSystemError({.error = error, .subject = "vhost-user", .call = call});
}

// 1 if it listens, 0 if it does not, minus errno if it is no socket.
int Listens(const UniqueFd& socket) {
  int listens = 0;
  socklen_t size = sizeof(listens);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) return -errno;
  return listens;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Create(kernel_abi::Kernel& kernel, EventLoop& loop,
                                                       ServedDevice& device,
                                                       ServerOptions options) {
  if (options.path.empty() == !options.socket.valid()) {
    return absl::InvalidArgumentError("a vhost-user server needs a path or a socket, one of them");
  }
  auto server = absl::WrapUnique(new Server(kernel, device, std::move(options)));
  absl::StatusOr<std::unique_ptr<NestedLoop>> nested = NestedLoop::Create();
  if (!nested.ok()) return nested.status();
  server->loop_ = *std::move(nested);
  if (absl::Status status = server->Open(); !status.ok()) return status;
  // Last, since from here on its callbacks run.
  if (absl::Status status = server->loop_->Start(loop); !status.ok()) return status;
  return server;
}

Server::~Server() {
  if (loop_ != nullptr) loop_->Stop();
  listener_watch_.reset();
  peer_.reset();
}

absl::Status Server::Open() {
  spare_.Reset(kernel_.EventFd(0, 0));
  if (!options_.path.empty()) {
    absl::StatusOr<UnixListener> listener = UnixListener::Create(
        options_.path, {.mode = options_.mode, .group = options_.group, .backlog = 4});
    if (!listener.ok()) return listener.status();
    own_ = std::make_unique<UnixListener>(*std::move(listener));
    return Listen();
  }
  const int listens = Listens(options_.socket);
  if (listens < 0) return Failure("getsockopt(SO_ACCEPTCONN)", -listens);
  if (listens == 0) return Serve(std::move(options_.socket));
  handed_in_ = std::move(options_.socket);
  const int flags = fcntl(handed_in_.get(), F_GETFL);
  if (flags < 0 || fcntl(handed_in_.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return Failure("fcntl", errno);
  }
  return Listen();
}

absl::Status Server::Listen() {
  absl::StatusOr<std::unique_ptr<Watch>> watch =
      loop_->WatchReadable(listener_fd(), [this] { OnConnection(); });
  if (!watch.ok()) return watch.status();
  listener_watch_ = *std::move(watch);
  return absl::OkStatus();
}

void Server::OnConnection() {
  UniqueFd socket(accept4(listener_fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid()) {
    // It may have gone again. But one that stays for lack of an fd would wake us for ever: it gets
    // the one that was kept back, and is told so by the end of its connection.
    if (errno != EMFILE && errno != ENFILE) return;
    spare_.Reset();
    UniqueFd(accept4(listener_fd(), nullptr, nullptr, SOCK_CLOEXEC)).Reset();
    spare_.Reset(kernel_.EventFd(0, 0));
    return;
  }
  listener_watch_.reset();
  if (const absl::Status status = Serve(std::move(socket)); !status.ok()) EndPeer(status);
}

absl::Status Server::Serve(UniqueFd socket) {
  peer_ =
      absl::WrapUnique(new Peer{.connection = Connection(std::move(socket), RequestSet::kFrontEnd,
                                                         Role::kServer, "vhost-user front end"),
                                .session = nullptr,
                                .watch = nullptr,
                                .failure = absl::OkStatus()});
  peer_->session =
      std::make_unique<Session>(kernel_, *loop_, device_, [this](const absl::Status& status) {
        // The session is running: the connection ends, and with it, in its own watch, the session.
        peer_->failure.Update(status);
        shutdown(peer_->connection.fd(), SHUT_RDWR);
      });
  absl::StatusOr<std::unique_ptr<Watch>> watch =
      loop_->WatchReadable(peer_->connection.fd(), [this] { OnMessages(); });
  if (!watch.ok()) return watch.status();
  peer_->watch = *std::move(watch);
  if (options_.on_connect) options_.on_connect();
  return absl::OkStatus();
}

void Server::OnMessages() {
  const absl::Status status = ServeMessages();
  if (status.ok()) return;
  if (!peer_->failure.ok()) return EndPeer(peer_->failure);
  EndPeer(absl::IsUnavailable(status) ? absl::OkStatus() : status);
}

absl::Status Server::ServeMessages() {
  for (int left = kMessagesPerTurn; left > 0; --left) {
    absl::StatusOr<std::optional<Message>> request = peer_->connection.TryReceive();
    if (!request.ok()) return request.status();
    if (!request->has_value()) return absl::OkStatus();
    const absl::StatusOr<std::optional<Message>> answer =
        peer_->session->Handle(**std::move(request));
    if (!answer.ok()) return answer.status();
    if (!answer->has_value()) continue;
    // A front end that lets answers pile up until its socket is full does not want them.
    absl::Status status = peer_->connection.Send(**answer, Connection::Clock::now());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void Server::EndPeer(absl::Status why) {
  peer_.reset();
  if (listener_fd() >= 0) why.Update(Listen());
  if (options_.on_disconnect) options_.on_disconnect(why, listener_watch_ == nullptr);
}

}  // namespace vhost::user
