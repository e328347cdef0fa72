# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The proof of who serves a device, read from `vhostctl show --json` before and after traffic: its backend is the one
that it should be, the CPU time of that one's workers grew, and no queue notification came to the VMM as an exit.
"""


class Sample:
    def __init__(self, shown):
        device = shown["device"]
        self.name = device["name"]
        backend = device["backend"] or {}
        self.kind = backend.get("kind")
        self.running = backend.get("running", False)
        self.problem = device.get("problem", "")
        self.reasons = [refusal["reason"] for refusal in device.get("refusals", [])]
        self.served_by = {ring["role"]: ring["served_by"] for ring in device["vrings"] if ring["active"]}
        self.cpu_ns = {worker["tid"]: worker["cpu_time_ns"] for worker in backend.get("workers", [])}
        self.notify = {row["what"]: row for row in device["wiring"] if "notify " in row["what"]}

    @property
    def exits(self):
        """Notifications of queues with an ioeventfd which came as an exit all the same."""
        return sum(row["exits"] or 0 for row in self.notify.values() if row["how"] == "ioeventfd")


def prove(before, after, kind="kernel"):
    """Raises AssertionError where a backend of this kind did not serve all; returns the facts as words."""
    name = after.name
    if after.kind != kind or not after.running:
        raise AssertionError(f"{name}: backend {after.kind}, running {after.running}, problem {after.problem!r}")
    elsewhere = {role: by for role, by in after.served_by.items() if by not in (kind, "device")}
    if elsewhere or kind not in after.served_by.values():
        raise AssertionError(f"{name}: vrings are served by {after.served_by}")
    if not after.cpu_ns:
        raise AssertionError(f"{name}: no worker is known")
    growth = {tid: ns - before.cpu_ns.get(tid, 0) for tid, ns in after.cpu_ns.items() if ns is not None}
    if not growth or sum(growth.values()) <= 0:
        raise AssertionError(f"{name}: the workers' CPU time did not grow: {before.cpu_ns} then {after.cpu_ns}")
    exits = after.exits - before.exits
    if exits:
        raise AssertionError(f"{name}: {exits} queue notifications came to the VMM")
    if not any(row["how"] == "ioeventfd" for row in after.notify.values()):
        raise AssertionError(f"{name}: no queue's notification has an ioeventfd: {after.notify}")
    workers = ", ".join(f"{tid} (+{ns / 1e6:.0f} ms CPU)" for tid, ns in sorted(growth.items()))
    return f"backend {kind}, {'vhost worker' if kind == 'kernel' else 'thread'} {workers}, 0 exits for queue notifications"
