// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The control socket: accepts clients, checks who they are, and hands their requests to a handler.
// Everything happens in one watch of the event loop (the server has an epoll of its own inside), so
// that any EventLoop serves, also one that only knows of readable fds, and no client can make the
// loop wait: not one that sends half a request, nor one that does not read, nor ten thousand.
//
// Thread safety: made and destroyed on any thread, serves on the loop's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/control/connection.h"
#include "vhost/control/listener.h"
#include "vhost/device_event.h"
#include "vhost/event_loop.h"

namespace vhost::control {

struct ServerOptions {
  std::string path;            // of the socket
  std::optional<gid_t> group;  // whose members may connect besides the owner and root
  int max_clients = 32;        // one more is told so and closed
  // Of those, how many may follow events: the rest is kept for clients that ask and go, so that
  // followers, who stay, cannot shut out the operator.
  int max_followers = 24;
  uint32_t idle_timeout_ms = 60'000;
  uint32_t exchange_timeout_ms = 5'000;  // for a whole request to come, for a reply to be taken
};

class Server {
 public:
  // `handler` is called on the loop's thread. `loop` must outlive the server.
  static absl::StatusOr<std::unique_ptr<Server>> Create(EventLoop& loop, RequestHandler handler,
                                                        const ServerOptions& options);
  // Closes all clients and removes the socket. `handler` is not running any more when it returns.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const std::string& path() const { return listener_.path(); }

  // Tells clients that have asked for events of this one. On the loop's thread, and not from within
  // the handler.
  // `dropped`: events before it that were never published.
  void Publish(const DeviceEvent& event, uint64_t dropped);

 private:
  using Clock = Connection::Clock;

  Server(Listener listener, kernel_abi::UniqueFd epoll, kernel_abi::UniqueFd timer,
         RequestHandler handler, const ServerOptions& options);

  void OnReady();
  // The handler's reply, or a refusal where one more would follow events than may.
  Reply Answer(absl::string_view line) const;
  void Accept(Clock::time_point now);
  void Admit(kernel_abi::UniqueFd fd, Clock::time_point now);
  void Advance(uint64_t client, Clock::time_point now);
  // What the epoll is to report of the client; or closes it.
  void WaitFor(uint64_t client, Connection::Waits waits);
  void OnTick(Clock::time_point now);
  // The timer runs only while there is something to time: an unused socket wakes nobody.
  void SetTimer();
  void PauseAccepting(bool pause);

  const ServerOptions options_;
  const RequestHandler handler_;
  const RequestHandler answer_;  // Answer()
  Listener listener_;
  const kernel_abi::UniqueFd epoll_;
  const kernel_abi::UniqueFd timer_;
  std::map<uint64_t, Connection> clients_;
  uint64_t next_client_;
  bool accepting_paused_ = false;
  bool timer_runs_ = false;
  std::unique_ptr<Watch> watch_;  // the last member: it ends first
};

}  // namespace vhost::control
