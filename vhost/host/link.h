// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Network interfaces by rtnetlink: state, MTU, up and down, membership in a bridge, and changes of
// all that. Interfaces are those of the network namespace of the thread that opened the object.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct nl_sock;

namespace vhost {

struct LinkState {
  int index = 0;
  std::string name;
  bool up = false;       // administratively
  bool running = false;  // and with a carrier: a TAP has one while somebody has it open
  int mtu = 0;           // bytes
  int master = 0;        // index of the bridge (bond ...) that it is a port of; 0: none
  bool is_bridge = false;

  friend bool operator==(const LinkState&, const LinkState&) = default;
};

// Errors name the interface and what was asked of it, and have the kernel's errno.
//
// Thread safety: none; one call at a time. Calls wait for the kernel's answer, microseconds.
class Links {
 public:
  static absl::StatusOr<Links> Open();

  // ENODEV: there is none of that name.
  absl::StatusOr<LinkState> Get(const std::string& name);
  // ENODEV likewise. For an interface that may have been renamed.
  absl::StatusOr<LinkState> Get(int index);
  // A new interface of that rtnetlink type ("dummy", "vsockmon"), down. EEXIST; EOPNOTSUPP: the
  // kernel has no such type.
  absl::Status Add(const std::string& name, const std::string& type);
  absl::Status SetUp(const std::string& name, bool up);
  absl::Status SetMtu(const std::string& name, int mtu);  // bytes
  // Makes the interface a port of `bridge`, or takes it out of the one that it is in (""). No-op if
  // it is so already.
  absl::Status SetBridge(const std::string& name, const std::string& bridge);

  struct Close {
    void operator()(nl_sock* socket) const;
  };
  using Socket = std::unique_ptr<nl_sock, Close>;

 private:
  explicit Links(Socket socket) : socket_(std::move(socket)) {}
  absl::StatusOr<LinkState> Ask(int index, const std::string& name);

  Socket socket_;
};

// Tells when an interface changes, and when it goes away: a TAP that is deleted while idle is
// noticed nowhere else. Watch fd() for being readable, then call Read.
class LinkWatch {
 public:
  static absl::StatusOr<std::unique_ptr<LinkWatch>> Create(const std::string& name);

  // A netlink socket, for reading; non-blocking.
  int fd() const;
  // The state as of creation, or of the last Read; nullopt: the interface is gone.
  const std::optional<LinkState>& state() const { return state_; }
  // Takes what has been told. True if the state is another now. Never waits for a change.
  bool Read();

 private:
  LinkWatch(Links links, Links::Socket events, LinkState state)
      : links_(std::move(links)), events_(std::move(events)), state_(std::move(state)) {}

  Links links_;
  Links::Socket events_;
  std::optional<LinkState> state_;
};

}  // namespace vhost
