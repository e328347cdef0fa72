# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What `vhostctl list` and `show` tell of processes that they cannot ask, held against what is true: of a QEMU by /proc and
its own options, of our VMM by what it says itself where vhostctl is not let see its control socket."""

import fcntl
import json
import os
import struct
import subprocess
import time

QEMU_TAP = "tap1"
QEMU_CID = 77
LIMIT_S = 120
VHOST_GET_FEATURES = 0x8008AF00


# Where no control socket is: a file system of its own over the folders that they are in.
BLINDFOLD = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"]


def vhostctl(context, *arguments, prefix=()):
    out = subprocess.run([*prefix, context.vmm.ctl, *arguments, "--json"], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(out.stdout)


def wait_for(context, process, devices, prefix=()):
    """The process as `list` shows it without asking it, once it has that many devices, each owned: its worker is there."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        rows = [row["result"] for row in vhostctl(context, "list", prefix=prefix)]
        shown = next((row for row in rows if row["process"]["pid"] == process.pid), None)
        if shown and len(shown["devices"]) == devices == len(shown["process"]["workers"]):
            return shown
        if time.monotonic() > deadline or process.poll() is not None:
            raise AssertionError(f"pid {process.pid}, exit code {process.poll()}: {shown}")
        time.sleep(0.1)


def expect(what, have, want):
    if have != want:
        raise AssertionError(f"{what}: {have}, not {want}")


def worker_tids(pid):
    """vhost workers by what ps would look at: threads of the process, or of the kernel with the name of one of those."""
    def comm(path):
        try:
            with open(f"{path}/comm", encoding="utf-8") as file:
                return file.read().strip()
        except OSError:
            return ""  # It is gone.

    threads = os.listdir(f"/proc/{pid}/task")
    tids = {int(tid) for tid in threads if comm(f"/proc/{pid}/task/{tid}").startswith("vhost-")}
    for name in filter(str.isdigit, os.listdir("/proc")):
        if comm(f"/proc/{name}") in {f"vhost-{tid}" for tid in threads} and not os.path.exists(f"/proc/{name}/exe"):
            tids.add(int(name))
    return tids


def vhost_features(node):
    """What the node offers anybody who opens it."""
    fd = os.open(node, os.O_RDWR)
    try:
        return struct.unpack("Q", fcntl.ioctl(fd, VHOST_GET_FEATURES, bytes(8)))[0]
    finally:
        os.close(fd)


def start_qemu():
    """Stopped before its first instruction: it has its devices by then."""
    return subprocess.Popen(
        ["qemu-system-x86_64", "-S", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "64M",
         "-accel", "kvm", "-name", "guest=peer", "-netdev", f"tap,id=n,ifname={QEMU_TAP},script=no,downscript=no,vhost=on",
         "-device", "virtio-net-pci,netdev=n", "-device", f"vhost-vsock-pci,guest-cid={QEMU_CID}"])


def check_qemu(context, qemu):
    shown = wait_for(context, qemu, 2)
    process = shown["process"]
    expect("name", process["vm"], "peer")
    expect("taps", [(tap["name"], tap["queues"]) for tap in process["taps"]], [(QEMU_TAP, 1)])
    expect("workers", {worker["tid"] for worker in process["workers"]}, worker_tids(qemu.pid))
    expect("CIDs of the command line", process["claimed_cids"], [str(QEMU_CID)])
    expect("network namespace", process["network_namespace"], os.readlink(f"/proc/{qemu.pid}/ns/net"))
    for device in shown["devices"]:
        expect("node", os.readlink(f"/proc/{qemu.pid}/fd/{device['vhost_fd']}"), device["node"])
        again = vhostctl(context, "show", f"{qemu.pid}/{device['name']}")
        expect("show", again["device"]["type"], device["type"])
        expect("vhost's features", int(again["device"]["vhost_offered"]["bits"], 16), vhost_features(device["node"]))
        for unknown in ("acked features", "memory table", "ring positions"):
            if not again["device"]["unknown"].get(unknown):
                raise AssertionError(f"{unknown} is not said to be unknown: {again}")
    expect("types", sorted(device["type"] for device in shown["devices"]), ["net", "vsock"])


def check_ours(world, vm):
    """One of our VMs as an outsider sees it, beside what it says itself."""
    shown = wait_for(world.context, world.guests[vm.name].process, 2, prefix=BLINDFOLD)
    said = [world.json("show", f"{vm.name}/{name}")["device"] for name in ("net0", "vsock0")]
    expect("workers", {worker["tid"] for worker in shown["process"]["workers"]},
           {worker["tid"] for device in said for worker in device["backend"]["workers"]})
    expect("taps", [(tap["name"], tap["queues"]) for tap in shown["process"]["taps"]], [(vm.tap, 1)])
    expect("vhost fds", {device["vhost_fd"] for device in shown["devices"]},
           {ring["vhost_fd"] for device in said for ring in device["backend"]["vrings"]})
