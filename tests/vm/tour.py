# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""docs/vhostctl.md: a tour of vhostctl whose every command was run here, with the output that it gave. scripts/tour writes it
anew; the end-to-end test `tour` fails where what a command prints has another shape than the page says."""

import difflib
import os
import re
import shutil
import subprocess

from vmm import Skip
from world import DB, WEB, World

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PAGE = os.path.join(ROOT, "docs/vhostctl.md")
COMMAND_LIMIT_S = 120

# What is said, and what is run then: "$ COMMAND" is run and its output shown; "guest WEB: COMMAND" in a guest, silently.
TOUR = """
# A tour of vhostctl

`scripts/tour` made this page: it booted two virtual machines on a host with vhost (`scripts/vm --kernel 6.12`), ran each command
below, and wrote down what it printed. A test runs them again, so the page cannot rot. Numbers are those of one run.

The two VMs are run by this project's reference VMM, as an embedding program would be: `web`, whose devices the kernel serves, and
`db`, whose devices are served in its own process. Each has a network device on a TAP and a socket device.
`man vhostctl` has all verbs and options; each verb has `--help`.

## What is there

$ vhostctl list

A line a device. `web`'s workers are vhost's threads, `db`'s the process's own. Had this host a QEMU with `vhost=on`, it would be here
too, with `?` for what `/proc` does not tell.

## All of one device

$ vhostctl show web/net0

From the top: the driver is up (`DRIVER_OK`), the kernel serves through `/dev/vhost-net`, and no backend was passed over, or the reason
would stand there. Then a block a virtqueue. `avail` and `used` are read from the live ring, without stopping anything; `kicks` is what
the queue's eventfd has counted. File descriptors are those of the VMM, as in `/proc/PID/fd`. The wiring says how the guest's
notifications reach the worker (`ioeventfd`: without the VMM) and how interrupts get back (`irqfd`).

The other VM's socket device lives in its process; its connections are told as well. Here one that a program of the guest has opened:

hold db

$ vhostctl show db/vsock0 | sed -n '/^  connections/,$p' | head -2

drop db

## What the queues do

Traffic runs in both VMs. Two looks at the reports, a second apart, and the differences:

busy

$ vhostctl stats

quiet

`DEPTH` is what is in flight, `SUPPRESSED` the share of interrupts that the driver did not want, `CPU` the share of a processor that the
serving thread uses. The kernel does not count packets of its own queues, so those are `-`; the rates of an emulated host mean nothing.

## Moving a device

Two terminals. In one, what happens is told as it happens:

follow vhostctl events web/net0 --count 1

In the other, the device is moved from the kernel into the VMM's process, while the guest runs:

$ vhostctl handover web/net0 --to in-process --reason "the tour"

The first terminal has this meanwhile:

followed

The guest has noticed nothing. Back again:

$ vhostctl handover web/net0 --to kernel

A device that was moved keeps a diary:

$ vhostctl show web/net0 --json | sed -n '/"handovers"/,/]/p'

`--json` is there with every verb; [control-protocol.md](control-protocol.md) has its members.

## Looking at packets

A capture of `db`'s socket device, which no kernel sees. While it runs, a program of the guest sends 1000 bytes to the host:

capture db

$ tshark -n -r db.pcapng -c 3 -T fields -e vsock.src_cid -e vsock.dst_cid -e vsock.virtio.len -e frame.comment 2>/dev/null

Of a network device the same command takes the frames from its TAP, of a socket device in the kernel those of vsockmon. Without
`--write` the packets go to stdout: `vhostctl capture web/net0 | tshark -r -`.

## Can this host offload?

$ vhostctl doctor --for net | head -24

Each line is what was tried, and below it what it means; where something is in the way, the command that mends it. The exit code tells scripts.

## Metrics

$ vhostctl metrics | grep -E '^vhost_(device_info|vring_used_index|worker_cpu)' | grep web

[metrics.md](metrics.md) lists them, with alert rules for Prometheus. `--textfile` writes them where node_exporter looks.

## When something is wrong

$ vhostctl show web/net7

$ vhostctl pause web/net0 && vhostctl list | grep web && vhostctl resume web/net0

