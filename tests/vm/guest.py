# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A guest under test: its VMM as a child process, and the agent on its serial console (scripts/lib/guest-init).

    with Guest(argv, log_path) as guest:
        guest.wait_ready()
        print(guest.run("uname -r"))
        guest.power_off()

Nothing here sleeps: each wait is for a marker on the console or for the process to end, under a deadline. The VMM is
killed when the block is left, however that happens.
"""

import os
import re
import selectors
import shlex
import subprocess
import time

# Nested under software emulation a boot takes 6 s on an idle machine; deadlines are five times and more.
BOOT_LIMIT_S = 180
COMMAND_LIMIT_S = 120


class GuestError(Exception):
    """The guest or its VMM did not do what the step needed. The text says what, with the end of the console."""


class Guest:
    def __init__(self, argv, log_path):
        self.argv = argv
        self._log = open(log_path, "ab", buffering=0)
        self._log_path = log_path
        self._console = bytearray()
        self._seen = 0
        self._next_id = 0
        self._errors_path = log_path + ".stderr"
        self._log.write(("$ " + shlex.join(argv) + "\n").encode())
        with open(self._errors_path, "wb") as errors:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        os.set_blocking(self.process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout, self._log):
            try:
                pipe.close()
            except OSError:
                pass

    def tail(self, lines=25):
        """The end of the console and of what the VMM itself said: what an error should carry."""
        console = self._console.decode(errors="replace").replace("\r", "").splitlines()[-lines:]
        with open(self._errors_path, errors="replace") as errors:
            said = errors.read().splitlines()[-lines:]
        return "\n".join(["  console | " + line for line in console] + ["  stderr  | " + line for line in said])

    def _wait_for(self, pattern, limit_s, what):
        """Waits for pattern on the console after what was seen already; returns the match."""
        deadline = time.monotonic() + limit_s
        while True:
            match = re.compile(pattern).search(self._console, self._seen)
            if match:
                self._seen = match.end()
                return match
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise GuestError(f"{what}: nothing after {limit_s} s\n{self.tail()}")
            if not self._selector.select(min(left_s, 1.0)):
                continue
            data = self.process.stdout.read()
            if data == b"":
                code = self.process.wait()
                raise GuestError(f"{what}: the VMM ended with code {code}\n{self.tail()}")
            if data:
                self._log.write(data)
                self._console += data
                if b"Kernel panic" in data:
                    raise GuestError(f"{what}: the guest's kernel panicked\n{self.tail(40)}")

    def wait_ready(self, limit_s=BOOT_LIMIT_S):
        """Waits for the agent; returns the guest's uptime in seconds, which is small after a reboot."""
        match = self._wait_for(rb"@@libvhost ready ([0-9.]+)\s", limit_s, "boot of the guest")
        return float(match.group(1))

    def send(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise GuestError(f"the VMM is gone\n{self.tail()}") from None

    def run(self, command, limit_s=COMMAND_LIMIT_S, check=True):
        """Runs a shell command in the guest; returns its output, or (code, output) with check=False."""
        self._next_id += 1
        identity = f"{self._next_id}"
        start = self._seen
        self.send(f"{identity} {command}")
        match = self._wait_for(rb"@@libvhost %s ([0-9]+)\s" % identity.encode(), limit_s, f"guest: {command}")
        output = self._console[start:match.start()].decode(errors="replace").replace("\r", "").strip()
        code = int(match.group(1))
        if not check:
            return code, output
        if code != 0:
            raise GuestError(f"guest: {command}: exit code {code}\n{output}")
        return output

    def reboot(self):
        """Reboots and waits until the agent is back."""
        before = float(self.run("cut -d' ' -f1 /proc/uptime"))
        self.send("0 reboot -f")
        after = self.wait_ready()
        if after > before + BOOT_LIMIT_S:
            raise GuestError(f"the guest did not reboot: uptime {before} s, then {after} s")

    def power_off(self, limit_s=COMMAND_LIMIT_S):
        """Powers the guest off and returns the VMM's exit code."""
        self.send("0 poweroff -f")
        try:
            self._wait_for(rb"(?!)", limit_s, "power off")
        except GuestError:
            if self.process.poll() is None:
                raise
        return self.process.returncode
