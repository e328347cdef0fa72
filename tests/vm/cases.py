# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The end-to-end tests: what a guest's administrator does to its devices, and that traffic is right afterwards."""

import contextlib
import itertools
import os
import random
import re

import capture
import doctor
import host
import hotplug
import legacy
import offload
import tour
import traffic
import truth
import vhost_backend
import vhost_user
from guest import Guest
from vmm import GUEST_IP, HOST_IP, TAP, Devices, Skip, make_tap, remove_tap
from vsock_suite import vsock_suite, vsock_suite_in_process

CASES = {}


def case(name):
    def add(function):
        CASES[name] = function
        return function

    return add


class Bench:
    """One guest, ready, with both ends of the traffic running. Leaves nothing behind."""

    def __init__(self, context, devices, images=None, servers=True):
        self.context, self.devices, self.images, self.servers = context, devices, images or context.images, servers
        in_process = devices.offload != "require"
        self.host = traffic.HostServer(context.stream, context.vmm.uds_path if in_process else None)

    def __enter__(self):
        argv = self.context.vmm.argv(self.devices, self.images)
        make_tap(self.devices)
        log = os.path.join(self.context.results, f"{self.context.case}.console")
        self.guest = Guest(argv, log).__enter__()
        try:
            self.guest.wait_ready()
            if self.servers:
                self.host.__enter__()
                traffic.start_server(self.guest)
            traffic.ping(self.guest)
        except BaseException:
            self.__exit__(True)
            raise
        return self

    def __exit__(self, kind, *_):
        try:
            if not kind:
                code = self.guest.power_off()
                if code != 0:
                    raise AssertionError(f"the VMM's exit code after power off is {code}\n{self.guest.tail()}")
        finally:
            self.guest.__exit__()
            if self.host.process:
                self.host.__exit__()
            remove_tap()

    def again(self):
        """After a step that took the network away."""
        traffic.ping(self.guest)
        return traffic.all_paths(self.guest, self.host, "1M")


def settings(guest):
    """`ethtool -k eth0` as a dictionary of booleans."""
    rows = re.findall(r"^\s*([a-z0-9-]+): (on|off)", guest.run("ethtool -k eth0"), re.MULTILINE)
    return {name: value == "on" for name, value in rows}


def queue_pairs(guest):
    return int(re.findall(r"Combined:\s*(\d+)", guest.run("ethtool -l eth0"))[1])


def expect_offloads(guest):
    have = settings(guest)
    missing = [name for name in ("tx-checksumming", "tcp-segmentation-offload", "scatter-gather") if not have.get(name)]
    if missing:
        raise AssertionError(f"the guest's driver was not offered {', '.join(missing)}")


def expect_packed(context):
    for device in ("net0", "vsock0"):
        acked = context.vmm.show(device)["device"]["acked"]
        if "VIRTIO_F_RING_PACKED" not in str(acked):
            raise AssertionError(f"{device}: the driver did not ack packed rings: {acked}")


def packets_by_queue(guest):
    """Packets that each transmit and receive queue of eth0 has carried, by the driver's own count."""
    rows = re.findall(r"((?:rx|tx)(?:_queue_)?\d+)_packets: (\d+)", guest.run("ethtool -S eth0"))
    return {name: int(count) for name, count in rows}


def samples(bench):
    """What vhostctl says of both devices; nothing under QEMU."""
    vmm = bench.context.vmm
    return [offload.Sample(vmm.show(device)) for device in ("net0", "vsock0")] if hasattr(vmm, "show") else []


def boot_and_traffic(context, devices, backend="kernel"):
    with Bench(context, devices) as bench:
        expect_offloads(bench.guest)
        have = queue_pairs(bench.guest)
        if have != devices.queue_pairs:
            raise AssertionError(f"the driver uses {have} queue pairs of {devices.queue_pairs}")
        if devices.packed:
            expect_packed(context)
        before = samples(bench)
        context.note(traffic.all_paths(bench.guest, bench.host, "8M"))
        for first, last in zip(before, samples(bench)):
            context.note({first.name: offload.prove(first, last, backend)})
        return samples(bench)


