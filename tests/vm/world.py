# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Two of our VMs side by side, found by vhostctl where it looks of itself: `web`, whose devices the kernel serves, and `db`,
whose devices are served in its own process."""

import dataclasses
import json
import os
import subprocess
import time

import traffic
from guest import Guest


@dataclasses.dataclass(frozen=True)
class Vm:
    name: str
    offload: str
    cid: int
    subnet: str  # of the TAP's two ends: the host is .1, the guest .2
    mac: str

    @property
    def tap(self):
        return f"tap-{self.name}"

    @property
    def uds_path(self):
        return f"/run/libvhost-{self.name}.vsock"

    @property
    def host_ip(self):
        return f"{self.subnet}.1"

    @property
    def guest_ip(self):
        return f"{self.subnet}.2"

    def argv(self, program, images):
        append = " ".join(["console=ttyS0 quiet panic=-1", f"libvhost.agent libvhost.ip={self.guest_ip}/24",
                           os.environ.get("VM_GUEST_APPEND", "")])
        return [program, "--name", self.name, "--kernel", images.kernel, "--initrd", images.initramfs, "--append", append,
                "--memory", "192M", "--cpus", "1",
                "--device", f"virtio-net-pci,id=net0,tap={self.tap},mac={self.mac},vhost={self.offload}",
                "--device", f"vhost-vsock-pci,id=vsock0,guest-cid={self.cid},vhost={self.offload},uds-path={self.uds_path}"]


WEB = Vm("web", "prefer", 42, "192.168.78", "52:54:00:12:34:56")
DB = Vm("db", "never", 43, "192.168.79", "52:54:00:12:34:57")


# As a login session has it: where the VMMs make their control sockets, and vhostctl looks for them.
RUNTIME_DIRECTORY = "/run/user/0"


def run(command):
    subprocess.run(command.split(), check=True, timeout=60)


class World:
    """Both VMs, booted at the same time, and the receiving ends of traffic. Leaves nothing behind."""

    def __init__(self, context, vms=(WEB, DB)):
        self.context, self.vms = context, vms
        self.ctl = context.vmm.ctl
        self.guests = {}
        self._servers = []

    def __enter__(self):
        os.makedirs(RUNTIME_DIRECTORY, mode=0o700, exist_ok=True)
        self._environment = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = RUNTIME_DIRECTORY
        try:
            for vm in self.vms:
                subprocess.run(["ip", "link", "delete", vm.tap], stderr=subprocess.DEVNULL, timeout=30, check=False)
                run(f"ip tuntap add {vm.tap} mode tap vnet_hdr")
                run(f"ip address add {vm.host_ip}/24 dev {vm.tap}")
                run(f"ip link set {vm.tap} up")
                log = os.path.join(self.context.results, f"{self.context.case}.{vm.name}.console")
                self.guests[vm.name] = Guest(vm.argv(self.context.vmm.program, self.context.images), log).__enter__()
            for vm in self.vms:
                guest = self.guests[vm.name]
                guest.wait_ready()
                guest.run(f"until ping -c 1 -W 1 {vm.host_ip} >/dev/null; do :; done", limit_s=60)
                traffic.start_server(guest)
            # Each serves the ports of both families; TCP's and AF_VSOCK's are the host's, and one server is enough.
            for serve in ([traffic.SERVE] + [f"serve unix:{vm.uds_path}:{traffic.VSOCK_PORT}" for vm in self.vms]):
                server = subprocess.Popen([self.context.stream, *serve.split()], stdout=subprocess.PIPE, text=True)
                self._servers.append(server)
                if "serving" not in server.stdout.readline():
                    raise AssertionError(f"stream cannot {serve}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for guest in self.guests.values():
            guest.__exit__()
        os.environ.pop("XDG_RUNTIME_DIR")
        if self._environment is not None:
            os.environ["XDG_RUNTIME_DIR"] = self._environment
        for server in self._servers:
            server.kill()
            server.wait()
            server.stdout.close()
        for vm in self.vms:
            subprocess.run(["ip", "link", "delete", vm.tap], stderr=subprocess.DEVNULL, timeout=30, check=False)

    def tcp(self, vm, amount="256K"):
        """Bytes from the guest to the host and back, each compared."""
        self.guests[vm.name].run(f"stream send tcp:{vm.host_ip}:{traffic.TCP_PORT} {amount}")
        self._send(f"tcp:{vm.guest_ip}:{traffic.TCP_PORT}", amount)

    def vsock(self, vm, amount="256K", in_process=None):
        in_process = vm.offload == "never" if in_process is None else in_process
        self.guests[vm.name].run(f"stream send vsock:2:{traffic.VSOCK_PORT} {amount}")
        self._send(f"unix:{vm.uds_path}:{traffic.VSOCK_PORT}" if in_process else f"vsock:{vm.cid}:{traffic.VSOCK_PORT}", amount)

    def _send(self, address, amount):
        out = subprocess.run([self.context.stream, "send", address, amount], capture_output=True, text=True,
                             timeout=traffic.LIMIT_S, check=False)
        if out.returncode != 0 or "verified=yes" not in out.stdout:
            raise AssertionError(f"host to {address}: {out.returncode}: {out.stdout}{out.stderr}")

    @staticmethod
    def frames(vm, direction="rx"):
        """As the TAP's interface counts them: "rx" those of the guest. (The guest's own count waits for buffers to come back.)"""
        with open(f"/sys/class/net/{vm.tap}/statistics/{direction}_packets", encoding="ascii") as file:
            return int(file.read())

    def wait_until_it_follows(self, follower):
        """Until `vhostctl events` has asked, and been heard: it waits in poll(2) then, and what is asked next is answered later."""
        deadline = time.monotonic() + traffic.LIMIT_S
        folder = f"/proc/{follower.pid}"
        while True:
            try:
                links = [os.readlink(f"{folder}/fd/{fd}") for fd in os.listdir(f"{folder}/fd")]
                with open(f"{folder}/syscall", encoding="ascii") as file:
                    waits = file.read().startswith("7 ")
            except OSError:  # an fd that is closed meanwhile
                links, waits = [], False
            if waits and any(link.startswith("socket:") for link in links):
                break
            if follower.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"vhostctl events does not listen, exit code {follower.poll()}")
            time.sleep(0.02)
        self.vhostctl("list")

    def vhostctl(self, *arguments, code=0):
        out = subprocess.run([self.ctl, *arguments], capture_output=True, text=True, timeout=120, check=False)
        if out.returncode != code:
            raise AssertionError(f"vhostctl {' '.join(arguments)}: exit code {out.returncode}: {out.stderr}")
        return out.stdout

    def json(self, *arguments):
        return json.loads(self.vhostctl(*arguments, "--json"))

    def pid(self, vm):
        return self.guests[vm.name].process.pid
