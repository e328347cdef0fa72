// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/console.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

namespace vmm {
namespace {

constexpr int kMaxWaitMs = 1000;    // for whoever reads our output
constexpr std::byte kEscape{0x01};  // Ctrl-A

}  // namespace

Console::Console() {
  termios settings{};
  if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &settings) < 0) return;
  // In the background a change of the settings would stop us, and no key would be for us anyway.
  if (tcgetpgrp(STDIN_FILENO) != getpgrp()) {
    input_open_ = false;
    return;
  }
  saved_ = settings;
  cfmakeraw(&settings);
  // The guest's line feeds reach a terminal that may be shared with others: keep their meaning.
  settings.c_oflag |= OPOST;
  tcsetattr(STDIN_FILENO, TCSANOW, &settings);
}

Console::~Console() {
  if (saved_.has_value()) tcsetattr(STDIN_FILENO, TCSANOW, &*saved_);
}

Console::Input Console::Read(size_t room) {
  Input input;
  std::vector<std::byte> raw(room);
  const ssize_t got = ::read(STDIN_FILENO, raw.data(), raw.size());
  if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) input_open_ = false;
  if (got <= 0) return input;
  raw.resize(static_cast<size_t>(got));
  // A pipe is not a keyboard: its bytes are all the guest's.
  if (!saved_.has_value()) {
    input.data = std::move(raw);
    return input;
  }
  for (std::byte key : raw) {
    if (after_escape_) {
      after_escape_ = false;
      if (key == std::byte{'x'}) input.stop = true;
      if (key == std::byte{'a'} || key == kEscape) input.data.push_back(kEscape);
    } else if (key == kEscape) {
      after_escape_ = true;
    } else {
      input.data.push_back(key);
    }
  }
  return input;
}

void Console::Write(std::byte data) {
  // Waits here and not in write: the signal that stops a vCPU ends this wait, and a reader that has
  // gone to sleep costs the guest its output, not the VMM its end.
  pollfd writable{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  if (::poll(&writable, 1, kMaxWaitMs) <= 0) return;
  if (::write(STDOUT_FILENO, &data, 1) < 0) return;  // There is nobody to tell.
}

}  // namespace vmm
