// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The host's side of a socket device: unix sockets, by the convention that users of Firecracker and
// cloud-hypervisor know.
//
//   host -> guest   A client connects to PATH (stream) or PATH.seqpacket (seqpacket), sends
//                   "CONNECT <port>\n", and reads "OK <host port>\n" once the guest has accepted.
//                   Of seqpacket both lines are one message each.
//   guest -> host   A connection to port P of CID 2 goes to the socket that listens at PATH_P, of
//                   the same type.
//
// Nothing here waits. See docs/vsock-in-process.md for what users have to know.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/host/unix_socket.h"
#include "vhost/inprocess/vsock_packet.h"

namespace vhost::inprocess {

struct VsockHostOptions {
  // Where clients connect; at most 96 bytes, so that a port fits behind it.
  std::string uds_path;
  mode_t mode = 0600;          // of the two socket files
  std::optional<gid_t> group;  // of them; nullopt: this process's
};

class VsockHost {
 public:
  // Listens. Files that are in the way: as UnixListener does.
  static absl::StatusOr<std::unique_ptr<VsockHost>> Create(const VsockHostOptions& options);

  const std::string& uds_path() const { return path_; }
  int listener_fd(VsockType type) const { return listener(type).fd(); }

  // The next client that has connected; nullopt if none has. An error is a lack of fds or memory:
  // the client waits on.
  absl::StatusOr<std::optional<kernel_abi::UniqueFd>> Accept(VsockType type);
  // A connection for the guest. UNAVAILABLE, or another error: it is refused. RESOURCE_EXHAUSTED:
  // the listener has a full queue; it may be tried again.
  absl::StatusOr<kernel_abi::UniqueFd> Dial(VsockType type, uint32_t port) const;

 private:
  VsockHost(std::string path, UnixListener stream, UnixListener seqpacket)
      : path_(std::move(path)), stream_(std::move(stream)), seqpacket_(std::move(seqpacket)) {}
  const UnixListener& listener(VsockType type) const {
    return type == VsockType::kStream ? stream_ : seqpacket_;
  }

  std::string path_;
  UnixListener stream_;
  UnixListener seqpacket_;
};

// What a client has said so far.
enum class VsockHello : uint8_t { kIncomplete, kPort, kGarbage };
// Reads a client's CONNECT line if it is there, and not a byte more.
VsockHello ReadConnect(int fd, VsockType type, uint32_t& port);
// "CONNECT 1234", in upper or lower case, white space around the port.
std::optional<uint32_t> ParseConnect(absl::string_view line);
// Tells a client that it is connected. False: it is gone, or does not read.
bool WriteOk(int fd, uint32_t host_port);

}  // namespace vhost::inprocess
