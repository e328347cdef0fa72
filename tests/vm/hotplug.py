# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Devices that come and go while the guest runs: a second network device in a guest that has booted with one."""

import subprocess

import offload
import traffic
from guest import GuestError

TAP = "tapplug"
HOST_IP, GUEST_IP = "192.168.79.1", "192.168.79.2"
MAC = "52:54:00:12:36:01"
INTERFACE = f"basename $(dirname $(grep -l {MAC} /sys/class/net/*/address))"


def make_tap():
    remove_tap()
    for command in (f"ip tuntap add {TAP} mode tap vnet_hdr", f"ip address add {HOST_IP}/24 dev {TAP}", f"ip link set {TAP} up"):
        subprocess.run(command.split(), check=True, timeout=30)


def remove_tap():
    subprocess.run(["ip", "link", "delete", TAP], stderr=subprocess.DEVNULL, timeout=30, check=False)


def ctl(context, *arguments):
    """Exit code and output of vhostctl on our VM."""
    out = subprocess.run([context.vmm.ctl, "--socket", context.vmm.socket, *arguments], capture_output=True, text=True,
                         timeout=180, check=False)
    return out.returncode, out.stdout + out.stderr


def plug_and_unplug(context, bench):
    guest = bench.guest
    for device in ("virtio-net-pci", "virtio-net-pci-transitional"):
        code, said = ctl(context, "plug", f"{device},id=net1,tap={TAP},mac={MAC},vhost=prefer")
        if code != 0:
            raise AssertionError(f"plug {device}: exit code {code}: {said}")
        guest.run(f"until [ -n \"$({INTERFACE} 2>/dev/null)\" ]; do usleep 20000; done", limit_s=60)
        interface = guest.run(INTERFACE)
        guest.run(f"ip address add {GUEST_IP}/24 dev {interface} && ip link set {interface} up")
        guest.run(f"until ping -c 1 -W 1 {HOST_IP} >/dev/null; do :; done", limit_s=60)
        before = offload.Sample(context.vmm.show("net1"))
        code, output = guest.run(f"stream send tcp:{HOST_IP}:{traffic.TCP_PORT} 1M", check=False)
        traffic.rate_of(code, output, "guest to host over the new device")
        context.note({device: offload.prove(before, offload.Sample(context.vmm.show("net1")))})
        code, said = ctl(context, "unplug", "net1", "--timeout", "120")
        if code != 0:
            raise AssertionError(f"unplug: exit code {code}: {said}")
        try:
            left = guest.run(f"grep -l {MAC} /sys/class/net/*/address || true")
        except GuestError as error:
            raise AssertionError(f"the guest after the removal: {error}") from None
        if left:
            raise AssertionError(f"the guest still has {left}")
        code, said = ctl(context, "show", "net1")
        if code != 3:
            raise AssertionError(f"show after unplug: exit code {code}: {said}")


def refusals(context):
    for arguments, words in ((("plug", "virtio-net-mmio"), "only devices on PCI"),
                             (("plug", "virtio-net-pci,fds=5"), "fds"),
                             (("plug", "virtio-net-pci,id=net0"), "net0"),
                             (("plug", "virtio-net-pci,addr=1"), "slot 1 is taken"),
                             (("plug", "virtio-net-pic"), "did you mean")):
        code, said = ctl(context, *arguments)
        if code == 0 or words not in said:
            raise AssertionError(f"{' '.join(arguments)}: exit code {code}: {said}")