for _net, _pairs, _vsock in itertools.product(("pci", "mmio"), (1, 2), ("pci", "mmio")):
    _devices = Devices(net=_net, vsock=_vsock, queue_pairs=_pairs)
    CASES[f"traffic-{_devices}"] = lambda context, devices=_devices: boot_and_traffic(context, devices)


for _transport, _pairs, _packed in itertools.product(("pci", "mmio"), (1, 2), (False, True)):
    _devices = Devices(net=_transport, vsock=_transport, queue_pairs=_pairs, offload="never", packed=_packed)
    CASES[f"in-process-{_transport}-{_pairs}q-{'packed' if _packed else 'split'}"] = (
        lambda context, devices=_devices: boot_and_traffic(context, devices, "in-process"))


def fall_back(context, obstacle, reason):
    """The kernel is preferred, cannot serve, and the same guest has the same traffic; `vhostctl show` says why."""
    if not hasattr(context.vmm, "show"):
        raise Skip("QEMU has no in-process vsock device, and does not tell")
    with obstacle:
        for shown in boot_and_traffic(context, Devices(queue_pairs=2, offload="prefer"), "in-process"):
            if not any(reason in text for text in shown.reasons):
                raise AssertionError(f"{shown.name}: no reason with {reason!r} is shown: {shown.reasons}")
            context.note({f"{shown.name}, why": shown.reasons[0]})


HANDOVERS = 1000
QUIET_HANDOVERS = 300
DATAGRAMS_PER_S = 1000


def hand_over_quietly(context, choice):
    """Every other datagram meets a handover on its way. Nothing else wakes anybody: what is missed stays missed."""
    with context.vmm.control() as control, traffic.OneAtATime() as alone, traffic.OneAtATime() as moved:
        for _ in range(QUIET_HANDOVERS):
            alone.during(lambda: None)
            to = choice.choice(("kernel", "in-process"))
            moved.during(lambda to=to: control.ask(command="handover", device="net0", to=to))

    def spread(ms):
        ms = sorted(ms)
        return f"{ms[len(ms) // 2]:.1f} median, {ms[len(ms) * 99 // 100]:.1f} p99, {ms[-1]:.1f} longest"

    context.note({"one datagram at a time, ms": f"{spread(moved.ms)}; without handovers {spread(alone.ms)}"})


def hand_over(context, devices):
    """Net moves between the kernel and this process, over and over, under TCP both ways and numbered datagrams."""
    if not hasattr(context.vmm, "control"):
        raise Skip("QEMU does not move a running device")
    choice = random.Random(1)
    with Bench(context, devices) as bench:
        bench.host.paths = traffic.paths()  # vsock0 stays with the kernel
        def numbered(stack, is_judged):
            return [stack.enter_context(traffic.Numbered(bench.guest, DATAGRAMS_PER_S, cpu, is_judged))
                    for cpu in range(devices.queue_pairs)]

        with contextlib.ExitStack() as stack:
            stack.enter_context(traffic.Background(bench.guest, bench.host))
            alone = numbered(stack, is_judged=False)
            bench.guest.run("sleep 10")
        # A host so busy that the kernel alone loses datagrams says nothing of handovers.
        is_judged = all(stream.is_whole for stream in alone)
        if not is_judged:
            context.note({"not judged, as datagrams are lost here without handovers": [stream.facts for stream in alone]})
        stopped_us = []
        with contextlib.ExitStack() as stack:
            control = stack.enter_context(context.vmm.control())
            stack.enter_context(traffic.Background(bench.guest, bench.host))
            moved = numbered(stack, is_judged)
            while len(stopped_us) < HANDOVERS:
                to = choice.choice(("kernel", "in-process"))
                done = control.ask(command="handover", device="net0", to=to)["handover"]
                if done.get("stopped_us") is not None:
                    stopped_us.append(done["stopped_us"])
        stopped_us.sort()

        def longest_gap(streams):
            return max(stream.facts["longest_gap_ms"] for stream in streams)

        context.note({"handovers": len(stopped_us), "datagrams": sum(int(stream.facts["sent"]) for stream in moved),
                      "stopped": f"{stopped_us[len(stopped_us) // 2]} us median, {stopped_us[len(stopped_us) * 99 // 100]} us p99",
                      "longest gap": f"{longest_gap(moved)} ms, {longest_gap(alone)} ms without"})
        hand_over_quietly(context, choice)
        bench.again()


