# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What vhostctl tells of all VMs of a host (two of ours, one of QEMU's), held against the truth: the guests' own view, /proc,
ethtool, the TAP; and that the numbers of `stats`, `events` and `metrics` are those of the traffic."""

import json
import os
import re
import subprocess
import time

import foreign
from vmm import Skip
from world import DB, WEB, World, run

LIMIT_S = 120


def expect(what, have, want):
    if have != want:
        raise AssertionError(f"{what}: vhostctl says {have!r}, the truth is {want!r}")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def until_equal(what, said, truth):
    """Both are asked again while packets that nobody here sent may be under way."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        before, have, after = truth(), said(), truth()
        if before == after == have:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: vhostctl says {have!r}, the truth is {before!r} and then {after!r}")


# ---- list --------------------------------------------------------------------------------------


def check_list(world, qemu):
    rows = {(row["result"]["process"]["vm"], device.get("name")): (row, device)
            for row in world.json("list") for device in row["result"]["devices"]}
    kinds = {key: device.get("backend") for key, (_, device) in rows.items() if key[0] in (WEB.name, DB.name)}
    expect("list", kinds, {("web", "net0"): "kernel", ("web", "vsock0"): "kernel",
                           ("db", "net0"): "in-process", ("db", "vsock0"): "in-process"})
    for vm in (WEB, DB):
        row, net = rows[vm.name, "net0"]
        expect("pid", row["result"]["process"]["pid"], world.pid(vm))
        expect("TAP", net["taps"], [vm.tap])
        expect("CID", rows[vm.name, "vsock0"][1]["guest_cid"], vm.cid)
    peers = [device for (name, _), (row, device) in rows.items() if name == "peer" and row["socket"] is None]
    expect("devices of QEMU", sorted(device["type"] for device in peers), ["net", "vsock"])
    text = world.vhostctl("list")
    for line in text.splitlines():
        if line.startswith("peer ") and "?" not in line:
            raise AssertionError(f"nothing of QEMU's device is marked unknown: {line}")
    expect("QEMU in the table", sum(line.startswith("peer ") for line in text.splitlines()), 2)
    expect("QEMU's process", {str(row["result"]["process"]["pid"]) for (name, _), (row, _) in rows.items() if name == "peer"},
           {str(qemu.pid)})


# ---- show, of ours -----------------------------------------------------------------------------


def check_against_guest(world, vm, device, number):
    """What the guest's driver has negotiated and where it found the device."""
    guest = world.guests[vm.name]
    folder = f"/sys/bus/virtio/devices/virtio{number}"
    bits = guest.run(f"cat {folder}/features").split()[-1]
    expect(f"{device['name']}: acked", int(device["acked"]["bits"], 16), sum(1 << i for i, bit in enumerate(bits) if bit == "1"))
    expect(f"{device['name']}: status", device["status"], int(guest.run(f"cat {folder}/status").split()[-1], 16))
    expect(f"{device['name']}: transport", device["transport"],
           "virtio-pci " + guest.run(f"basename $(dirname $(readlink -f {folder}))").split()[-1].removeprefix("0000:"))


