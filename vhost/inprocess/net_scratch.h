// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>

#include "vhost/inprocess/net_header.h"

namespace vhost::inprocess {

// What all net queues of a thread may share, since each uses it within a burst only. Most of it is
// never touched. Aligned and trivial, so that it can stand in DataThread::scratch().
struct NetScratch {
  // What readv(2) and writev(2) take at once.
  static constexpr size_t kMaxIovecs = 1024;
  std::array<std::byte, kMaxFrameBytes> bytes;
  std::array<iovec, kMaxIovecs> iovecs;
};

}  // namespace vhost::inprocess
