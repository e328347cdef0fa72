# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""How a guest with given devices is started: by our reference VMM, or by QEMU, against which we compare.

Both see the same guest: one network device with 1 or 2 queue pairs on tap0, one vsock device with context id 42.
"""

import dataclasses
import json
import os
import socket
import subprocess

GUEST_IP = "192.168.77.2"
HOST_IP = "192.168.77.1"
GUEST_CID = 42
TAP = "tap0"
CPUS = 2


class Skip(Exception):
    """The test cannot run here. The text says what is missing."""


@dataclasses.dataclass(frozen=True)
class Devices:
    net: str = "pci"  # transport of the network device: pci or mmio
    vsock: str = "pci"
    queue_pairs: int = 1
    offload: str = "require"  # the policy of both: require, prefer or never
    packed: bool = False
    fifo: bool = False  # network queues of guest and host that drop nothing on their own

    def __str__(self):
        return f"net-{self.net}-{self.queue_pairs}q-vsock-{self.vsock}"


@dataclasses.dataclass(frozen=True)
class Images:
    kernel: str
    initramfs: str


# scripts/vm may know of something that guests on its host need.
COMMAND_LINE = " ".join(["console=ttyS0 quiet panic=-1", f"libvhost.agent libvhost.ip={GUEST_IP}/24",
                         os.environ.get("VM_GUEST_APPEND", "")])


def command_line(devices):
    # Debian's default, fq_codel, drops what has waited for long, as everything has on a slow machine.
    return COMMAND_LINE + (" sysctl.net.core.default_qdisc=pfifo_fast" if devices.fifo else "")


class Control:
    """A connection to a control socket (docs/control-protocol.md)."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(path)
        self._replies = self._socket.makefile("r")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._replies.close()
        self._socket.close()

    def ask(self, **request):
        self._socket.sendall(json.dumps({"version": 1, **request}).encode() + b"\n")
        reply = json.loads(self._replies.readline())
        if not reply["ok"]:
            raise AssertionError(f"{request}: {reply['error']}")
        return reply["result"]


class Reference:
    """src/vmm, the embedding example of this project, with every data queue required to be served by the kernel."""

    name = "vmm"

    def __init__(self, build):
        self.program = os.path.join(build, "src/vmm/vmm")
        self.ctl = os.path.join(build, "src/vhostctl/vhostctl")
        self.socket = f"/run/libvhost-test-{os.getpid()}.sock"
        self.uds_path = f"/run/libvhost-test-{os.getpid()}.vsock"
        self.vsock_hybrid = os.path.join(build, "tests/libvsock_hybrid.so")  # tests/vm/vsock_hybrid.cc
        if not os.access(self.program, os.X_OK):
            raise Skip(f"no {self.program}: not built")

    def argv(self, devices, images):
        common = f",vhost={devices.offload}" + (",packed=on" if devices.packed else "")
        net = f"virtio-net-{devices.net},id=net0,tap={TAP},mac=52:54:00:12:34:56,queues={devices.queue_pairs}{common}"
        vsock = f"vhost-vsock-{devices.vsock},id=vsock0,guest-cid={GUEST_CID}{common}"
        if devices.offload != "require":
            vsock += f",uds-path={self.uds_path}"
        return [
            self.program, "--kernel", images.kernel, "--initrd", images.initramfs, "--append", command_line(devices),
            "--memory", "256M", "--cpus", str(CPUS), "--control-socket", self.socket,
            "--device", net, "--device", vsock,
        ]

    def control(self):
        """The control socket itself, for requests by the hundred."""
        return Control(self.socket)

    def show(self, device):
        """What `vhostctl show DEVICE --json` says, as Python values."""
        out = subprocess.run([self.ctl, "--socket", self.socket, "show", device, "--json"],
                             capture_output=True, text=True, timeout=30, check=False)
        if out.returncode != 0:
            raise AssertionError(f"vhostctl show {device}: exit code {out.returncode}: {out.stderr.strip()}")
        return json.loads(out.stdout)


class Qemu:
    """Debian's QEMU with vhost: the peer that says what the kernel and the guest drivers do on their own."""

    name = "qemu"

    def argv(self, devices, images):
        if "mmio" in (devices.net, devices.vsock):
            raise Skip("QEMU's q35 machine has no virtio-mmio")
        pairs = devices.queue_pairs
        queues = f",queues={pairs}" if pairs > 1 else ""
        multi = f",mq=on,vectors={2 * pairs + 2}" if pairs > 1 else ""
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
            "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-smp", str(CPUS), "-m", "256M",
            "-kernel", images.kernel, "-initrd", images.initramfs, "-append", command_line(devices),
            "-netdev", f"tap,id=net0,ifname={TAP},script=no,downscript=no,vhost=on{queues}",
            "-device", f"virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,disable-legacy=on{multi}",
            "-device", f"vhost-vsock-pci,guest-cid={GUEST_CID},disable-legacy=on",
        ]


def make_tap(devices):
    """Makes tap0 anew, as an administrator would for a VMM without privileges, and gives the host its address."""
    commands = [
        f"ip tuntap add {TAP} mode tap vnet_hdr" + (" multi_queue" if devices.queue_pairs > 1 else ""),
        f"ip address add {HOST_IP}/24 dev {TAP}",
        # Nobody holds a sender back when the TAP's queue is full: what does not fit is lost.
        f"ip link set {TAP} txqueuelen 10000 up",
    ]
    if devices.fifo:
        commands.append(f"tc qdisc replace dev {TAP} root pfifo limit 10000")
    remove_tap()
    for command in commands:
        subprocess.run(command.split(), check=True, timeout=30)


def remove_tap():
    subprocess.run(["ip", "link", "delete", TAP], stderr=subprocess.DEVNULL, timeout=30, check=False)
