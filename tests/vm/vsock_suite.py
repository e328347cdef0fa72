# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Runs tools/testing/vsock of the kernel between the guest and the host, each of them once as client, once as server.

The programs stop at the first failure, so each that passes has passed as a whole; what they print is one line a case:
"12 - SOCK_STREAM bind only...ok". The control connection is TCP, over our own network device, and is accepted once: a
probe of the port would eat it.
"""

import os
import re
import subprocess

import vsock_hybrid
from vmm import GUEST_CID, GUEST_IP, HOST_IP, Skip

LIMIT_S = 240
PORT = 12345
PROGRAMS = ("vsock_test", "vsock_diag_test", "vsock_uring_test")


def _passed(text):
    return re.findall(r"^\d+ - (.+?)\.\.\.ok", text, re.MULTILINE)


def _other(text):
    """Lines of cases that did not say ok: skipped by the program itself, or the one it died in."""
    return [line for line in text.splitlines() if re.match(r"\d+ - ", line) and not line.rstrip().endswith("ok")]


def _run(context, guest, program, host_role, hybrid=None):
    host_program = os.path.join(context.vsock_test_folder, program)
    common = f"--control-port={PORT}"
    in_host = [host_program, f"--mode={host_role}", common, f"--peer-cid={GUEST_CID}"]
    env = None
    if hybrid:
        in_host[0] = host_program = f"{host_program}.host"  # the others are static, and preload nothing
        # Skipped by one half, a case is skipped by the other.
        in_host += [f"--skip={number}" for number, _, _ in vsock_hybrid.skips(host_program, host_role)]
        env = vsock_hybrid.environment(hybrid, context.vmm.uds_path, GUEST_CID)
    in_guest = f"{program} {common} --peer-cid=2"
    if host_role == "server":
        in_guest += f" --mode=client --control-host={HOST_IP}"
        host = subprocess.Popen(in_host, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        # The guest's client does not wait for a server: it may start only when the port is open.
        _wait_for_listener(host)
        code, text = guest.run(f"timeout {LIMIT_S} {in_guest}", limit_s=LIMIT_S + 30, check=False)
    else:
        in_host.append(f"--control-host={GUEST_IP}")
        guest.run(f"(timeout {LIMIT_S} {in_guest} --mode=server >/tmp/vsock 2>&1; echo $? >/tmp/vsock.code) &")
        guest.run(f"until netstat -ltn | grep -q :{PORT}; do usleep 50000; done", limit_s=30)
        host = subprocess.Popen(in_host, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        code, text = 0, ""
    try:
        host_text, _ = host.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        host.kill()
        host_text, _ = host.communicate()
        raise AssertionError(f"{program}, host as {host_role}: not done after {LIMIT_S} s\n{host_text}\n{text}") from None
    if host_role == "client":
        guest.run("until [ -s /tmp/vsock.code ]; do usleep 50000; done", limit_s=60)
        code = int(guest.run("cat /tmp/vsock.code; rm /tmp/vsock.code"))
        text = guest.run("cat /tmp/vsock")
    if code != 0 or host.returncode != 0:
        raise AssertionError(
            f"{program}, host as {host_role}: host exit code {host.returncode}, guest exit code {code}\n"
            f"host: {os.linesep.join(_other(host_text)[-3:] + host_text.splitlines()[-3:])}\n"
            f"guest: {os.linesep.join(_other(text)[-3:] + text.splitlines()[-3:])}")
    log = os.path.join(context.results, f"{context.case}.{program}.{host_role}")
    with open(log, "w", encoding="utf-8") as file:
        file.write(host_text)
    return _passed(host_text)


def _wait_for_listener(host):
    """Until the kernel lists PORT as listening; a connection to ask would be taken for the peer's."""
    while host.poll() is None:
        with open("/proc/net/tcp", encoding="ascii") as table:
            if any(f":{PORT:04X} " in line and " 0A " in line for line in table):
                return
    raise AssertionError(f"the host's side ended at once: {host.stdout.read()}")


def vsock_suite_in_process(context, guest):
    """The same for a device that is served in process: vsock_test alone, its host half through a library that makes unix
    sockets of AF_VSOCK. Also returns, by role, what could not be shown; vsock_hybrid.py says why."""
    if not context.vsock_test_folder:
        raise Skip("no vsock_test: scripts/fetch-kernel --vsock-test")
    library = context.vmm.vsock_hybrid
    if not os.path.exists(library):
        raise Skip(f"no {library}: not built")
    program = os.path.join(context.vsock_test_folder, "vsock_test.host")
    counts = {}
    for role in ("server", "client"):
        passed = _run(context, guest, "vsock_test", role, library)
        if not passed:
            raise AssertionError(f"vsock_test in process, host as {role}: ran no case")
        counts[f"vsock_test, host as {role}"] = len(passed)
        counts[f"not shown, host as {role}"] = ", ".join(name for _, name, _ in vsock_hybrid.skips(program, role))
    return counts


def vsock_suite(context, guest):
    """Returns the number of cases that passed, by program and role of the host."""
    if not context.vsock_test_folder:
        raise Skip("no vsock_test: scripts/fetch-kernel --vsock-test")
    counts = {}
    for program in PROGRAMS:
        if not os.path.exists(os.path.join(context.vsock_test_folder, program)):
            continue
        for role in ("server", "client"):
            passed = _run(context, guest, program, role)
            if not passed:
                raise AssertionError(f"{program}, host as {role}: ran no case")
            counts[f"{program}, host as {role}"] = len(passed)
    return counts
