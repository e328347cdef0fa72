#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Runs everything that a change must pass, and says what ran where.

    scripts/test                              all stages
    scripts/test --stage unit                 one stage (may be repeated; the stages it needs run before it)
    scripts/test --vm 6.12                    one kernel of the VM stage
    scripts/test --vm 6.12 --test 'reboot-*'  one end-to-end test on one kernel; 'Suite.Name' is a unit test there

Stages, in order:
    deps     scripts/install-deps
    build    g++, warnings are errors                                  build/
    unit     unit and contract tests on this machine
    asan     clang, warnings and thread-safety findings are errors; the tests under AddressSanitizer and UBSan   build-asan/
    tsan     g++; the tests under ThreadSanitizer                      build-tsan/
    lint     scripts/check
    vm       on Debian kernels 6.1, 6.12 and 7: all tests with real vhost nodes, and guests booted end to end; scripts/quickstart

Ends with a table of what ran, passed and was skipped, place by place. A test that is skipped in every place fails the
run: it would prove nothing to anybody. Where at most three tests failed, those are run once more by themselves: emulated
hosts stand still for seconds, and the kernel's own tests have races. What passed only then is counted and listed as
repeated, with what it said the first time. Exit code 0 when all is well. Logs: build/test-results.
"""

import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
KERNELS = ("6.1", "6.12", "7")
STAGES = ("deps", "build", "unit", "asan", "tsan", "lint", "vm")
NEEDS = {"unit": ("build",), "vm": ("build",), "lint": ("asan",)}

# Two emulated hosts at once keep two cores busy; each is one thread.
VMS_AT_ONCE = max(2, (os.cpu_count() or 2) - 1)
QUICKSTARTS = ((), ("--without", "module"))
VM_LIMIT_S = {"units": 1800, "end-to-end": 3600}
STAGE_LIMIT_S = 3600
# More failures than these are no accident; nor is a crash, or anything that a sanitizer says.
MAX_REPEATED = 3
# What died or hung without naming a failed expectation.
NO_FAILURE_NAMED = "ended without naming a failure"
SANITIZER_SPEAKS = re.compile(r"(ERROR|WARNING): \w*Sanitizer|runtime error:")


class Row:
    """One test in one place."""

    def __init__(self, place, suite, name, outcome, detail=""):
        self.place, self.suite, self.name, self.outcome, self.detail = place, suite, name, outcome, detail
        self.repeated = False

    def after(self, first):
        """This row as the outcome of the second run of a test that failed."""
        self.repeated = True
        reason = first.detail.strip() or "no reason was reported"
        self.detail = f"{self.detail}\nthe first time: {reason}".strip()
        return self


def worth_repeating(rows):
    """The rows that failed, if they may be an accident of the place."""
    failed = [row for row in rows if row.outcome == "failed"]
    serious = [row for row in failed if SANITIZER_SPEAKS.search(row.detail) or row.detail.startswith(NO_FAILURE_NAMED)]
    return failed if len(failed) <= MAX_REPEATED and not serious else []


def with_second_run(rows, again):
    """The rows of the first run, each failed one replaced by that of the second run where there is one."""
    second = {row.name: row for row in again}
    return [second[row.name].after(row) if row.outcome == "failed" and row.name in second else row for row in rows]


class Run:
    def __init__(self, options):
        self.options = options
        self.rows = []
        self.results = os.path.join(ROOT, "build", "test-results")
        self.started = time.monotonic()

    def say(self, text):
        print(f"[{time.monotonic() - self.started:6.0f} s] {text}", flush=True)

    def command(self, title, argv, limit_s=STAGE_LIMIT_S, env=None):
        """Runs a command with its output in a log; shows the log's end when it fails. True when it succeeded."""
        log = os.path.join(self.results, title.replace(" ", "-") + ".log")
        os.makedirs(self.results, exist_ok=True)
        started = time.monotonic()
        with open(log, "w", encoding="utf-8") as out:
            try:
                code = subprocess.run(argv, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                      timeout=limit_s, check=False, env={**os.environ, **(env or {})}).returncode
            except subprocess.TimeoutExpired:
                code = f"none: not done after {limit_s} s"
        took = time.monotonic() - started
        if code == 0:
            self.say(f"passed {title} ({took:.0f} s)")
            return True
        with open(log, errors="replace", encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.say(f"FAILED {title} ({took:.0f} s), exit code {code}; the end of {os.path.relpath(log, ROOT)}:")
        for line in lines[-40:]:
            print("  | " + line)
        sys.stdout.flush()
        return False

    def check(self, title, argv, **more):
        """A command that is a test of its own."""
        passed = self.command(title, argv, **more)
        self.rows.append(Row("this machine", "stages", title, "passed" if passed else "failed"))
        return passed

    # Builds and tests on this machine

    def build(self, folder, title, *settings):
        argv = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, *settings]
        if shutil.which("ccache"):
            argv.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
        # Objects of the same source for different build folders differ only in the folder's name in debug information.
        env = {"CCACHE_NOHASHDIR": "1", "CCACHE_BASEDIR": ROOT}
        return (self.check(f"{title} configure", argv, env=env)
                and self.check(f"{title} build", ["cmake", "--build", folder], env=env))

    def ctest(self, folder, place, env=None):
        rows, passed = self.ctest_once(folder, place, f"{place} tests", ["-j", str(os.cpu_count() or 2)], env)
        repeat = worth_repeating(rows)
        if repeat:
            self.say(f"{place}: once more: {' '.join(row.name for row in repeat)}")
            again, passed = self.ctest_once(folder, place, f"{place} tests again", ["--rerun-failed"], env)
            rows = with_second_run(rows, again)
        if not passed and not any(row.outcome == "failed" for row in rows):
            rows.append(Row(place, "ctest", "ctest", "failed", "exit code"))
        self.rows += rows

    def ctest_once(self, folder, place, title, options, env):
        """The rows of CTest's report, and whether all passed."""
        report = os.path.join(self.results, title.replace(" ", "-") + ".xml")
        if os.path.exists(report):
            os.remove(report)
        passed = self.command(title, ["ctest", "--test-dir", folder, *options, "--output-on-failure", "--timeout", "300",
                                      "--output-junit", report, "--no-tests=error"], env=env)
        if not os.path.exists(report):
            return [Row(place, "ctest", "ctest", "failed", "no report")], False
        rows = []
        for case in xml.etree.ElementTree.parse(report).iter("testcase"):
            outcome = {"run": "passed", "fail": "failed"}.get(case.get("status"), "skipped")
            # CTest's name has the parameter's value behind it; gtest's own report, which the VM gives, does not.
            name = case.get("name").split("  # GetParam()")[0]
            rows.append(Row(place, "unit", name, outcome, complaint(case) if outcome == "failed" else ""))
        return rows, passed

    # The VM

    def prepare_vm(self, kernels, end_to_end):
        """What an emulated host would make slowly is made here, once."""
        for kernel in kernels:
            argvs = [["scripts/fetch-kernel", kernel], ["scripts/guest-image", "--kernel", kernel]]
            if end_to_end:
                argvs += [["scripts/fetch-kernel", "--vsock-test", kernel],
                          ["scripts/guest-image", "--kernel", kernel, "--vsock-test"]]
            for argv in argvs:
                if not self.check(f"prepare {' '.join(argv[0:])[8:]}", argv, limit_s=900):
                    return False
        return True

    def vm(self, kernel, kind, patterns):
        rows = self.vm_to_its_end(kernel, kind, patterns)
        repeat = worth_repeating(rows)
        if not repeat:
            return rows
        names = [row.name for row in repeat if row.name != f"vm {kernel} {kind}"]
        if not names:
            return rows
        self.say(f"vm {kernel} {kind}: once more, in a new VM: {' '.join(names)}")
        again, _ = self.vm_once(kernel, kind, names, f"vm {kernel} {kind} repeated")
        return with_second_run(rows, again)

    def vm_to_its_end(self, kernel, kind, patterns):
        rows, ended = self.vm_once(kernel, kind, patterns, f"vm {kernel} {kind}")
        if ended:
            return rows
        # The emulated host died or stood still, which emulation can do by itself (see --cpus of scripts/vm). What was not
        # reported is run in a new one.
        done = {row.name for row in rows}
        rest = [name for name in self.end_to_end_names(patterns) if name not in done] if kind == "end-to-end" else patterns
        if kind == "end-to-end" and not rest:
            return rows + [Row(f"kernel {kernel}", kind, f"vm {kernel} {kind}", "failed", "the VM did not end well")]
        self.say(f"vm {kernel} {kind}: the VM ended before its tests did; the rest once more: {' '.join(rest)}")
        more, ended = self.vm_once(kernel, kind, rest, f"vm {kernel} {kind} again")
        if not ended:
            more.append(Row(f"kernel {kernel}", kind, f"vm {kernel} {kind}", "failed", "the VM ended before its tests did, twice"))
        return rows + more if kind == "end-to-end" else more

    def end_to_end_names(self, patterns):
        argv = ["tests/vm/run", "--list"]
        for pattern in patterns:
            argv += ["--test", pattern]
        return subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split()

    def vm_once(self, kernel, kind, patterns, title):
        """The rows of what was reported, and whether all was."""
        folder = os.path.join(self.results, title.replace(" ", "-"))
        shutil.rmtree(folder, ignore_errors=True)
        limit_s = VM_LIMIT_S[kind]
        if kind == "units":
            command = ["tests/vm/units", self.options.build] + ([":".join(patterns)] if patterns else [])
        else:
            command = ["tests/vm/run", "--build", self.options.build]
            for pattern in patterns:
                command += ["--test", pattern]
        argv = ["scripts/vm", "--kernel", kernel, "--timeout", str(limit_s), "--results", folder, "--", *command]
        passed = self.command(title, argv, limit_s=limit_s + 120)
        rows = []
        place = f"kernel {kernel}"
        for report in sorted(glob.glob(os.path.join(folder, "*.gtest.json"))):
            rows += gtest_rows(report, place)
        summary = os.path.join(folder, "results.json")
        if os.path.exists(summary):
            with open(summary, encoding="utf-8") as file:
                rows += [Row(place, "end-to-end", row["name"], row["outcome"], row["detail"]) for row in json.load(file)]
        return rows, bool(rows) and (passed or any(row.outcome == "failed" for row in rows))

    def vm_stage(self):
        kernels = self.options.vm or list(KERNELS)
        patterns = self.options.test
        unit_patterns = [pattern for pattern in patterns if "." in pattern]
        other_patterns = [pattern for pattern in patterns if "." not in pattern]
        kinds = []
        if not patterns or other_patterns:
            kinds.append(("end-to-end", other_patterns))
        if not patterns or unit_patterns:
            kinds.append(("units", unit_patterns))
        if not self.prepare_vm(kernels, kinds[0][0] == "end-to-end"):
            return
        # The long ones first, so that the last to finish is a short one.
        jobs = [(kernel, kind, which) for kind, which in kinds for kernel in kernels]
        with concurrent.futures.ThreadPoolExecutor(max_workers=VMS_AT_ONCE) as pool:
            whole = not self.options.test and not self.options.vm
            demonstrations = [pool.submit(self.quickstart, *options) for options in QUICKSTARTS if whole]
            for rows in pool.map(lambda job: self.vm(*job), jobs):
                self.rows += rows
            for demonstration in demonstrations:
                demonstration.result()

    def quickstart(self, *options):
        """What a newcomer runs first. The build is there already."""
        title = " ".join(["quickstart", *options])
        argv = ["scripts/quickstart", *options]
        if self.command(title, argv, limit_s=1800):
            return self.rows.append(Row("this machine", "stages", title, "passed"))
        first = Row("this machine", "stages", title, "failed", "see its log")
        self.say(f"{title}: once more, in a new VM")
        passed = self.command(f"{title} again", argv, limit_s=1800)
        self.rows.append(Row("this machine", "stages", title, "passed" if passed else "failed").after(first))

    def stage(self, name):
        build, asan, tsan = self.options.build, ROOT + "/build-asan", ROOT + "/build-tsan"
        if name == "deps":
            return self.check("install-deps", ["scripts/install-deps"])
        if name == "build":
            return self.build(build, "g++", "-DCMAKE_CXX_COMPILER=g++")
        if name == "unit":
            self.ctest(build, "this machine")
        elif name == "asan":
            if self.build(asan, "clang asan+ubsan", "-DCMAKE_CXX_COMPILER=clang++", "-DLIBVHOST_SANITIZE=address,undefined"):
                self.ctest(asan, "asan+ubsan", {"ASAN_OPTIONS": "detect_stack_use_after_return=1",
                                                "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"})
        elif name == "tsan":
            if self.build(tsan, "g++ tsan", "-DCMAKE_CXX_COMPILER=g++", "-DLIBVHOST_SANITIZE=thread"):
                self.ctest(tsan, "tsan", {"TSAN_OPTIONS": f"halt_on_error=1:suppressions={ROOT}/tests/sanitizers/thread.supp"})
        elif name == "lint":
            for check in ("format", "spdx", "includes", "scripts", "tidy"):
                self.check(f"check {check}", ["scripts/check", "--build", asan, check])
        elif name == "vm":
            self.vm_stage()
        return True

    # The summary

    def summary(self):
        """Prints the table; returns how many failed, counting tests that no place could run."""
        order = {"passed": 0, "failed": 1, "skipped": 2}
        table = {}
        for row in self.rows:
            counts = table.setdefault((row.place, row.suite), [0, 0, 0, 0])
            counts[order[row.outcome]] += 1
            counts[3] += row.repeated
        print(f"\n{'place':18}{'suite':12}{'ran':>6}{'passed':>8}{'failed':>8}{'skipped':>9}{'repeated':>10}")
        for (place, suite), (passed, failed, skipped, repeated) in table.items():
            print(f"{place:18}{suite:12}{passed + failed:6}{passed:8}{failed:8}{skipped:9}{repeated:10}")
        print()
        for row in self.rows:
            if row.outcome == "failed":
                print(f"failed: {row.place}: {row.name}" + (f": {row.detail.splitlines()[0]}" if row.detail else ""))
            elif row.repeated:
                print(f"repeated, passed: {row.place}: {row.name}\n    "
                      + "\n    ".join(row.detail[row.detail.index("the first time: "):].splitlines()[:12]))
        complete = not self.options.stage and not self.options.vm and not self.options.test
        nowhere = 0
        if complete:
            proved = {row.name for row in self.rows if row.outcome != "skipped"}
            for name in sorted({row.name for row in self.rows if row.outcome == "skipped"} - proved):
                print(f"failed: skipped in every place: {name}")
                nowhere += 1
        count = {outcome: sum(row.outcome == outcome for row in self.rows) for outcome in order}
        failed = count["failed"] + nowhere
        print(f"\n{count['passed']} passed, {failed} failed, {count['skipped']} skipped", flush=True)
        return failed or not count["passed"]


