#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""`vhostctl top` in a real terminal, tmux's: what is on the screen at two sizes and with few and many devices, what keys
and another size do, and that the terminal is as before however it ends.

    tests/vhostctl/top_in_terminal.py VHOSTCTL [--print]

--print: shows the screens. Exit code 77: there is no tmux here.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from pretend_vms import pretend  # noqa: E402

PATIENCE_S = 60


class Terminal:
    """A tmux of its own with one shell, in which a command runs."""

    def __init__(self, folder, width, height):
        self.folder = folder
        self.socket = os.path.join(folder, "tmux")
        environment = dict(os.environ, LANG="C.UTF-8", TERM="xterm-256color", TMUX="", PS1="")
        environment.pop("LC_ALL", None)
        subprocess.run(["tmux", "-S", self.socket, "-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y",
                        str(height), "sh", "-i"], check=True, env=environment)
        self.tmux("set-option", "-g", "status", "off")
        self.tmux("set-option", "-g", "window-size", "manual")
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], check=False)

    def tmux(self, *arguments):
        return subprocess.run(["tmux", "-S", self.socket, *arguments], check=True, capture_output=True,
                              text=True).stdout

    def screen(self):
        return self.tmux("capture-pane", "-p")

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def run(self, command):
        """Types a line; `$0` is where the state of the terminal before it and after it is kept, with its exit code."""
        kept = os.path.join(self.folder, "kept")
        for name in ("before", "after", "code", "pid"):
            if os.path.exists(f"{kept}.{name}"):
                os.remove(f"{kept}.{name}")
        script = os.path.join(self.folder, "script")
        with open(script, "w", encoding="utf-8") as file:
            file.write(f"stty -a >{kept}.before\nsh -c 'echo $$ >{kept}.pid; exec {command}'\ncode=$?\n"
                       f"stty -a >{kept}.after\necho $code >{kept}.code\n")
        self.keys(f" . {script}", "Enter")
        return kept

    def wait(self, what, is_so):
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            screen = self.screen()
            if is_so(screen):
                return screen
            time.sleep(0.05)
        sys.exit(f"not within {PATIENCE_S} s: {what}; on the screen:\n{screen}")

    def wait_for(self, *texts):
        return self.wait(" and ".join(texts), lambda screen: all(text in screen for text in texts))


def read(path):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            if text.endswith("\n"):
                return text
        time.sleep(0.05)
    sys.exit(f"not within {PATIENCE_S} s: {path}")


def check(is_so, what):
    if not is_so:
        sys.exit(f"not so: {what}")


def check_end(terminal, kept, code):
    got = int(read(f"{kept}.code"))
    check(got == code, f"exit code {code}, it is {got}")
    # Less its size, which was changed.
    before, after = (re.sub("(rows|columns) [0-9]+", "", read(f"{kept}.{when}")) for when in ("before", "after"))
    check(before == after, f"the terminal's settings are as before:\n{before}\n{after}")
    check(terminal.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").strip() == "0 1",
          "the screen of before is back, with its cursor")


def main():
    if shutil.which("tmux") is None:
        print("skipped: no tmux")
        return 77
    vhostctl = os.path.realpath(sys.argv[1])
    shown = "--print" in sys.argv[2:]
    for devices in (1, 200):
        with tempfile.TemporaryDirectory(prefix="vhostctl-top-") as folder:
            sockets = os.path.join(folder, "sockets")
            os.mkdir(sockets)
            top = f"{vhostctl} --directory {sockets} top --interval 0.2"
            with pretend(sockets, devices), Terminal(folder, 80, 24) as terminal:
                kept = terminal.run(top)
                counted = "1 VM, 1 device, 2 queues" if devices == 1 else "50 VMs, 200 devices, 400 queues"
                screen = terminal.wait_for("web0/net0 tx0 STALLED: ", counted, "DEPTH", "q quit", "chains/s, up to")
                check(all(len(line) <= 80 for line in screen.splitlines()), "80 columns are enough")
                print(screen if shown else f"ok: {devices} at 80x24")
                terminal.keys("?")
                terminal.wait_for("chains that the driver made available")
                terminal.keys("?")
                terminal.keys("n")
                terminal.wait_for("by name")
                terminal.keys("End")
                last = f"web{(devices - 1) // 4}/net{devices - 1}" if devices == 1 else "web9/net39"
                terminal.wait_for(f"{last} queue 1 tx0")
                terminal.tmux("resize-window", "-x", "200", "-y", "50")
                screen = terminal.wait_for("HISTORY", "STATE", "CHAIN/s", "█")
                check(len(screen.splitlines()) > 40 or devices == 1, "50 lines are used")
                print(screen if shown else f"ok: {devices} at 200x50")
                terminal.tmux("resize-window", "-x", "30", "-y", "8")
                terminal.wait("a small screen", lambda text: "HISTORY" not in text and "DEVICE" in text)
                terminal.keys("q")
                check_end(terminal, kept, 0)
                for number, code in ((signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)):
                    terminal.tmux("resize-window", "-x", "80", "-y", "24")
                    kept = terminal.run(top)
                    terminal.wait_for("q quit")
                    os.kill(int(read(f"{kept}.pid")), number)
                    check_end(terminal, kept, code)
                print(f"ok: {devices}: the terminal is as before after q, SIGINT and SIGTERM")
    return 0


if __name__ == "__main__":
    sys.exit(main())
