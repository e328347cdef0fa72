# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""How the host half of the kernel's vsock_test meets a guest whose vsock is served in process, and what it cannot show.

The host half speaks AF_VSOCK; libvsock_hybrid.so (vsock_hybrid.cc) makes unix sockets of it. Cases that hang on what
unix sockets do not have are skipped, by name, each with its reason.
"""

import os
import re
import subprocess

_ZEROCOPY = "unix sockets have no MSG_ZEROCOPY"
_BUFFER = "the size of a socket's buffer (SO_VM_SOCKETS_BUFFER_SIZE) does not reach the device"
_LOWAT = "unix sockets do not heed SO_RCVLOWAT in poll(2)"
_TRANSPORT = "is about the transports of AF_VSOCK in the host's kernel, which are not involved"

# By the role of the host. What is not here must pass.
CANNOT = {
    "client": {
        "SOCK_SEQPACKET msg bounds": "unix sockets do not carry MSG_EOR",
        "SOCK_STREAM poll() + SO_RCVLOWAT": _LOWAT,
        "SOCK_STREAM MSG_ZEROCOPY": _ZEROCOPY,
        "SOCK_SEQPACKET MSG_ZEROCOPY": _ZEROCOPY,
        "SOCK_STREAM MSG_ZEROCOPY empty MSG_ERRQUEUE": _ZEROCOPY,
        "SOCK_STREAM MSG_ZEROCOPY leak MSG_ERRQUEUE": _ZEROCOPY,
        "SOCK_STREAM MSG_ZEROCOPY leak completion skb": _ZEROCOPY,
        "SOCK_STREAM virtio MSG_ZEROCOPY coalescence corruption": _ZEROCOPY,
        "SOCK_STREAM double bind connect": "a client cannot choose its port",
        "SOCK_STREAM transport release use-after-free": _TRANSPORT,
        "SOCK_STREAM transport change null-ptr-deref, lockdep warn": _TRANSPORT,
        "SOCK_STREAM TX credit bounds": _BUFFER,
    },
    "server": {
        "SOCK_SEQPACKET msg bounds": f"unix sockets do not carry MSG_EOR; {_BUFFER}",
        "SOCK_STREAM SHUT_RD": "that its peer receives no more is told to a unix socket only when it writes again, and "
                               "up to Linux 6.12 the guest's first write is to fail",
        "SOCK_STREAM virtio credit update + SO_RCVLOWAT": f"{_BUFFER}; {_LOWAT}",
        "SOCK_STREAM virtio credit update + low rx_bytes": f"{_BUFFER}; {_LOWAT}",
        "SOCK_STREAM accept()ed socket custom setsockopt()": _ZEROCOPY,
        "SOCK_STREAM TX credit bounds": _BUFFER,
    },
}


# Of the vsock_test of one kernel: the others, and both roles.
CANNOT_OF = {
    "6.1": {
        "SOCK_SEQPACKET invalid receive buffer": "it wants the ENOMEM that AF_VSOCK gave then; unix sockets give EFAULT",
    },
}


def environment(library, uds_path, guest_cid):
    """For the host half."""
    return dict(os.environ, LD_PRELOAD=library, VSOCK_HYBRID_PATH=uds_path, VSOCK_HYBRID_CID=str(guest_cid))


def skips(program, host_role):
    """[(id, name, reason)] of the cases that this version of vsock_test has and that cannot be shown."""
    # It wants to be told everything before it lists; with failure for an exit code.
    listed = subprocess.run([program, "--mode=client", "--control-host=127.0.0.1", "--control-port=1", "--peer-cid=3",
                             "--list"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False)
    cases = re.findall(r"^(\d+)\t(.+)$", listed.stdout, re.MULTILINE)
    assert cases, listed.stdout
    series = os.path.basename(os.path.dirname(program))
    cannot = {**CANNOT[host_role], **CANNOT_OF.get(series, {})}
    return [(int(number), name, cannot[name]) for number, name in cases if name in cannot]