def check_net(world, vm):
    guest = world.guests[vm.name]
    show = lambda: world.json("show", f"{vm.name}/net0")["device"]  # noqa: E731
    device = show()
    check_against_guest(world, vm, device, 0)
    expect("driver", re.search(r"driver: (\S+)", guest.run("ethtool -i eth0")).group(1), "virtio_net")
    expect("MAC", device["mac"], guest.run("cat /sys/class/net/eth0/address").split()[-1])
    expect("link", device["link_up"], guest.run("cat /sys/class/net/eth0/carrier").split()[-1] == "1")
    rings = re.findall(r"^(RX|TX):\s+(\d+)", guest.run("ethtool -g eth0"), re.MULTILINE)[-2:]
    sizes = {ring["role"]: ring["setup"]["size"] for ring in device["vrings"]}
    expect("ring sizes", [sizes["rx0"], sizes["tx0"]], [int(size) for _, size in rings])
    tap = device["taps"][0]
    expect("the TAP's MTU", tap["mtu"], int(read(f"/sys/class/net/{vm.tap}/mtu")))
    expect("the TAP's header", tap["vnet_header"], int(read(f"/sys/class/net/{vm.tap}/tun_flags"), 16) & 0x4000 != 0)
    # TSO of the TAP: what the host may leave to the guest.
    on_host = subprocess.run(["ethtool", "-k", vm.tap], capture_output=True, text=True, check=True, timeout=30).stdout
    expect("TSO4 of the TAP", "TSO4" in " ".join(tap["offloads"]), "tx-tcp-segmentation: on" in on_host)
    # The driver gives a chain a packet, and ring indices count chains.
    world.tcp(vm, "64K")

    def used(role):
        return next(ring for ring in show()["vrings"] if ring["role"] == role)["indices"]["used"]

    until_equal("packets sent, as the used index", lambda: used("tx0"), lambda: world.frames(vm) % 65536)
    # The guest counts what its driver has taken back, which may be nothing yet.
    counted = sum(int(count) for count in re.findall(r"tx\S*_packets: (\d+)", guest.run("ethtool -S eth0")))
    if counted > world.frames(vm):
        raise AssertionError(f"ethtool -S of the guest: {counted} packets sent, of the TAP: {world.frames(vm)} came")


def check_process(world, vm, name):
    """File descriptors, workers and memory, by /proc."""
    device = world.json("show", f"{vm.name}/{name}")["device"]
    folder = f"/proc/{world.pid(vm)}"
    for ring in device["vrings"]:
        for key in ("kick_fd", "call_fd"):
            expect(f"{name} {ring['role']} {key}", "anon_inode:[eventfd]", os.readlink(f"{folder}/fd/{ring[key]}"))
    backend = device["backend"]
    if backend["kind"] == "kernel":
        for ring in backend["vrings"]:
            expect("vhost fd", backend["node"], os.readlink(f"{folder}/fd/{ring['vhost_fd']}"))
    for worker in backend["workers"]:
        thread = f"{folder}/task/{worker['tid']}"
        if not os.path.exists(thread):
            thread = f"/proc/{worker['tid']}"  # a thread of the kernel's, before 6.4
        expect("worker", worker["name"], read(f"{thread}/comm"))
        allowed = re.search(r"Cpus_allowed_list:\s*(\S+)", read(f"{thread}/status")).group(1)
        expect("affinity", worker["affinity"] in (allowed, [int(cpu) for cpu in allowed.split(",") if cpu.isdigit()]), True)
        if worker["cpu_time_ns"] > int(read(f"{thread}/schedstat").split()[0]):
            raise AssertionError(f"{name}: the worker has not used {worker['cpu_time_ns']} ns yet")
    expect("memory", sum(int(region["size"], 16) for region in device["memory"]), 192 << 20)
    maps = [tuple(int(word, 16) for word in line.split()[0].split("-")) for line in read(f"{folder}/maps").splitlines()]
    for region in device["memory"]:
        host = int(region["host"], 16)
        expect("memory is mapped", any(start <= host < end for start, end in maps), True)


def check_vsock(world, vm):
    device = world.json("show", f"{vm.name}/vsock0")["device"]
    check_against_guest(world, vm, device, 1)
    expect("CID", device["guest_cid"], vm.cid)
    world.vsock(vm)


# ---- stats, events, metrics --------------------------------------------------------------------


def metrics(world):
    """Values by name and labels."""
    values = {}
    for line in world.vhostctl("metrics").splitlines():
        match = re.match(r"(\w+)(\{.*\})? (\S+)", line)
        if match and not line.startswith("#"):
            values[match.group(1), match.group(2)] = float(match.group(3))
    return values


def growth(before, after, name, *labels):
    keys = [key for key in after if key[0] == name and all(label in (key[1] or "") for label in labels)]
    if not keys:
        raise AssertionError(f"no metric {name} with {labels}: {sorted({key[0] for key in after})}")
    return sum(after[key] - before.get(key, 0) for key in keys)