for _pairs in (1, 2):
    CASES[f"handover-{_pairs}q"] = (
        lambda context, devices=Devices(queue_pairs=_pairs, offload="prefer", fifo=True): hand_over(context, devices))


@case("fallback-no-module")
def fall_back_without_module(context):
    fall_back(context, host.WithoutVhost(), "ENOENT")


@case("fallback-no-permission")
def fall_back_without_permission(context):
    fall_back(context, host.VhostForbidden(), "EACCES")


def both_transports(name):
    """Adds a case once with every device on PCI and once on MMIO."""

    def add(function):
        for transport in ("pci", "mmio"):
            devices = Devices(net=transport, vsock=transport, queue_pairs=2)
            CASES[f"{name}-{transport}"] = lambda context, devices=devices: function(context, devices)
        return function

    return add


@both_transports("reboot")
def reboot(context, devices):
    """A reboot resets the devices under a running backend; the new kernel must find them as the first did."""
    with Bench(context, devices) as bench:
        for _ in range(2):
            bench.guest.reboot()
            traffic.start_server(bench.guest)
            bench.again()


def rebind(bench, bus, driver, device):
    """Takes the driver off a device and gives it back, twice: the second round starts from what the first left."""
    path = f"/sys/bus/{bus}/drivers/{driver}"
    for _ in range(2):
        bench.guest.run(f"echo {device} >{path}/unbind")
        bench.guest.run(f"echo {device} >{path}/bind")


def bound(guest, bus, driver):
    names = guest.run(f"cd /sys/bus/{bus}/drivers/{driver} && ls -d *[0-9] 2>/dev/null || true").split()
    if not names:
        raise AssertionError(f"no device is bound to {driver}")
    return names


@both_transports("rebind")
def driver_rebind(context, devices):
    """Unbind and bind again: the virtio drivers first, then what is below them, the transports' drivers."""
    with Bench(context, devices) as bench:
        guest = bench.guest
        address = f"until ip link set eth0 up 2>/dev/null; do usleep 20000; done; ip address replace {GUEST_IP}/24 dev eth0"
        rebind(bench, "virtio", "virtio_net", bound(guest, "virtio", "virtio_net")[0])
        guest.run(address)
        bench.again()
        rebind(bench, "virtio", "vmw_vsock_virtio_transport", bound(guest, "virtio", "vmw_vsock_virtio_transport")[0])
        bench.again()
        bus, driver = ("pci", "virtio-pci") if devices.net == "pci" else ("platform", "virtio-mmio")
        for device in bound(guest, bus, driver):
            rebind(bench, bus, driver, device)
        guest.run(address)
        bench.again()


@both_transports("ethtool-channels")
def channels(context, devices):
    """`ethtool -L` while TCP runs both ways, and both queue pairs carry packets when there are two."""
    with Bench(context, devices) as bench:
        guest = bench.guest
        with traffic.Background(guest, bench.host):
            for pairs in (1, 2, 1, 2):
                guest.run(f"ethtool -L eth0 combined {pairs}")
                if queue_pairs(guest) != pairs:
                    raise AssertionError(f"ethtool -L combined {pairs} left {queue_pairs(guest)}")
                guest.run(f"ping -c 2 -i 0.2 -W 5 {HOST_IP}")
        before = packets_by_queue(guest)
        for cpu in (0, 1):
            guest.run(f"taskset {cpu + 1} stream send tcp:{HOST_IP}:{traffic.TCP_PORT} 1M")
        after = packets_by_queue(guest)
        idle = [name for name in after if name.startswith("tx") and after[name] == before.get(name, 0)]
        if idle:
            raise AssertionError(f"no packet went through {', '.join(idle)}: {before} {after}")


