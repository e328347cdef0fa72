# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What a host may be without, for as long as a block lasts."""

import os
import subprocess

NODES = ("/dev/vhost-net", "/dev/vhost-vsock")
MODULES = ("vhost_net", "vhost_vsock")


class WithoutVhost:
    """The modules are not loaded, and there are no nodes that would load them."""

    def __enter__(self):
        subprocess.run(["rmmod", *MODULES], check=True, timeout=60)
        for node in NODES:
            if os.path.exists(node):
                os.unlink(node)

    def __exit__(self, *_):
        for module in MODULES:
            subprocess.run(["modprobe", module], check=True, timeout=60)


class VhostForbidden:
    """The nodes are there and may not be opened. Root may open anything, so a mount that knows no devices covers them."""

    def __enter__(self):
        for node in NODES:
            subprocess.run(["mount", "--bind", "-o", "nodev", node, node], check=True, timeout=30)
            subprocess.run(["mount", "-o", "remount,bind,nodev", node], check=True, timeout=30)

    def __exit__(self, *_):
        for node in NODES:
            subprocess.run(["umount", node], check=True, timeout=30)


def is_listening(path):
    """Whether somebody listens on this unix socket; its file is there a moment earlier."""
    accepts = 0x10000
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as sockets:
        rows = [line.split() for line in list(sockets)[1:]]
    return any(len(row) > 7 and row[7] == path and int(row[3], 16) & accepts for row in rows)
