#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Clients of the hybrid convention, as users of Firecracker and cloud-hypervisor write them, against in-process vsock.

    vsock_clients.py ECHO_GUEST [HYBRID_LIBRARY]

HYBRID_LIBRARY is that of tests/vm/vsock_hybrid.cc: with it, AF_VSOCK programs are tried too. ECHO_GUEST is the program of vsock_echo_guest.cc: the device with a guest behind it that echoes. Plain Python sockets, and
socat where there is one. Exit code 77 if something was skipped, and all else passed.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

LIMIT_S = 20


class Guest:
    def __init__(self, program, path):
        self.process = subprocess.Popen(
            [program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.expect("ready")

    def expect(self, line):
        got = self.process.stdout.readline().strip()
        assert got == line, f"the guest said {got!r}, not {line!r}"

    def command(self, text, answer):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        self.expect(answer)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(LIMIT_S) == 0


def new_socket(kind=socket.SOCK_STREAM):
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.settimeout(LIMIT_S)
    return sock


def read_line(sock):
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            return None
        line += byte
    return line.decode()


def read_exactly(sock, count):
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f"the end after {len(data)} of {count} bytes"
        data += piece
    return data


def connect(path, port):
    sock = new_socket()
    sock.connect(path)
    sock.sendall(f"CONNECT {port}\n".encode())
    line = read_line(sock)
    assert line is not None and line.startswith("OK ") and int(line[3:]) > 0, line
    return sock


def test_connect_and_echo(path, guest):
    with connect(path, 80) as sock:
        data = os.urandom(100_000)
        sock.sendall(data)
        assert read_exactly(sock, len(data)) == data
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_guest_closes(path, guest):
    with connect(path, 81) as sock:
        assert read_exactly(sock, 3) == b"bye"
        assert sock.recv(1) == b""


def test_refused(path, guest):
    with new_socket() as sock:
        sock.connect(path)
        sock.sendall(b"CONNECT 4000\n")
        assert read_line(sock) is None


def test_nonsense(path, guest):
    with new_socket() as sock:
        sock.connect(path)
        sock.sendall(b"GET / HTTP/1.1\r\n")
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass  # What it said was not read to its end.


def test_many_at_once(path, guest):
    socks = [connect(path, 80) for _ in range(50)]
    for number, sock in enumerate(socks):
        sock.sendall(f"number {number}".encode())
    for number, sock in reversed(list(enumerate(socks))):
        text = f"number {number}".encode()
        assert read_exactly(sock, len(text)) == text
        sock.close()


def test_guest_connects(path, guest):
    with new_socket() as listener:
        listener.bind(path + "_5000")
        listener.listen(1)
        guest.command("connect 5000", "established")
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(LIMIT_S)
            sock.sendall(b"hello, guest")
            assert read_exactly(sock, 12) == b"hello, guest"
    os.unlink(path + "_5000")


def test_guest_is_refused(path, guest):
    guest.command("connect 5001", "refused")
    # A file that is left behind, with nobody listening.
    with new_socket() as listener:
        listener.bind(path + "_5002")
    guest.command("connect 5002", "refused")
    os.unlink(path + "_5002")


def test_seqpacket(path, guest):
    with new_socket(socket.SOCK_SEQPACKET) as sock:
        sock.connect(path + ".seqpacket")
        sock.send(b"CONNECT 80\n")
        assert sock.recv(64).startswith(b"OK ")
        messages = [b"a", b"bb" * 1000, os.urandom(60_000), b"end"]
        for message in messages:
            sock.send(message)
        for message in messages:
            assert sock.recv(1 << 20) == message
    with new_socket(socket.SOCK_SEQPACKET) as listener:
        listener.bind(path + "_5003")
        listener.listen(1)
        guest.command("connect 5003 seqpacket", "established")
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(LIMIT_S)
            sock.send(b"one message")
            assert sock.recv(1 << 20) == b"one message"
    os.unlink(path + "_5003")


def test_socat_connects(path, guest):
    run = subprocess.run(["socat", "-t5", "-", f"UNIX-CONNECT:{path}"], input=b"CONNECT 80\nhello from socat\n",
                         stdout=subprocess.PIPE, timeout=LIMIT_S, check=True)
    first, rest = run.stdout.split(b"\n", 1)
    assert first.startswith(b"OK "), run.stdout
    assert rest == b"hello from socat\n", run.stdout


def test_socat_listens(path, guest):
    process = subprocess.Popen(["socat", "-t5", f"UNIX-LISTEN:{path}_5004", "EXEC:cat"])
    try:
        for _ in range(200):
            if os.path.exists(path + "_5004"):
                break
            time.sleep(0.02)
        # Both ends only echo: it is enough that they connect.
        guest.command("connect 5004", "established")
    finally:
        process.terminate()
        process.wait(LIMIT_S)


AF_VSOCK_PROGRAM = """
import errno, socket
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    with socket.socket(socket.AF_VSOCK, kind) as sock:
        sock.settimeout(20)
        try:
            sock.connect((3, 4000))
            raise AssertionError("connected to a port where nobody listens")
        except OSError as error:
            assert error.errno == errno.ECONNRESET, error
        sock.connect((3, 80))
        assert sock.getpeername() == (3, 80)
        sock.send(b"echo me")
        assert sock.recv(100) == b"echo me"
    with socket.socket(socket.AF_VSOCK, kind) as listener:
        listener.bind((socket.VMADDR_CID_ANY, 6000))
        listener.listen(1)
        print("listening", flush=True)
        sock, peer = listener.accept()
        assert peer[0] == 3, peer
        with sock:
            sock.send(b"and me")
            assert sock.recv(100) == b"and me"
"""


def test_hybrid_library(path, guest):
    env = dict(os.environ, LD_PRELOAD=sys.argv[2], VSOCK_HYBRID_PATH=path, VSOCK_HYBRID_CID="3")
    host = subprocess.Popen([sys.executable, "-c", AF_VSOCK_PROGRAM], env=env, stdout=subprocess.PIPE, text=True)
    for kind in ("", " seqpacket"):
        assert host.stdout.readline() == "listening\n"
        guest.command("connect 6000" + kind, "established")
    assert host.wait(LIMIT_S) == 0


def main():
    program = sys.argv[1]
    tests = [test for name, test in globals().items() if name.startswith("test_")]
    failed, skipped = 0, 0
    for test in tests:
        if "socat" in test.__name__ and shutil.which("socat") is None:
            print(f"{test.__name__}: skipped: no socat")
            skipped += 1
            continue
        if "hybrid" in test.__name__ and not "".join(sys.argv[2:3]):
            print(f"{test.__name__}: skipped: no library given")
            skipped += 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "v.sock")
            guest = Guest(program, path)
            try:
                test(path, guest)
                guest.close()
                assert not os.path.exists(path) and not os.path.exists(path + ".seqpacket"), "socket files are left"
                print(f"{test.__name__}: passed")
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                print(f"{test.__name__}: FAILED: {type(error).__name__}: {error}")
                failed += 1
                guest.process.kill()
                guest.process.wait()
    return 1 if failed else 77 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
