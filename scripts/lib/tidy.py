#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Runs clang-tidy over a compile database, on every core, skipping what passed before.

    tidy.py BUILD_FOLDER CACHE_FOLDER

A file passes once per content: the key is its preprocessed text, the flags, .clang-tidy and clang-tidy's version. Tests
are left out: they are the larger half, and what is looked for here would hurt in what is shipped.
"""

import concurrent.futures
import hashlib
import json
import os
import shlex
import subprocess
import sys


def main():
    build, cache = sys.argv[1:3]
    os.makedirs(cache, exist_ok=True)
    root = os.getcwd()
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        entries = json.load(file)
    entries = {entry["file"]: entry for entry in entries
               if entry["file"].startswith(root + os.sep) and not entry["file"].endswith("_test.cc")
               and not entry["file"].startswith(os.path.join(root, "tests") + os.sep)}
    with open(".clang-tidy", "rb") as file:
        common = file.read() + subprocess.run(["clang-tidy", "--version"], stdout=subprocess.PIPE, check=True).stdout

    def check(entry):
        words = shlex.split(entry["command"])
        if os.path.basename(words[0]) == "ccache":
            words = words[1:]
        output = words.index("-o")
        words = words[:output] + words[output + 2:]
        preprocess = [words[0], "-E", "-P"] + [word for word in words[1:] if word != "-c"]
        text = subprocess.run(preprocess, cwd=entry["directory"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              check=False).stdout
        # -P drops the line markers, so comments and line numbers do not matter; NOLINT is a comment that does.
        with open(entry["file"], "rb") as source:
            remarks = b"".join(line for line in source if b"NOLINT" in line)
        flags = " ".join(words[1:]).replace(root, "")  # another clone's passes count
        key = hashlib.sha256(common + flags.encode() + text + remarks).hexdigest()
        passed = os.path.join(cache, key)
        if text and os.path.exists(passed):
            return ""
        result = subprocess.run(["clang-tidy", "--quiet", "-p", build, entry["file"]], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True, check=False)
        if result.returncode == 0:
            open(passed, "w", encoding="utf-8").close()
            return ""
        return result.stdout or f"{entry['file']}: clang-tidy: exit code {result.returncode}\n"

    failures = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for findings in pool.map(check, entries.values()):
            if findings:
                failures += 1
                print(findings, end="", flush=True)
    print(f"clang-tidy: {len(entries)} files, {failures} with findings")
    return 1 if failures or not entries else 0


if __name__ == "__main__":
    sys.exit(main())
