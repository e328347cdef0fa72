# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Devices whose vrings another process serves: a disk by qemu-storage-daemon, a file system by virtiofsd."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

from guest import Guest
from host import is_listening
from vmm import CPUS, Skip, command_line, Devices

LIMIT_S = 120
MIB = 1 << 20


def wait_until(what, condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not after {LIMIT_S} s")
        time.sleep(0.05)


def program(name, *places):
    path = next((place for place in places if os.access(place, os.X_OK)), shutil.which(name))
    if not path:
        raise Skip(f"no {name} on this host")
    return path


class StorageDaemon:
    """qemu-storage-daemon with one disk, which can be killed and started again."""

    def __init__(self, folder, size):
        self.program = program("qemu-storage-daemon")
        self.image, self.socket, self._log = f"{folder}/disk", f"{folder}/disk.sock", f"{folder}/disk.log"
        self.process = None
        with open(self.image, "wb") as file:
            file.truncate(size)

    def start(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "--blockdev", f"driver=file,node-name=disk,filename={self.image}",
                 "--export", "type=vhost-user-blk,id=disk,node-name=disk,writable=on,num-queues=2,"
                             f"addr.type=unix,addr.path={self.socket}"],
                stdout=log, stderr=log)
        wait_until("qemu-storage-daemon", lambda: is_listening(self.socket) or self.process.poll() is not None)
        if self.process.poll() is not None:
            with open(self._log, encoding="utf-8") as log:
                raise AssertionError(f"qemu-storage-daemon: {log.read()}")

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
        if self.process:
            self.process.wait(LIMIT_S)


@contextlib.contextmanager
def guest_with(context, *devices):
    """A guest with these devices alone."""
    if not hasattr(context.vmm, "ctl"):
        raise Skip("only our VMM is tested")
    argv = [context.vmm.program, "--kernel", context.images.kernel, "--initrd", context.images.initramfs, "--append",
            command_line(Devices()).replace("libvhost.ip=", "unused="), "--memory", "256M", "--cpus", str(CPUS),
            "--control-socket", context.vmm.socket]
    for device in devices:
        argv += ["--device", device]
    with Guest(argv, os.path.join(context.results, f"{context.case}.console")) as guest:
        guest.wait_ready()
        yield guest
        code = guest.power_off()
        if code != 0:
            raise AssertionError(f"the VMM's exit code after power off is {code}\n{guest.tail()}")


def expect_backend(context, device, part):
    node = context.vmm.show(device)["device"]["backend"]["node"]
    if part not in node:
        raise AssertionError(f"vhostctl show {device} calls its back end {node!r}")


# Blocks whose content follows from their number, each written and read by itself, past all caches.
WRITE = ('i=0; while [ $i -lt {blocks} ]; do yes "{seed} $i" | head -c 65536 >/tmp/{seed}; '
         "dd if=/tmp/{seed} of=/dev/vda bs=64k seek=$(({first} + i)) oflag=direct conv=notrunc 2>/dev/null || exit 1; "
         "echo $i >/tmp/{seed}.done; i=$((i + 1)); done")
VERIFY = ('i=0; while [ $i -lt {blocks} ]; do yes "{seed} $i" | head -c 65536 >/tmp/a; '
          "dd if=/dev/vda of=/tmp/b bs=64k count=1 skip=$(({first} + i)) iflag=direct 2>/dev/null || exit 1; "
          "cmp /tmp/a /tmp/b || exit 2; i=$((i + 1)); done")


def content(seed, block):
    line = f"{seed} {block}\n".encode()
    return (line * (65536 // len(line) + 1))[:65536]


def expect_blocks(path, seed, first, blocks):
    with open(path, "rb") as file:
        for block in range(blocks):
            file.seek((first + block) * 65536)
            if file.read(65536) != content(seed, block):
                raise AssertionError(f"{path}: block {first + block} is not what the guest wrote there")


def disk(context, transport):
    """A disk served by qemu-storage-daemon: what is written is there, a new size is seen, and `kill -9` under load is not."""
    with tempfile.TemporaryDirectory(prefix="libvhost-disk.") as folder:
        daemon = StorageDaemon(folder, 32 * MIB)
        daemon.start()
        try:
            with guest_with(context, f"vhost-user-blk-{transport},id=blk0,socket={daemon.socket},num-queues=2") as guest:
                expect_backend(context, "blk0", f"process {daemon.process.pid}")
                guest.run(WRITE.format(seed="first", first=0, blocks=20))
                guest.run("sync; echo 3 >/proc/sys/vm/drop_caches")
                guest.run(VERIFY.format(seed="first", first=0, blocks=20))
                expect_blocks(daemon.image, "first", 0, 20)

                guest.run(f"({WRITE.format(seed='second', first=40, blocks=60)}; echo $? >/tmp/second.code) "
                          ">/dev/null 2>&1 &")
                for kill in range(2):
                    guest.run(f"until [ $(cat /tmp/second.done 2>/dev/null || echo 0) -ge {5 + 15 * kill} ]; do usleep 5000; done")
                    daemon.stop(signal.SIGKILL)
                    wait_until("the loss is shown", lambda: "away" in context.vmm.show("blk0")["device"]["backend"]["node"])
                    # The daemon of Debian 12 tells of a new size only to who connects.
                    os.truncate(daemon.image, (48 + 16 * kill) * MIB)
                    daemon.start()
                    guest.run(f"until [ $(cat /sys/block/vda/size) = {(48 + 16 * kill) * MIB // 512} ]; do usleep 20000; done")
                guest.run("until [ -e /tmp/second.code ]; do usleep 20000; done; [ $(cat /tmp/second.code) = 0 ]")
                guest.run(VERIFY.format(seed="second", first=40, blocks=60))
                guest.run(VERIFY.format(seed="first", first=0, blocks=20))
                expect_blocks(daemon.image, "second", 40, 60)
                errors = guest.run("dmesg | grep -iE 'I/O error|vda.*error|not a head' || true")
                if errors:
                    raise AssertionError(f"the guest's kernel noticed: {errors}")
                expect_backend(context, "blk0", f"process {daemon.process.pid}")
        finally:
            daemon.stop()


def file_system(context):
    """A folder of the host's in the guest, by virtiofsd."""
    daemon = program("virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
    with tempfile.TemporaryDirectory(prefix="libvhost-fs.") as folder:
        shared, path = f"{folder}/shared", f"{folder}/fs.sock"
        os.mkdir(shared)
        with open(f"{shared}/host", "wb") as file:
            file.write(content("host", 1))
        with open(f"{folder}/log", "wb") as log:
            process = subprocess.Popen([daemon, f"--socket-path={path}", "-o", f"source={shared}", "-o", "sandbox=chroot"],
                                       stdout=log, stderr=log)
        try:
            wait_until("virtiofsd", lambda: is_listening(path) or process.poll() is not None)
            with guest_with(context, f"vhost-user-fs-pci,id=fs0,socket={path},tag=shared") as guest:
                guest.run("mkdir /tmp/shared && mount -t virtiofs shared /tmp/shared")
                guest.run("yes 'host 1' | head -c 65536 | cmp - /tmp/shared/host")
                guest.run("yes 'guest 2' | head -c 65536 >/tmp/shared/guest && umount /tmp/shared")
            with open(f"{shared}/guest", "rb") as file:
                if file.read() != content("guest", 2):
                    raise AssertionError("the file that the guest wrote has another content")
        finally:
            process.kill()
            process.wait()
