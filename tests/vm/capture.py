# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""`vhostctl capture` while bytes of a known number pass: what tshark counts in the file, against the TAP's own counters
and what was sent."""

import os
import re
import signal
import subprocess
import time

import traffic
from vmm import Skip
from world import WEB, World

AMOUNT = 200_000
LIMIT_S = 120


class Capture:
    """vhostctl capture, running once the block is entered; ended by SIGINT, as a person would."""

    def __init__(self, world, device, path):
        self.argv = [world.ctl, "capture", device, "--write", path]
        self.path = path
        self.packets = self.dropped = None

    def __enter__(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.process = subprocess.Popen(self.argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + LIMIT_S
        # The header is written when all is open.
        while not (os.path.exists(self.path) and os.path.getsize(self.path) > 0):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.argv}: no capture: {self.process.communicate(timeout=10)}")
            time.sleep(0.05)
        return self

    def __exit__(self, kind, *_):
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=LIMIT_S)
        if kind:
            return
        match = re.search(r": (\d+) packets?, (\d+) dropped", out)
        if self.process.returncode != 0 or not match:
            raise AssertionError(f"{self.argv}: {self.process.returncode}: {out}{err}")
        self.packets, self.dropped = int(match.group(1)), int(match.group(2))
        if self.dropped:
            raise AssertionError(f"{self.argv}: {self.dropped} packets of so few were dropped")


def tshark(path, *fields):
    """A tuple of these fields for each packet."""
    arguments = [word for field in fields for word in ("-e", field)]
    out = subprocess.run(["tshark", "-n", "-r", path, "-T", "fields", "-E", "separator=;", *arguments],
                         capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if out.returncode != 0:
        raise AssertionError(f"tshark -r {path}: {out.returncode}: {out.stderr}")
    return [tuple(line.split(";")) for line in out.stdout.splitlines()]


def captured_tcp(context, world, path):
    before = world.frames(WEB)
    with Capture(world, "web/net0", path) as capture:
        inside = world.frames(WEB)
        world.tcp(WEB, str(AMOUNT))
        inside = world.frames(WEB) - inside
    outside = world.frames(WEB) - before
    rows = tshark(path, "frame.number", "tcp.srcport", "tcp.dstport", "tcp.seq", "tcp.len", "ip.src", "frame.packet_flags_direction")
    if len(rows) != capture.packets:
        raise AssertionError(f"tshark reads {len(rows)} packets, vhostctl wrote {capture.packets}")
    payload = {WEB.guest_ip: {}, WEB.host_ip: {}}
    from_guest = 0
    for _, _, port, seq, length, source, direction in rows:
        from_guest += direction.endswith("1")  # inbound: what the host receives
        if port == str(traffic.TCP_PORT) and source in payload:
            payload[source][seq] = max(int(length), payload[source].get(seq, 0))
    for source, pieces in payload.items():
        if sum(pieces.values()) != AMOUNT:
            raise AssertionError(f"{sum(pieces.values())} bytes of TCP from {source} in the capture, not {AMOUNT}")
    if not inside <= from_guest <= outside:
        raise AssertionError(f"{from_guest} packets of the guest; the TAP counts {inside} within, {outside} with both ends")
    return len(rows)


def payload_by_destination(rows, interface):
    sums = {}
    for number, destination, port, operation, length in rows:
        # vsock.op 4: payload
        if int(number) == interface and int(operation) == 4 and port == str(traffic.VSOCK_PORT):
            sums[int(destination)] = sums.get(int(destination), 0) + int(length)
    return sums


def captured_vsock(context, world, path):
    """One capture over a handover: the kernel's part on one interface, the process's on the other."""
    with Capture(world, "web/vsock0", path) as capture:
        world.vsock(WEB, str(AMOUNT), in_process=False)
        world.vhostctl("handover", "web/vsock0", "--to", "in-process")
        world.vsock(WEB, str(AMOUNT), in_process=True)
    rows = tshark(path, "frame.interface_id", "vsock.dst_cid", "vsock.dst_port", "vsock.op", "vsock.virtio.len")
    if len(rows) != capture.packets:
        raise AssertionError(f"tshark reads {len(rows)} packets, vhostctl wrote {capture.packets}")
    names = dict(tshark(path, "frame.interface_id", "frame.interface_name"))
    for interface, name in names.items():
        sums = payload_by_destination(rows, int(interface))
        if sums != {2: AMOUNT, WEB.cid: AMOUNT}:
            raise AssertionError(f"{name}: payload by destination CID: {sums}, not {AMOUNT} each way")
    if sorted(names.values()) != ["vhost-vsock", "vsock0"]:
        raise AssertionError(f"packets are on the interfaces {names}")
    comments = tshark(path, "frame.comment", "frame.interface_name")
    bad = [text for text, name in comments if name == "vsock0" and not re.match(r"virtqueue [01] \([rt]x\), chain head \d+, ", text)]
    if bad:
        raise AssertionError(f"no chain is told with {len(bad)} packets, as {bad[0]!r}")
    return len(rows)


def no_trace():
    """Nothing that vhostctl made is left: not with it killed either."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=30).stdout
    if "vsockmon" in links:
        raise AssertionError(f"an interface was left: {links}")


def capture(context):
    if not hasattr(context.vmm, "ctl"):
        raise Skip("vhostctl goes with our VMM")
    if context.kernel != "6.12":
        raise Skip("done on kernel 6.12, which is enough")
    with World(context, [WEB]) as world:
        tcp = captured_tcp(context, world, os.path.join(context.results, "capture-net0.pcapng"))
        vsock = captured_vsock(context, world, os.path.join(context.results, "capture-vsock0.pcapng"))
        no_trace()
        context.note({"packets that tshark read": f"{tcp} of TCP, {vsock} of vsock, {AMOUNT} bytes each way"})
