# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Drivers from before virtio 1: a network device on each transport that has an interface for them, served by each backend,
all in one guest. Traffic both ways over each, every byte compared, after its driver was unbound and bound again."""

import dataclasses
import os
import subprocess

import offload
import traffic
from guest import Guest
from vmm import Skip

VERSION_1 = 32
MAC = "52:54:00:12:35:"

# Transport, its --device, and what is asked of it besides. Without mergeable buffers the packet header has 10 bytes; without
# MSI-X vectors there are the interrupt line and the ISR.
FORMS = [
    ("pci transitional", "virtio-net-pci-transitional", {}),
    ("pci legacy", "virtio-net-pci,disable-modern=on", {"kernel": ",mrg_rxbuf=off", "in-process": ",vectors=0"}),
    ("mmio legacy", "virtio-net-mmio,legacy=on", {"in-process": ",mrg_rxbuf=off"}),
]
BACKENDS = {"kernel": "require", "in-process": "never"}


@dataclasses.dataclass
class Net:
    form: str
    backend: str
    device: str
    number: int

    @property
    def name(self):
        return f"net{self.number}"

    @property
    def tap(self):
        return f"tapl{self.number}"

    def ip(self, host):
        return f"192.168.{80 + self.number}.{1 if host else 2}"

    @property
    def mac(self):
        return f"{MAC}{self.number:02x}"

    def argv(self):
        return ["--device", f"{self.device},id={self.name},tap={self.tap},mac={self.mac},vhost={BACKENDS[self.backend]}"]


def nets():
    kinds = [(form, backend, device + extra.get(backend, "")) for form, device, extra in FORMS for backend in BACKENDS]
    return [Net(form, backend, device, number) for number, (form, backend, device) in enumerate(kinds)]


class Taps:
    def __init__(self, devices):
        self.devices = devices

    def __enter__(self):
        self.__exit__()
        for net in self.devices:
            for command in (f"ip tuntap add {net.tap} mode tap vnet_hdr", f"ip address add {net.ip(True)}/24 dev {net.tap}",
                            f"ip link set {net.tap} txqueuelen 10000 up"):
                subprocess.run(command.split(), check=True, timeout=30)

    def __exit__(self, *_):
        for net in self.devices:
            subprocess.run(["ip", "link", "delete", net.tap], stderr=subprocess.DEVNULL, timeout=30, check=False)


def bring_up(guest, net):
    """Gives the guest's side of a device its address; returns the features that its driver agreed on, as a set of bits."""
    find = f"basename $(dirname $(grep -l {net.mac} /sys/class/net/*/address))"
    guest.run(f"until [ -n \"$({find} 2>/dev/null)\" ]; do usleep 20000; done", limit_s=60)
    interface = guest.run(find)
    guest.run(f"ip address add {net.ip(False)}/24 dev {interface} && ip link set {interface} up")
    guest.run(f"until ping -c 1 -W 1 {net.ip(True)} >/dev/null; do :; done", limit_s=60)
    bits = guest.run(f"cat /sys/class/net/{interface}/device/features")
    return {bit for bit, value in enumerate(bits) if value == "1"}


def check(context, guest, host, net, features, is_forced):
    """Traffic over one device, and who its driver and its backend were: a cell of the table."""
    is_legacy = is_forced or net.form != "pci transitional"
    if (VERSION_1 in features) == is_legacy:
        raise AssertionError(f"{net.form}: the driver {'did not use' if is_legacy else 'used'} the legacy interface")
    shown = context.vmm.show(net.name)
    before = offload.Sample(shown)
    port = traffic.TCP_PORT
    code, output = guest.run(f"stream send tcp:{net.ip(True)}:{port} 2M", check=False)
    traffic.rate_of(code, output, f"{net.form}, {net.backend}: guest to host")
    host.send(f"tcp:{net.ip(False)}:{port}", "2M")
    offload.prove(before, offload.Sample(context.vmm.show(net.name)), net.backend)
    header = shown["device"]["taps"][0]["header_bytes"]
    return f"{'legacy' if is_legacy else 'modern'} driver, header {header}"


def table(cells):
    rows = [["transport", *BACKENDS]]
    rows += [[form, *(cells[form, backend] for backend in BACKENDS)] for form, _, _ in FORMS]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n" + "\n".join("        " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                            for row in rows)


def legacy(context, is_forced):
    """With `is_forced` the guest's virtio-pci uses the legacy interface also where there is the modern one."""
    if not hasattr(context.vmm, "show"):
        raise Skip("for our VMM")
    devices = nets()
    append = ["console=ttyS0 quiet panic=-1 libvhost.agent", os.environ.get("VM_GUEST_APPEND", "")]
    if is_forced:
        append.append("virtio_pci.force_legacy=1")
    argv = [context.vmm.program, "--kernel", context.images.kernel, "--initrd", context.images.initramfs, "--append",
            " ".join(append), "--memory", "256M", "--cpus", "1", "--control-socket", context.vmm.socket]
    for net in devices:
        argv += net.argv()
    host = traffic.HostServer(context.stream)
    host.serve = f"serve tcp:any:{traffic.TCP_PORT}"
    with Taps(devices), Guest(argv, os.path.join(context.results, f"{context.case}.console")) as guest, host:
        guest.wait_ready()
        # A driver that goes gives its queues back, which has a form of its own here.
        driver = "/sys/bus/virtio/drivers/virtio_net"
        guest.run(f"cd {driver} && for d in virtio*; do echo $d >unbind && echo $d >bind || exit 1; done")
        guest.run(f"stream serve tcp:any:{traffic.TCP_PORT} >/tmp/serve 2>&1 &")
        guest.run("until grep -q serving /tmp/serve; do usleep 20000; done", limit_s=30)
        cells = {}
        for net in devices:
            features = bring_up(guest, net)
            cells[net.form, net.backend] = check(context, guest, host, net, features, is_forced)
        context.note({"served": table(cells)})
        code = guest.power_off()
        if code != 0:
            raise AssertionError(f"the VMM's exit code after power off is {code}\n{guest.tail()}")
