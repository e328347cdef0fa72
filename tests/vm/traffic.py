# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Traffic between guest and host over every path that we serve, each byte compared at the receiver (stream.cc)."""

import re
import socket
import subprocess
import time

from vmm import GUEST_CID, GUEST_IP, HOST_IP

TCP_PORT = 5001
VSOCK_PORT = 5001
SEQPACKET_PORT = 5002
UDP_PORT = 5003
LIMIT_S = 120

# label, the address when the guest sends, the address when the host sends
PATHS = {
    "tcp": (f"tcp:{HOST_IP}:{TCP_PORT}", f"tcp:{GUEST_IP}:{TCP_PORT}"),
    "vsock": (f"vsock:2:{VSOCK_PORT}", f"vsock:{GUEST_CID}:{VSOCK_PORT}"),
    "seqpacket": (f"seqpacket:2:{SEQPACKET_PORT}", f"seqpacket:{GUEST_CID}:{SEQPACKET_PORT}"),
}
SERVE = f"serve tcp:any:{TCP_PORT} vsock:any:{VSOCK_PORT} seqpacket:any:{SEQPACKET_PORT} udp:any:{UDP_PORT}"


def paths(uds_path=None):
    """The paths above; with `uds_path`, those to a socket device that is served in process, whose host side is there."""
    if uds_path is None:
        return PATHS
    return PATHS | {
        "vsock": (PATHS["vsock"][0], f"unix:{uds_path}:{VSOCK_PORT}"),
        "seqpacket": (PATHS["seqpacket"][0], f"unixseq:{uds_path}:{SEQPACKET_PORT}"),
    }


class HostServer:
    """The receiving end on the host, for as long as the block lasts."""

    def __init__(self, program, uds_path=None):
        self.program = program
        self.paths = paths(uds_path)
        self.serve = SERVE
        if uds_path is not None:
            self.serve += f" unix:{uds_path}:{VSOCK_PORT} unixseq:{uds_path}:{SEQPACKET_PORT}"
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen([self.program, *self.serve.split()], stdout=subprocess.PIPE, text=True)
        if "serving" not in self.process.stdout.readline():
            raise AssertionError("stream cannot serve on the host; its message is above")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def send(self, address, amount):
        out = subprocess.run([self.program, "send", address, amount], capture_output=True, text=True,
                             timeout=LIMIT_S, check=False)
        return rate_of(out.returncode, out.stdout + out.stderr, f"host to {address}")


def rate_of(code, text, what):
    match = re.search(r"bytes=(\d+) seconds=\S+ MBps=(\S+) verified=yes", text)
    if code != 0 or not match or match.group(1) == "0":
        raise AssertionError(f"{what}: exit code {code}: {text.strip()}")
    return float(match.group(2))


def start_server(guest):
    """Starts the receiving end in the guest, once a boot; returns when its sockets listen."""
    guest.run(f"stream {SERVE} >/tmp/serve 2>&1 &")
    guest.run("until grep -q serving /tmp/serve; do usleep 20000; done", limit_s=30)


def ping_once(guest):
    """Until there is a reply, be it to the tenth request."""
    guest.run(f"until ping -c 1 -W 1 {HOST_IP} >/dev/null; do :; done", limit_s=30)


def ping(guest):
    """The first reply may wait for the link and for ARP; after it none may be lost."""
    ping_once(guest)
    output = guest.run(f"ping -c 3 -i 0.2 -W 5 {HOST_IP}")
    if "3 packets received" not in output:
        raise AssertionError(f"ping lost packets:\n{output}")


def from_guest(guest, path, amount):
    code, output = guest.run(f"stream send {PATHS[path][0]} {amount}", limit_s=LIMIT_S, check=False)
    return rate_of(code, output, f"guest to {PATHS[path][0]}")


