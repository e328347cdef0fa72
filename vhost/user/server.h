// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Serves a device to vhost-user front ends, one at a time: whoever connects next waits until the
// one before it has gone. When one goes, all rings are stopped and its memory is unmapped; the
// device stays as it is, for the next one.
//
//   listening ---- a front end connects ----> serving (session.h)
//       ^                                        |  it goes, or breaks the protocol: on_disconnect
//       +----------------------------------------+
//
// A server over a connection that was handed in is done after it.
//
// Thread safety: made and destroyed on any thread, serves on the loop's, in one watch of it. The
// device is the server's for as long as it lives.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/event_loop.h"
#include "vhost/host/unix_socket.h"
#include "vhost/user/connection.h"
#include "vhost/user/nested_loop.h"
#include "vhost/user/served_device.h"
#include "vhost/user/session.h"

namespace vhost::user {

struct ServerOptions {
  // Either: a socket is made at this path, for front ends to connect to.
  std::string path;
  mode_t mode = 0600;          // of its file
  std::optional<gid_t> group;  // of its file; nullopt: this process's
  // Or: one that listens already, or is connected to a front end. Taken over.
  kernel_abi::UniqueFd socket;

  // A front end has come. On the loop's thread; as the next one.
  std::function<void()> on_connect;
  // It has gone: OK, or what it did wrong. `is_last`: nobody can come any more.
  std::function<void(const absl::Status& why, bool is_last)> on_disconnect;
};

class Server {
 public:
  // `kernel`, `loop` and `device` must outlive it. INVALID_ARGUMENT: `socket` is none, or both are
  // given; else what UnixListener says.
  static absl::StatusOr<std::unique_ptr<Server>> Create(kernel_abi::Kernel& kernel, EventLoop& loop,
                                                        ServedDevice& device,
                                                        ServerOptions options);
  // Stops all rings. No callback runs when it returns.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

 private:
  // A front end that is connected.
  struct Peer {
    Connection connection;
    std::unique_ptr<Session> session;
    std::unique_ptr<Watch> watch;
    absl::Status failure;  // of its session, beside a message
  };

  Server(kernel_abi::Kernel& kernel, ServedDevice& device, ServerOptions options)
      : kernel_(kernel), device_(device), options_(std::move(options)) {}

  absl::Status Open();
  absl::Status Listen();
  int listener_fd() const { return own_ != nullptr ? own_->fd() : handed_in_.get(); }
  void OnConnection();
  absl::Status Serve(kernel_abi::UniqueFd socket);
  void OnMessages();
  absl::Status ServeMessages();
  void EndPeer(absl::Status why);

  kernel_abi::Kernel& kernel_;
  ServedDevice& device_;
  ServerOptions options_;
  std::unique_ptr<UnixListener> own_;
  kernel_abi::UniqueFd handed_in_;  // listens
  kernel_abi::UniqueFd spare_;      // for turning a client away when there are no more
  std::unique_ptr<NestedLoop> loop_;
  std::unique_ptr<Watch> listener_watch_;  // while nobody is connected
  std::unique_ptr<Peer> peer_;
};

}  // namespace vhost::user
