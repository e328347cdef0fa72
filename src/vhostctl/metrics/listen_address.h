// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/host/unix_socket.h"

namespace vhost::ctl {

// A stream socket that listens, without waiting, where an operator said:
//
//   PORT, :PORT         of 127.0.0.1: nobody but this host
//   ADDR:PORT           IPv4
//   [ADDR]:PORT         IPv6
//   unix:PATH           a unix socket of mode 0660, which goes in the end
//
// Port 0 is any that is free.
struct ListeningSocket {
  kernel_abi::UniqueFd tcp;
  std::optional<UnixListener> unix_socket;
  std::string url;  // where it is, for people

  int fd() const { return unix_socket.has_value() ? unix_socket->fd() : tcp.get(); }
};
// INVALID_ARGUMENT: it is none of these. Otherwise what socket, bind or listen met.
absl::StatusOr<ListeningSocket> Listen(const std::string& where);

}  // namespace vhost::ctl
