// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <termios.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"

namespace vmm {

// The process's stdin and stdout as the far end of the guest's serial port. A terminal is in raw
// mode while a Console exists, and as it was before afterwards; keys go to the guest, except that
//
//   Ctrl-A x   stops the VMM
//   Ctrl-A a   sends a Ctrl-A
//
// Keys are read by the machine's thread; Write may be called from any thread.
class Console {
 public:
  Console();
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  // What to poll for input; -1 once there will be none.
  int input_fd() const { return input_open_ ? 0 : -1; }
  struct Input {
    std::vector<std::byte> data;
    bool stop = false;  // Ctrl-A x
  };
  // Up to `room` bytes of what is there; empty at the end of the input. May block unless input_fd
  // is readable.
  Input Read(size_t room);

  // Output that cannot be written (a closed pipe) is lost; the guest goes on.
  void Write(std::byte data);

 private:
  bool input_open_ = true;
  bool after_escape_ = false;
  std::optional<termios> saved_;
};

}  // namespace vmm