A paused device's guest waits, and nothing is lost. For a bug report, `vhostctl bundle --output bundle.json` puts into one file what
doctor says, all reports with their last events, and what the threads are doing; no payload is in it.
"""


class Tour:
    """The page, made while it is walked through."""

    def __init__(self, world):
        self.world = world
        self.folder = "/tmp/libvhost-tour"
        shutil.rmtree(self.folder, ignore_errors=True)
        os.mkdir(self.folder)
        self.follower = None

    def run(self, command):
        environment = os.environ | {"PATH": f"{os.path.dirname(self.world.ctl)}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        out = subprocess.run(["bash", "-c", command], cwd=self.folder, env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, timeout=COMMAND_LIMIT_S, check=False)
        code = [f"(exit code {out.returncode})"] if out.returncode else []
        return out.stdout.splitlines() + code

    def step(self, line):
        """What a line of TOUR becomes; None: it is no command."""
        word, _, rest = line.partition(" ")
        if word == "$":
            return self.example(rest, self.run(rest))
        action = getattr(self, f"do_{word}", None)
        return action(rest) if action and word.isalpha() and word.islower() else None

    @staticmethod
    def example(command, output):
        return ["```console", f"$ {command}", *(line.rstrip() for line in output), "```"]

    # ---- What happens off stage --------------------------------------------------------------------

    def do_hold(self, _):
        guest = self.world.guests[DB.name]
        guest.run("stream send-until-term vsock:2:5001 >/tmp/held 2>&1 & echo $! >/tmp/held.id")
        while not self.world.json("show", "db/vsock0")["device"]["backend"]["sockets"]["connections"]:
            pass
        return []

    def do_drop(self, _):
        guest = self.world.guests[DB.name]
        guest.run("kill $(cat /tmp/held.id); while [ -d /proc/$(cat /tmp/held.id) ]; do usleep 50000; done")
        return []

    def do_busy(self, _):
        for vm in (WEB, DB):
            self.world.guests[vm.name].run(
                f"stream send-until-term tcp:{vm.host_ip}:5001 >/tmp/busy 2>&1 & echo $! >/tmp/busy.id")
        return []

    def do_quiet(self, _):
        for vm in (WEB, DB):
            self.world.guests[vm.name].run("kill $(cat /tmp/busy.id); while [ -d /proc/$(cat /tmp/busy.id) ]; do usleep 50000; done")
        return []

    def do_follow(self, command):
        self.follower = subprocess.Popen([self.world.ctl, *command.split()[1:]], stdout=subprocess.PIPE, text=True)
        self.world.wait_until_it_follows(self.follower)
        return ["```console", f"$ {command}", "```"]

    def do_followed(self, _):
        output, _ = self.follower.communicate(timeout=COMMAND_LIMIT_S)
        return ["```", *output.splitlines(), "```"]

    def do_capture(self, _):
        command = "vhostctl capture db/vsock0 --write db.pcapng --packets 6"
        file = os.path.join(self.folder, "db.pcapng")
        running = subprocess.Popen([self.world.ctl, *command.split()[1:]], cwd=self.folder, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        while not (os.path.exists(file) and os.path.getsize(file)):
            if running.poll() is not None:
                raise AssertionError(f"{command}: {running.communicate()}")
        self.world.guests[DB.name].run("stream send vsock:2:5001 1000")
        output, _ = running.communicate(timeout=COMMAND_LIMIT_S)
        return self.example(command, output.splitlines())

    def page(self):
        lines = []
        for line in TOUR.strip().splitlines():
            made = self.step(line)
            lines += [line] if made is None else made
        # Steps off stage leave two empty lines.
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def shape(page):
    """The page without what may be another the next time."""
    lines = []
    for line in page.splitlines():
        if re.match(r"  receive filter: ", line):
            line = "  receive filter:"  # IPv6 may still be about to ask for more
        if re.match(r"(web|db) +\w+ +\d ", line):
            line = " ".join(line.split()[:5])  # a queue's rates, and what is the matter with it now
        line = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME", line)
        line = re.sub(r"0x[0-9a-f]+", "N", line)
        line = re.sub(r"(?<![a-z])\d+(\.\d+)?(e[-+]\d+)?%?", "N", line)
        line = re.sub(r"(?<=\s)-(?=\s|$)", "N", line)  # a cell that is empty now
        lines.append(" ".join(line.split()))
    return lines


def walk(context):
    """The page as this host makes it."""
    with World(context) as world:
        for vm in (WEB, DB):
            world.tcp(vm, "64K")
        world.vsock(WEB, "64K")
        return Tour(world).page()


def tour(context):
    if not hasattr(context.vmm, "ctl"):
        raise Skip("vhostctl goes with our VMM")
    if context.kernel != "6.12":
        raise Skip("the page is of kernel 6.12, and others offer other features")
    made = walk(context)
    with open(os.path.join(context.results, "vhostctl.md"), "w", encoding="utf-8") as file:
        file.write(made)
    with open(PAGE, encoding="utf-8") as file:
        committed = file.read()
    difference = list(difflib.unified_diff(shape(committed), shape(made), "docs/vhostctl.md", "this run", lineterm="", n=1))
    if difference:
        raise AssertionError("the tour has changed; look at it, and run scripts/tour:\n" + "\n".join(difference[:60]))
    context.note({"commands": committed.count("\n$ ")})
