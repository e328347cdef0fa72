# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What `vhostctl list` and `show` tell of processes that they cannot ask, held against what is true: of a QEMU by /proc and
its own options, of our VMM by what it says itself on a control socket that is not where vhostctl looks."""

import json
import os
import subprocess
import time

from guest import Guest
from vmm import GUEST_CID, TAP, Devices, Skip, make_tap, remove_tap

QEMU_TAP = "tap1"
QEMU_CID = 77
LIMIT_S = 120


def vhostctl(context, *arguments):
    out = subprocess.run([context.vmm.ctl, *arguments, "--json"], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(out.stdout)


def seen(context, pid):
    """The process as `list` shows it without asking it; None if it has no device (yet)."""
    rows = [row["result"] for row in vhostctl(context, "list") if row["result"]["process"]["pid"] == pid]
    return rows[0] if rows else None


def wait_for(context, process, devices):
    """Until `list` has that many devices of it, each owned: its worker is there."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        shown = seen(context, process.pid)
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
        for unknown in ("acked features", "memory table", "ring positions"):
            if not again["device"]["unknown"].get(unknown):
                raise AssertionError(f"{unknown} is not said to be unknown: {again}")
    expect("types", sorted(device["type"] for device in shown["devices"]), ["net", "vsock"])


def check_ours(context, guest):
    shown = wait_for(context, guest.process, 2)
    said = [context.vmm.show(name)["device"] for name in ("net0", "vsock0")]
    expect("workers", {worker["tid"] for worker in shown["process"]["workers"]},
           {worker["tid"] for device in said for worker in device["backend"]["workers"]})
    expect("taps", [(tap["name"], tap["queues"]) for tap in shown["process"]["taps"]], [(TAP, 1)])
    expect("vhost fds", {device["vhost_fd"] for device in shown["devices"]},
           {ring["vhost_fd"] for device in said for ring in device["backend"]["vrings"]})
    expect("CID", said[1]["guest_cid"], GUEST_CID)


def foreign(context):
    if not hasattr(context.vmm, "ctl"):
        raise Skip("vhostctl goes with our VMM")
    make_tap(Devices())
    subprocess.run(["ip", "tuntap", "add", QEMU_TAP, "mode", "tap", "vnet_hdr"], check=True, timeout=30)
    qemu = start_qemu()
    log = os.path.join(context.results, f"{context.case}.console")
    try:
        with Guest(context.vmm.argv(Devices(), context.images), log) as guest:
            check_qemu(context, qemu)
            check_ours(context, guest)
            context.note({"seen from outside": "QEMU and our VMM, two devices each, as /proc and they themselves say"})
    finally:
        qemu.kill()
        qemu.wait()
        remove_tap()
        subprocess.run(["ip", "link", "delete", QEMU_TAP], timeout=30, check=False)