def all_paths(guest, host, amount="4M"):
    """Every path, each way; returns MB/s by path and direction. The rates are for people: they vary too much to test."""
    rates = {}
    for path, (_, to_guest) in host.paths.items():
        rates[f"{path} guest to host"] = from_guest(guest, path, amount)
        rates[f"{path} host to guest"] = host.send(to_guest, amount)
    return rates


class Numbered:
    """Numbered datagrams from one CPU of the guest to the host and back, for as long as the block lasts. The guest's driver
    picks the queue by the CPU: what changes CPUs also changes queues, between which there is no order."""

    def __init__(self, guest, rate, cpu=0, is_judged=True):
        self.guest, self.rate, self.cpu, self.is_judged = guest, rate, cpu, is_judged
        self.path = f"/tmp/numbered.{cpu}"
        self.facts = {}

    def __enter__(self):
        self.guest.run(f"taskset {1 << self.cpu:x} stream ping-until-term udp:{HOST_IP}:{UDP_PORT} {self.rate} "
                       f">{self.path} 2>&1 & echo $! >{self.path}.id")
        return self

    def __exit__(self, kind, *_):
        if kind:
            return
        self.guest.run(f"kill $(cat {self.path}.id)")
        self.guest.run(f"while [ -d /proc/$(cat {self.path}.id) ]; do usleep 50000; done", limit_s=LIMIT_S)
        text = self.guest.run(f"cat {self.path}")
        self.facts = {key: float(value) for key, value in re.findall(r"(\w+)=([0-9.]+)", text)}
        self.is_whole = not any(self.facts.get(key) for key in ("lost", "twice", "reordered"))
        if not self.facts.get("sent") or (self.is_judged and not self.is_whole):
            count = "grep Udp: /proc/net/snmp; cat /sys/class/net/*/statistics/tx_dropped | tr '\\n' ' '"
            on_host = subprocess.run(["sh", "-c", count], capture_output=True, text=True, check=False).stdout
            raise AssertionError(f"numbered datagrams: {text.strip()}\nhost: {on_host}\nguest: {self.guest.run(count)}")


class OneAtATime:
    """One datagram from the host to the guest and back, with nothing else on the wires: a wake-up that is lost is made up
    for by nothing, and the answer does not come."""

    def __init__(self):
        self.number = 0
        self.ms = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((GUEST_IP, UDP_PORT))
        self.socket.settimeout(LIMIT_S / 4)

    def during(self, step):
        """The datagram is on its way while `step` is done."""
        self.number += 1
        data = self.number.to_bytes(8, "little")
        start = time.monotonic()
        self.socket.send(data)
        step()
        try:
            while (got := self.socket.recv(64)) != data:
                if int.from_bytes(got, "little") >= self.number:
                    raise AssertionError(f"datagram {self.number} came back as {got.hex()}")
        except TimeoutError as error:
            raise AssertionError(f"datagram {self.number} did not come back: {len(self.ms)} before it did") from error
        self.ms.append((time.monotonic() - start) * 1000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


class Background:
    """Traffic that must survive what the block does to the device: TCP both ways for as long as the block lasts."""

    def __init__(self, guest, host):
        self.guest, self.host = guest, host

    def __enter__(self):
        to_host, to_guest = PATHS["tcp"]
        self.guest.run(f"stream send-until-term {to_host} >/tmp/background 2>&1 & echo $! >/tmp/background.id")
        self.sender = subprocess.Popen([self.host.program, "send-until-term", to_guest],
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.sender.kill()
            self.sender.communicate()
            return
        self.sender.terminate()
        self.guest.run("kill $(cat /tmp/background.id)")
        text, _ = self.sender.communicate(timeout=LIMIT_S)
        rate_of(self.sender.returncode, text, "host to guest, during the change")
        self.guest.run("while [ -d /proc/$(cat /tmp/background.id) ]; do usleep 50000; done", limit_s=LIMIT_S)
        rate_of(0, self.guest.run("cat /tmp/background"), "guest to host, during the change")
