# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A guest of QEMU's, or of our VMM's, with both devices served by vhost-backend: traffic on every path, and the network's going
on under load while its server is killed and started again."""

import contextlib
import os
import subprocess
import time

import traffic
from guest import Guest
from host import is_listening
from vmm import CPUS, GUEST_CID, TAP, Devices, Qemu, Skip, command_line, make_tap, remove_tap

LIMIT_S = 60
KILLS = 2


class Served:
    """vhost-backend for one device, for as long as the block lasts."""

    def __init__(self, program, log, *arguments):
        self.argv = [program, *arguments, "--verbose"]
        self.path = arguments[arguments.index("--socket") + 1]
        self.log = log
        self.process = None

    def __enter__(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv, stderr=log)
        deadline = time.monotonic() + LIMIT_S
        while not is_listening(self.path):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"{self.argv}: does not listen, exit code {self.process.poll()}: {self.said()}")
            time.sleep(0.05)
        return self

    def said(self):
        with open(self.log, encoding="utf-8") as log:
            return log.read()

    def kill_and_start_again(self):
        connections = self.said().count("has connected")
        self.process.kill()
        self.process.wait()
        self.__enter__()
        deadline = time.monotonic() + LIMIT_S
        while self.said().count("has connected") == connections:
            if time.monotonic() > deadline:
                raise AssertionError(f"the front end did not connect again: {self.said()}")
            time.sleep(0.05)

    def __exit__(self, kind, *_):
        self.process.terminate()
        code = self.process.wait(timeout=LIMIT_S)
        if not kind and code != 0:
            raise AssertionError(f"vhost-backend: exit code {code}: {self.said()}")


def qemu_argv(context, net_path, vsock_path):
    images = context.images
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
        "-machine", "q35,memory-backend=mem", "-object", "memory-backend-memfd,id=mem,size=256M,share=on",
        "-accel", "kvm", "-cpu", "host", "-smp", str(CPUS), "-m", "256M",
        "-kernel", images.kernel, "-initrd", images.initramfs, "-append", command_line(Devices()),
        "-chardev", f"socket,id=net,path={net_path},reconnect=1",
        "-netdev", "vhost-user,id=net0,chardev=net",
        "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56",
        "-chardev", f"socket,id=vsock,path={vsock_path}",
        "-device", "vhost-user-vsock-pci,chardev=vsock",
    ]


def vmm_argv(context, net_path, vsock_path):
    return [
        context.vmm.program, "--kernel", context.images.kernel, "--initrd", context.images.initramfs,
        "--append", command_line(Devices()), "--memory", "256M", "--cpus", str(CPUS),
        "--control-socket", context.vmm.socket,
        "--device", f"vhost-user-net-pci,id=net0,socket={net_path},mac=52:54:00:12:34:56",
        "--device", f"vhost-user-vsock-mmio,id=vsock0,socket={vsock_path},guest-cid={GUEST_CID}",
    ]


def serves_qemu(context):
    serves(context, qemu_argv)


def serves_vmm(context):
    serves(context, vmm_argv)


def serves(context, argv):
    if context.vmm.name == Qemu.name:
        raise Skip("runs guests of its own")
    program = os.path.join(os.path.dirname(os.path.dirname(context.vmm.program)), "vhost-backend/vhost-backend")
    folder = f"/run/libvhost-test-{os.getpid()}-user"
    os.makedirs(folder, exist_ok=True)
    uds, net_path, vsock_path = (os.path.join(folder, name) for name in ("uds", "net", "vsock"))
    log = os.path.join(context.results, f"{context.case}.")
    make_tap(Devices())
    with contextlib.ExitStack() as stack:
        stack.callback(remove_tap)
        net = stack.enter_context(Served(program, log + "net", "net", "--socket", net_path, "--tap", TAP))
        stack.enter_context(Served(program, log + "vsock", "vsock", "--socket", vsock_path, "--uds", uds,
                                   "--guest-cid", str(GUEST_CID)))
        guest = stack.enter_context(Guest(argv(context, net_path, vsock_path), log + "console"))
        guest.wait_ready()
        host = stack.enter_context(traffic.HostServer(context.stream, uds))
        traffic.start_server(guest)
        traffic.ping(guest)
        context.note(traffic.all_paths(guest, host, "2M"))
        with traffic.Background(guest, host):
            for _ in range(KILLS):
                net.kill_and_start_again()
                traffic.ping_once(guest)
        traffic.ping(guest)
        context.note({"kills of the network's server under traffic": KILLS})
        if guest.power_off() != 0:
            raise AssertionError(f"the VMM's exit code is not 0\n{guest.tail()}")
