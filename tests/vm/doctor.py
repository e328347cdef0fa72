# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""`vhostctl doctor` on a host with each obstacle in turn: it names the cause and a mend, and the mend, run as it is
written, makes it pass."""

import fcntl
import grp
import json
import os
import shutil
import struct
import subprocess

import host
from vmm import Skip

USER = "nobody"
AS_USER = ["setpriv", f"--reuid={USER}", "--regid=nogroup", "--init-groups"]
CID = 4242
VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60
IO_URING_DISABLED = "/proc/sys/kernel/io_uring_disabled"


class Doctor:
    """One run: its exit code, and its findings by the name of the check."""

    def __init__(self, ctl, *options, prefix=(), before=""):
        script = f'{before}\nexec "$@"'
        argv = [*prefix, "bash", "-c", script, "doctor", ctl, "doctor", "--json", *options]
        out = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if not out.stdout:
            raise AssertionError(f"doctor said nothing: {out.stderr}")
        said = json.loads(out.stdout)
        self.code = out.returncode
        self.possible = {area["purpose"]: area["possible"] for area in said["areas"]}
        self.findings = [finding for area in said["areas"] for finding in area["findings"]] + said["host"]

    def amiss(self):
        return {row["check"]: row for row in self.findings if row["level"] in ("warning", "failure")}

    def expect(self, check, *words):
        """The finding of that check, which must be amiss and have those words."""
        row = self.amiss().get(check)
        if row is None:
            raise AssertionError(f"nothing is said to be amiss with {check}: {sorted(self.amiss())}")
        text = json.dumps(row)
        for word in words:
            if word not in text:
                raise AssertionError(f"{check}: no {word!r} in {text}")
        return row

    def expect_pass(self):
        if self.code != 0 or self.amiss():
            raise AssertionError(f"exit code {self.code}, amiss: {json.dumps(self.amiss(), indent=1)}")


def run(mend):
    subprocess.run(["bash", "-c", mend], check=True, timeout=60, stdout=subprocess.DEVNULL)


def without_modules(ctl):
    with host.WithoutVhost():
        seen = Doctor(ctl)
        mends = [seen.expect(f"/dev/{name.replace('_', '-')}", "not loaded")["mend"][0] for name in host.MODULES]
        if seen.code != 1 or seen.possible != {"net": False, "vsock": False, "kvm": True, "in-process": True}:
            raise AssertionError(f"without modules: {seen.code} {seen.possible}")
        for mend in mends:
            run(mend)
        Doctor(ctl).expect_pass()


def unprivileged(ctl):
    """The nodes of this host are root's alone. Their modes, the user's groups and the TAP are put back."""
    was_member = any(USER in group.gr_mem for group in grp.getgrall() if group.gr_name == "kvm")
    nodes = {path: os.stat(path) for path in (*host.NODES, "/dev/kvm", "/dev/net/tun")}
    try:
        for path in nodes:
            os.chmod(path, 0o600)
            os.chown(path, 0, 0)
        seen = Doctor(ctl, prefix=AS_USER)
        for path in nodes:
            run(seen.expect(path, f"user {USER} may not open it", "only root may")["mend"][0])
        seen = Doctor(ctl, prefix=AS_USER)
        run(seen.expect("TAP for this user", "no CAP_NET_ADMIN")["mend"][0])
        Doctor(ctl, prefix=AS_USER).expect_pass()
        # The same, without being in the group yet.
        seen = Doctor(ctl, prefix=[word for word in AS_USER if word != "--init-groups"] + ["--clear-groups"])
        seen.expect("/dev/vhost-net", "only root and the group kvm", f"usermod -aG kvm {USER}")
    finally:
        subprocess.run(["ip", "link", "delete", "tap0"], stderr=subprocess.DEVNULL, timeout=30, check=False)
        if not was_member:
            subprocess.run(["gpasswd", "-d", USER, "kvm"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           timeout=30, check=False)
        for path, was in nodes.items():
            os.chmod(path, was.st_mode & 0o777)
            os.chown(path, was.st_uid, was.st_gid)


def few_files(ctl):
    low = "ulimit -Sn 32"
    mend = Doctor(ctl, before=low).expect("open files (RLIMIT_NOFILE)", "EMFILE")["mend"][0]
    Doctor(ctl, before=f"{low}\n{mend}").expect_pass()


def taken_cid(ctl):
    holder = os.open("/dev/vhost-vsock", os.O_RDWR)
    try:
        fcntl.ioctl(holder, VHOST_VSOCK_SET_GUEST_CID, struct.pack("Q", CID))
        Doctor(ctl, "--cid", str(CID)).expect(f"guest CID {CID}", "taken", f"{CID + 1} is free")
        Doctor(ctl, "--cid", str(CID + 1)).expect_pass()
    finally:
        os.close(holder)
    Doctor(ctl, "--cid", str(CID)).expect_pass()


def no_io_uring(ctl):
    with open(IO_URING_DISABLED, encoding="ascii") as file:
        before = file.read()
    try:
        with open(IO_URING_DISABLED, "w", encoding="ascii") as file:
            file.write("2")
        run(Doctor(ctl).expect("io_uring", "EPERM", "io_uring_disabled=2")["mend"][0])
        Doctor(ctl).expect_pass()
    finally:
        with open(IO_URING_DISABLED, "w", encoding="ascii") as file:
            file.write(before)


def doctor(context):
    if not hasattr(context.vmm, "ctl"):
        raise Skip("vhostctl goes with our VMM")
    # An unprivileged user may not be let into the build folder.
    ctl = shutil.copy(context.vmm.ctl, "/tmp/vhostctl-doctor")
    try:
        Doctor(ctl).expect_pass()
        steps = [without_modules, unprivileged, few_files, taken_cid]
        if os.path.exists(IO_URING_DISABLED):
            steps.append(no_io_uring)
        else:
            context.note({"not tried": "io_uring_disabled, which this kernel does not have"})
        for step in steps:
            step(ctl)
        Doctor(ctl).expect_pass()
        context.note({"obstacles named and mended": len(steps)})
    finally:
        os.unlink(ctl)
