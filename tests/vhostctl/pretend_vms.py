# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Control sockets of VMs that there are not, for tests of what shows many of them: each answers `show` with devices
whose queues work, but for one that stands still."""

import contextlib
import json
import os
import socketserver
import threading
import time

STALL = "tx0 (queue 1): the kernel backend has not got on with it, though there is work and it was kicked"


def kernel_queues(chains, stalled):
    """Two vrings that vhost serves: their indices and kicks are what is to be seen."""
    vrings = []
    for queue, role in enumerate(("rx0", "tx0")):
        used = 5 if stalled and queue == 1 else int(chains) % 65536
        vrings.append({"queue": queue, "role": role, "served_by": "kernel", "enabled": True, "active": True,
                       "max_size": 256, "indices": {"avail": (used + (17 if queue == 1 and stalled else 3)) % 65536,
                                                    "used": used},
                       "kick_count": int(chains / 8)})
    return vrings


def device(number, seconds):
    rate = 1000 * (number % 97 + 1)
    stalled = number == 0
    in_process = number % 3 == 2
    report = {"name": f"net{number}", "type": "net", "transport": f"virtio-pci 00:{number % 32:02x}.0", "status": 15,
              "policy": "prefer", "vrings": kernel_queues(seconds * rate, stalled), "events": [], "refusals": []}
    workers = [{"tid": 1000 + number, "name": f"vhost-{number}", "queues": [0, 1],
                "cpu_time_ns": int(seconds * 1e7 * (number % 50))}]
    report["backend"] = {"kind": "kernel", "node": "/dev/vhost-net", "running": True, "workers": workers, "vrings": []}
    report["watchdog"] = {"period_ms": 1000, "stall_ms": 3000, "stalled": [1] if stalled else []}
    if stalled:
        report["events"] = [{"time": "2026-01-01T00:00:00Z", "what": "stall", "queue": 1, "text": STALL}]
    if in_process:
        report["refusals"] = [{"backend": "kernel", "reason": "/dev/vhost-net: open: EACCES"}]
        report["backend"].update(kind="in-process", node="", io_engine="syscall")
        for vring in report["vrings"]:
            vring["served_by"] = "in-process"
            packets = int(seconds * rate)
            report["backend"]["vrings"].append({"queue": vring["queue"], "data_path": {
                "packets": packets, "bytes": packets * 900, "kicks": packets // 9, "calls": packets // 12,
                "suppressed_calls": packets // 4,
                "drops": [{"reason": "no-buffer", "packets": int(seconds * 3)}] if vring["queue"] == 0 else []}})
    return report


class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client may go at any time
            self.answer()

    def answer(self):
        for line in self.rfile:
            request = json.loads(line)
            seconds = time.monotonic()
            reply = {"version": 1, "id": request.get("id"), "ok": True,
                     "result": {"process": {"vm": self.server.vm, "pid": os.getpid(), "library_version": "0"},
                                "devices": [device(number, seconds) for number in self.server.numbers]}}
            self.wfile.write(json.dumps(reply).encode() + b"\n")


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def pretend(folder, devices, per_vm=4):
    """So many devices, spread over VMs; each VM's socket is in `folder`."""
    servers = []
    for first in range(0, devices, per_vm):
        vm = f"web{first // per_vm}"
        server = Server(os.path.join(folder, f"{vm}-{os.getpid()}.sock"), Answer)
        server.vm = vm
        server.numbers = range(first, min(first + per_vm, devices))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
