// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The terminal that `top` draws on, by ncurses, which sends only what has changed: nothing
// flickers. While it lives it takes the keys and these signals: SIGINT, SIGTERM, SIGHUP and SIGQUIT
// end the view, SIGWINCH tells of another size. However the view ends, the terminal is as it was
// before.
//
// Thread safety: one for a process, used by one thread; made before other threads are, which
// inherit that these signals are blocked.
#pragma once

#include <signal.h>

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "src/vhostctl/top/frame.h"

struct screen;  // of curses.h, whose macros are not for others

namespace vhost::ctl::top {

class Terminal {
 public:
  // FAILED_PRECONDITION: stdin and stdout are no terminal, or one that ncurses does not know.
  static absl::StatusOr<std::unique_ptr<Terminal>> Open();
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  int width() const;
  int height() const;
  bool utf8() const { return utf8_; }
  // `frame` is as large as the terminal, or was until a moment ago.
  void Show(const Frame& frame);

  // What is waited for: a key, a signal, or `other`.
  enum class Woken { kByKey, kByOther, kByResize, kToEnd };
  Woken Wait(int other);
  // The next key, an `enum Key` or a character; nullopt: none is waiting.
  std::optional<int> NextKey();
  // The signal that ended it, or 0: to be raised again once this object is gone.
  int ended_by() const { return ended_by_; }

 private:
  Terminal(kernel_abi::UniqueFd signals, const sigset_t& before, screen* screen);
  Woken OnSignal();

  const kernel_abi::UniqueFd signals_;
  const sigset_t before_;
  screen* const screen_;
  bool utf8_ = false;
  int ended_by_ = 0;
};

}  // namespace vhost::ctl::top
