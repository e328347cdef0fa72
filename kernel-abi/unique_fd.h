// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <unistd.h>

#include <utility>
#include <vector>

namespace kernel_abi {

// Owns one file descriptor and closes it. A UniqueFd passed by value hands the fd over; a plain
// `int` lends it for the call. There is no conversion to bool: ask valid().
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(other.Release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { Reset(); }

  bool valid() const { return fd_ >= 0; }
  int get() const { return fd_; }

  // Gives the fd up; the caller closes it.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }

  // Closes the fd that is held, if any, and takes `fd`. An error of close(2) is not reported: on
  // Linux the descriptor is gone whatever close answers, and nothing kept here is buffered.
  void Reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

// Closes many fds at once, from up to `fds.size()` threads. The last close of a vhost fd waits for
// RCU grace periods (tens of milliseconds), which concurrent closes share: 32 in a row take 32
// times as long as 32 in parallel. Returns when all are closed. Falls back to closing in turn
// where threads cannot be had.
void CloseInParallel(std::vector<UniqueFd> fds);

}  // namespace kernel_abi
