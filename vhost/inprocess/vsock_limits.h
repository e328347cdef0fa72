// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <chrono>
#include <cstdint>

namespace vhost::inprocess {

// What one socket device may hold on the host, whatever its guest and its clients do. Beyond a
// limit a connection is refused, or waits; nothing grows.
struct VsockLimits {
  uint32_t connections = 1024;  // of all states; each has an fd
  // Connections that the guest has not answered yet, clients that have not said where they want to
  // go among them; and, apart from those, connections of the guest that wait for a host's listener.
  uint32_t half_open = 128;
  // Bytes that the guest may have under way on one connection (buf_alloc). They are held in this
  // process while the host's socket takes no more; otherwise they take no memory. When the device's
  // bytes grow short a new connection gets less, down to `smallest_window_bytes`.
  uint32_t window_bytes = 256 * 1024;
  uint32_t smallest_window_bytes = 4 * 1024;
  // For all connections of the device together. A seqpacket connection takes two windows: one is
  // for a message of the host which has to be cut into packets.
  uint64_t buffer_bytes = 64 * 1024 * 1024;
  // For a client to say CONNECT, for a guest to answer, for a listener with a full queue to take
  // a connection.
  std::chrono::milliseconds half_open_timeout{5000};
  // For the guest's reset, once the host's side has closed; Linux takes as long.
  std::chrono::milliseconds close_timeout{8000};
  // For a host's process to read on, when it was sent data by a connection that is gone.
  std::chrono::milliseconds linger_timeout{30000};
};

}  // namespace vhost::inprocess
