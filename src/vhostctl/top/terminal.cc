// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/top/terminal.h"

#include <langinfo.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
// Last: it has macros of common names, which are not wanted.
#define NCURSES_NOMACROS 1
#include <curses.h>

namespace vhost::ctl::top {
namespace {

constexpr short kNoticePair = 1;
constexpr short kBadPair = 2;

attr_t AttributesOf(Style style) {
  const bool has_colours = has_colors();
  const auto pair = [has_colours](short number) -> attr_t {
    return has_colours ? static_cast<attr_t>(COLOR_PAIR(number)) : A_NORMAL;
  };
  switch (style) {
    case Style::kPlain:
      return A_NORMAL;
    case Style::kDim:
      return A_DIM;
    case Style::kTitle:
      return A_BOLD;
    case Style::kSelected:
      return A_REVERSE;
    case Style::kNotice:
      return pair(kNoticePair);
    case Style::kBad:
      return pair(kBadPair) | A_BOLD;
  }
  return A_NORMAL;
}

// Colours of the terminal's own background; without any where the user wants none.
void StartColours() {
  const char* const no_colour = getenv("NO_COLOR");
  if ((no_colour != nullptr && *no_colour != '\0') || start_color() != OK) return;
  use_default_colors();
  init_pair(kNoticePair, COLOR_YELLOW, -1);
  init_pair(kBadPair, COLOR_RED, -1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Terminal>> Terminal::Open() {
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) {
    return absl::FailedPreconditionError(
        "top: stdin and stdout must be a terminal; --batch, --once and --json need none");
  }
  sigset_t ours;
  sigset_t before;
  sigemptyset(&ours);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH}) sigaddset(&ours, signal);
  kernel_abi::UniqueFd signals(signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) {
    return kernel_abi::MakeSystemError({.error = errno, .subject = "top", .call = "signalfd"});
  }
  pthread_sigmask(SIG_BLOCK, &ours, &before);
  setlocale(LC_CTYPE, "");
  SCREEN* const screen = newterm(nullptr, stdout, stdin);  // initscr() would end the process
  if (screen == nullptr) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    const char* const name = getenv("TERM");
    return absl::FailedPreconditionError(
        absl::StrCat("top: TERM=", name == nullptr ? "" : name,
                     ": no such terminal is known here; set TERM, or use --batch"));
  }
  return std::unique_ptr<Terminal>(new Terminal(std::move(signals), before, screen));
}

Terminal::Terminal(kernel_abi::UniqueFd signals, const sigset_t& before, screen* screen)
    : signals_(std::move(signals)), before_(before), screen_(screen) {
  utf8_ = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
  cbreak();  // signals of the keyboard stay signals
  noecho();
  keypad(stdscr, TRUE);
  nodelay(stdscr, TRUE);
  set_escdelay(50);
  curs_set(0);
  StartColours();
}

Terminal::~Terminal() {
  endwin();
  delscreen(screen_);
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

int Terminal::width() const { return getmaxx(stdscr); }
int Terminal::height() const { return getmaxy(stdscr); }

void Terminal::Show(const Frame& frame) {
  werase(stdscr);
  const size_t lines = std::min(frame.size(), static_cast<size_t>(std::max(height(), 0)));
  for (size_t i = 0; i < lines; ++i) {
    wattrset(stdscr, static_cast<int>(AttributesOf(frame[i].style)));
    mvwaddnstr(stdscr, static_cast<int>(i), 0, frame[i].text.c_str(), -1);
  }
  wattrset(stdscr, A_NORMAL);
  wrefresh(stdscr);
}

Terminal::Woken Terminal::OnSignal() {
  Woken woken = Woken::kByOther;
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    const auto signal = static_cast<int>(info.ssi_signo);
    if (signal != SIGWINCH) {
      // Ctrl-C is how many leave such a program: nothing is wrong then.
      if (signal != SIGINT) ended_by_ = signal;
      return Woken::kToEnd;
    }
    winsize size{};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
      resizeterm(size.ws_row, size.ws_col);
      clearok(stdscr, TRUE);  // what the terminal made of the old picture is not known
    }
    woken = Woken::kByResize;
  }
  return woken;
}

Terminal::Woken Terminal::Wait(int other) {
  while (true) {
    pollfd ready[] = {{signals_.get(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}, {other, POLLIN, 0}};
    if (poll(ready, std::size(ready), -1) < 0) {
      if (errno == EINTR) return Woken::kByResize;  // stopped and continued: draw it again
      return Woken::kToEnd;
    }
    if (ready[0].revents != 0) return OnSignal();
    if ((ready[1].revents & POLLIN) != 0) return Woken::kByKey;
    if (ready[1].revents != 0) return Woken::kToEnd;  // the terminal is gone
    if (ready[2].revents != 0) return Woken::kByOther;
  }
}

std::optional<int> Terminal::NextKey() {
  switch (const int key = wgetch(stdscr)) {
    case ERR:
      return std::nullopt;
    case KEY_UP:
      return kKeyUp;
    case KEY_DOWN:
      return kKeyDown;
    case KEY_PPAGE:
      return kKeyPageUp;
    case KEY_NPAGE:
      return kKeyPageDown;
    case KEY_HOME:
      return kKeyHome;
    case KEY_END:
      return kKeyEnd;
    default:
      return key < 0x100 ? key : 0;
  }
}

}  // namespace vhost::ctl::top