@both_transports("ethtool-offloads")
def offloads(context, devices):
    """`ethtool -K` while TCP runs both ways: each switch takes effect and the bytes stay right."""
    with Bench(context, devices) as bench:
        guest = bench.guest
        changed = []
        with traffic.Background(guest, bench.host):
            for short, name in (("tso", "tcp-segmentation-offload"), ("tx", "tx-checksumming"),
                                ("rx-gro-hw", "rx-gro-hw")):
                for value in ("off", "on"):
                    code, output = guest.run(f"ethtool -K eth0 {short} {value}", check=False)
                    if code == 0 and settings(guest).get(name) == (value == "on"):
                        changed.append(name)
                    elif name != "rx-gro-hw":  # only where the device offers CTRL_GUEST_OFFLOADS
                        raise AssertionError(f"ethtool -K {short} {value} did not take: {output}")
            # Turning tx off took tso with it.
            guest.run("ethtool -K eth0 tx on tso on")
        context.note({"switched": ", ".join(sorted(set(changed)))})
        expect_offloads(guest)
        bench.again()


@both_transports("vsock-test")
def kernels_vsock_test(context, devices):
    """The kernel's own vsock tests between the guest and this host, both roles."""
    images = context.images_with_vsock_test()
    # vsock_diag_test counts the sockets that there are: ours would be among them.
    with Bench(context, devices, images, servers=False) as bench:
        context.note(vsock_suite(context, bench.guest))


@case("vsock-test-in-process")
def kernels_vsock_test_in_process(context):
    """The same where this process serves the guest's vsock: what unix sockets on the host's side can show of it."""
    if not hasattr(context.vmm, "uds_path"):
        raise Skip("QEMU has no in-process vsock device")
    images = context.images_with_vsock_test()
    with Bench(context, Devices(offload="never"), images, servers=False) as bench:
        context.note(vsock_suite_in_process(context, bench.guest))


CASES["doctor"] = doctor.doctor
CASES["capture"] = capture.capture
CASES["inspect"] = truth.truth
CASES["tour"] = tour.tour


def one_kernel(context):
    """For what guests of all kernels do alike."""
    if context.kernel != "6.12":
        raise Skip("on one kernel, 6.12")


@case("hotplug")
def plug_and_unplug(context):
    """A second network device comes and goes twice; the first does not mind."""
    if not hasattr(context.vmm, "show"):
        raise Skip("for our VMM")
    one_kernel(context)
    hotplug.make_tap()
    try:
        with Bench(context, Devices()) as bench:
            hotplug.refusals(context)
            hotplug.plug_and_unplug(context, bench)
            bench.again()
    finally:
        hotplug.remove_tap()


@case("legacy-transitional")
def modern_drivers_on_transitional_devices(context):
    one_kernel(context)
    legacy.legacy(context, is_forced=False)


CASES["legacy-forced"] = lambda context: legacy.legacy(context, is_forced=True)
CASES["vhost-backend-qemu"] = vhost_backend.serves_qemu
CASES["vhost-backend-vmm"] = vhost_backend.serves_vmm
CASES["vhost-user-fs"] = vhost_user.file_system
for _transport in ("pci", "mmio"):
    CASES[f"vhost-user-blk-{_transport}"] = (
        lambda context, transport=_transport: vhost_user.disk(context, transport))

__all__ = ["CASES", "Skip", "TAP"]
