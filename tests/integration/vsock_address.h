// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sys/socket.h>

#include <cstdint>

namespace vhost {

// struct sockaddr_vm of <linux/vm_sockets.h>, which the C library does not declare.
struct VsockAddress {
  uint16_t family = AF_VSOCK;
  uint16_t reserved = 0;
  uint32_t port = 0;
  uint32_t cid = 0;
  uint8_t flags = 0;
  uint8_t zero[3] = {};
};
static_assert(sizeof(VsockAddress) == sizeof(sockaddr));

}  // namespace vhost