def check_metrics(world):
    before = metrics(world)
    sent = world.frames(DB)
    world.tcp(WEB)
    world.tcp(DB)
    after = metrics(world)
    sent = world.frames(DB) - sent
    for vm in (WEB, DB):
        for queue in ("rx0", "tx0"):
            labels = (f'vm="{vm.name}"', 'device="net0"', f'role="{queue}"')
            if growth(before, after, "vhost_vring_used_index", *labels) % 65536 == 0:
                raise AssertionError(f"{vm.name} {queue}: nothing was given back, says metrics")
    told = growth(before, after, "vhost_vring_packets_total", 'vm="db"', 'device="net0"', 'role="tx0"')
    if not 0 < told <= sent:
        raise AssertionError(f"metrics: {told} packets of the guest, who sent {sent}")


def check_stats(world):
    """Rates while a transfer runs: of each VM the busy queue moves, and the other one's does not."""
    guest = world.guests[DB.name]
    guest.run(f"stream send-until-term tcp:{DB.host_ip}:5001 >/tmp/sender 2>&1 & echo $! >/tmp/sender.id")
    try:
        deadline = time.monotonic() + LIMIT_S
        while True:
            rows = world.json("stats", "db/net0", "--interval", "1")
            text = json.dumps(rows)
            packets = [row for row in re.findall(r'"packets_per_s": ([0-9.]+)', text) if float(row) > 0]
            if packets:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"stats tell of no packets: {text}")
    finally:
        guest.run("kill $(cat /tmp/sender.id)")
        guest.run("while [ -d /proc/$(cat /tmp/sender.id) ]; do usleep 50000; done", limit_s=LIMIT_S)


def check_events(world):
    follower = subprocess.Popen([world.ctl, "events", "web/net0", "--count", "1", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        world.wait_until_it_follows(follower)
        done = world.json("handover", "web/net0", "--to", "in-process", "--reason", "to see it")
        line, _ = follower.communicate(timeout=LIMIT_S)
    finally:
        follower.kill()
        follower.wait()
    event = json.loads(line)
    expect("event", [event["vm"], event["event"]["device"], event["event"]["what"]], ["web", "net0", "handover"])
    expect("its reason", event["event"]["handover"]["reason"], "to see it")
    expect("its time", event["event"]["handover"]["stopped_us"], done["handover"]["stopped_us"])
    expect("who serves", world.json("show", "web/net0")["device"]["backend"]["kind"], "in-process")
    world.tcp(WEB)
    world.vhostctl("handover", "web/net0", "--to", "kernel")
    world.tcp(WEB)


def check_ours(world, qemu):
    check_list(world, qemu)
    foreign.check_ours(world, WEB)
    for vm in (WEB, DB):
        check_net(world, vm)
        check_vsock(world, vm)
        for name in ("net0", "vsock0"):
            check_process(world, vm, name)
    check_metrics(world)
    check_stats(world)
    check_events(world)


def truth(context):
    if not hasattr(context.vmm, "ctl"):
        raise Skip("vhostctl goes with our VMM")
    subprocess.run(["ip", "link", "delete", foreign.QEMU_TAP], stderr=subprocess.DEVNULL, timeout=30, check=False)
    run(f"ip tuntap add {foreign.QEMU_TAP} mode tap vnet_hdr")
    qemu = foreign.start_qemu()
    try:
        foreign.check_qemu(context, qemu)
        if context.kernel == "6.12":  # once is enough for what does not depend on the kernel
            with World(context) as world:
                check_ours(world, qemu)
            context.note({"true of": "two VMs of ours and one of QEMU's, by their guests, /proc, ethtool and what passed"})
        else:
            context.note({"true of": "QEMU, by /proc and what it was told"})
    finally:
        qemu.kill()
        qemu.wait()
        subprocess.run(["ip", "link", "delete", foreign.QEMU_TAP], timeout=30, check=False)