def complaint(case):
    """What a failed test of CTest's report said, from its first complaint on."""
    said = case.findtext("system-out") or ""
    begin = re.search(rf"^.*(: Failure$|{SANITIZER_SPEAKS.pattern})", said, re.MULTILINE)
    return said[begin.start():] if begin else "\n".join([NO_FAILURE_NAMED, *said.splitlines()[-5:]])


def gtest_rows(report, place):
    with open(report, encoding="utf-8") as file:
        data = json.load(file)
    if "died" in data:
        return [Row(place, "unit", data["died"], "failed", f"{NO_FAILURE_NAMED}: it died or hung")]
    rows = []
    for suite in data.get("testsuites", []):
        for test in suite.get("testsuite", []):
            if test.get("status") == "NOTRUN":
                continue
            if "failures" in test:
                outcome = "failed"
            else:
                outcome = "skipped" if test.get("result") == "SKIPPED" else "passed"
            detail = "\n".join(failure["failure"] for failure in test.get("failures", []))
            rows.append(Row(place, "unit", f"{suite['name']}.{test['name']}", outcome, detail))
    return rows


def main():
    parser = argparse.ArgumentParser(prog="scripts/test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", default=[], choices=STAGES)
    parser.add_argument("--vm", action="append", default=[], choices=KERNELS, metavar="KERNEL")
    parser.add_argument("--test", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--build", default=os.path.join(ROOT, "build"), help="build folder of the g++ build")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    if (options.vm or options.test) and not options.stage:
        options.stage = ["vm"]

    wanted = set(options.stage or STAGES)
    for name in list(wanted):
        wanted.update(NEEDS.get(name, ()))
    run = Run(options)
    for name in STAGES:
        # The rest says nothing about a tree whose tools are missing or that does not build.
        if name in wanted and run.stage(name) is False:
            break
    return 1 if run.summary() else 0


if __name__ == "__main__":
    sys.exit(main())
