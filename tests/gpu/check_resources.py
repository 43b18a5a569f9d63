#!/usr/bin/env python3
"""Holds what every GPU kernel takes of a multiprocessor to a table. usage: check_resources.py BUILD_FOLDER [--update]

Compiles every .cu of BUILD_FOLDER's compile_commands.json again with -Xptxas=-v and compares with resources.txt beside this
file: a kernel that is not in the table, needs more registers than it says there by more than 8, or more stack or spilled
bytes, is a failure. --update writes the table. The figures are sm_90a's; nvcc need not be the table's."""

import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

TABLE = pathlib.Path(__file__).with_name("resources.txt")
REGISTERS_SLACK = 8
FIGURES = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_90a'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers", re.S)


def compile_one(entry):
    """What ptxas says of one file, for sm_90a alone."""
    words = [word for word in shlex.split(entry["command"]) if "compute_80" not in word]
    with tempfile.TemporaryDirectory() as folder:
        words[words.index("-o") + 1] = f"{folder}/out.o"
        run = subprocess.run(words + ["-Xptxas=-v"], cwd=entry["directory"], capture_output=True, text=True, timeout=300)
    if run.returncode != 0:
        sys.exit(f"error: {entry['file']} does not compile\n{run.stderr}")
    return run.stdout + run.stderr


def compiled(build):
    """{kernel: (registers, stack bytes, spilled bytes)} of every .cu file."""
    entries = [entry for entry in json.loads((build / "compile_commands.json").read_text())
               if entry["file"].endswith(".cu") and "nvcc" in entry["command"]]
    found = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for said in pool.map(compile_one, entries):
            for match in FIGURES.finditer(said):
                spilled = int(match["stores"]) + int(match["loads"])
                found[match["name"]] = (int(match["registers"]), int(match["stack"]), spilled)
    names = subprocess.run(["c++filt", *found], capture_output=True, text=True, check=True).stdout.split("\n")
    short = (re.sub(r"void octavo::simt::Run<octavo::cuda::(.*) >\(.*\)|void octavo::simt::Run<octavo::cuda::(.*)>\(.*\)",
                    r"\1\2", name).replace("octavo::", "").replace(" ", "") for name in names)
    return dict(zip(short, found.values()))


def main():
    build = pathlib.Path(sys.argv[1])
    found = compiled(build)
    if "--update" in sys.argv:
        lines = [f"{name} {' '.join(map(str, figures))}" for name, figures in sorted(found.items())]
        TABLE.write_text("# kernel, registers of a thread, bytes of its stack, bytes spilled; tests/gpu/check_resources.py\n"
                         + "\n".join(lines) + "\n")
        return 0
    table = {}
    for line in TABLE.read_text().split("\n"):
        if line and not line.startswith("#"):
            name, *figures = line.split()
            table[name] = tuple(map(int, figures))
    bad = [f"{name}: in the table, not in the build" for name in table if name not in found]
    for name, figures in sorted(found.items()):
        allowed = table.get(name)
        if allowed is None:
            bad.append(f"{name}: not in {TABLE.name}")
        elif figures[0] > allowed[0] + REGISTERS_SLACK or figures[1] > allowed[1] or figures[2] > allowed[2]:
            bad.append(f"{name}: {figures[0]} registers, {figures[1]} bytes of stack, {figures[2]} spilled; table: {allowed}")
    print("\n".join(bad + [f"{len(found)} kernels, {len(bad)} findings"]))
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main())
