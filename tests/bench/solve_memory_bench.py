#!/usr/bin/env python3
"""A mixture solved by GPTQ with each worker in a memory cgroup of exactly its --memory, page cache included.

A random Mixtral-shaped model (8 experts, hidden 2,048, 4 layers) is quantized with `int8-w8a8-gptq` by two workers. A launcher
stands in for octavo-worker: it makes a cgroup, limits it, enters it and becomes the worker. The job has to finish with no
process killed for memory, resident memory of each worker has to stay within --memory, and the report has to say of every expert
how many tokens it saw. A cgroup also fills with page cache, which the kernel drops at the limit: its peak says that the limit
held, resident memory how close the worker itself came.

usage: OCTAVO_BIN_DIR=build/release/bin solve_memory_bench.py [--dir FOLDER] [--memory BYTES] [--samples N] [--length TOKENS] [--recipe R]
Needs root and a memory controller (cgroup v1 or v2), and 6 GB of disk.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading

BIN = pathlib.Path(os.environ["OCTAVO_BIN_DIR"]).resolve()
SHAPE = ["--family", "mixtral", "--layers", 4, "--hidden", 2048, "--intermediate", 5632, "--heads", 16, "--kv-heads", 4,
         "--experts", 8, "--experts-per-token", 2, "--vocab", 32000, "--seed", 1]
LAUNCHER = """#!/bin/bash
set -e
group=GROUP/worker-$$
mkdir "$group"
echo LIMIT > "$group/LIMIT_FILE"
echo $$ > "$group/cgroup.procs"
exec WORKER "$@"
"""


class Cgroups:
    """A cgroup of our own with one of each worker inside."""

    def __init__(self):
        if pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
            root, self.limit, self.peak = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"
            self.kills, self.resident = "memory.oom_control", "rss"
        else:
            root, self.limit, self.peak = "/sys/fs/cgroup", "memory.max", "memory.peak"
            self.kills, self.resident = "memory.events", "anon"
        self.folder = pathlib.Path(root) / f"octavo-{os.getpid()}"
        self.folder.mkdir()
        if self.limit == "memory.max":
            (self.folder / "cgroup.subtree_control").write_text("+memory")
        self.most = {}  # worker: bytes of anonymous memory, the largest sample

    def workers(self):
        return sorted(self.folder.glob("worker-*"))

    def field(self, group, file, name):
        return next(int(line.split()[1]) for line in (group / file).read_text().splitlines() if line.split()[0] == name)

    def sample(self, stop):
        while not stop.wait(0.1):
            for group in self.workers():
                self.most[group.name] = max(self.most.get(group.name, 0), self.field(group, "memory.stat", self.resident))

    def remove(self):
        for group in [*self.workers(), self.folder]:
            group.rmdir()


def octavo(programs, *args):
    done = subprocess.run([str(programs / "octavo"), *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"octavo {args[0]} left with {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def programs_in(folder, cgroups, memory):
    """The programs, with the launcher in place of the worker."""
    folder.mkdir()
    for name in ("octavo", "octavo-coordinator"):
        shutil.copy2(BIN / name, folder / name)
    launcher = LAUNCHER.replace("GROUP", str(cgroups.folder)).replace("LIMIT_FILE", cgroups.limit)
    (folder / "octavo-worker").write_text(launcher.replace("LIMIT", str(memory)).replace("WORKER", str(BIN / "octavo-worker")))
    (folder / "octavo-worker").chmod(0o755)
    return folder


def show_coverage(report):
    """What experts saw, and which of their Hessians were solved; False where one is missing."""
    solved = [entry for entry in report["calibration"]["solved"] if "expert" in entry]
    layers, count = report["model"]["layers"], SHAPE[SHAPE.index("--experts") + 1]
    for point in sorted({entry["point"] for entry in solved}):
        mine = [entry for entry in solved if entry["point"] == point]
        tokens = [entry["tokens"] for entry in mine]
        done = [entry for entry in mine if entry["dampings_tried"]]
        before, after = (sum(entry[key] for entry in done) for key in ("output_error_rounded", "output_error_solved"))
        print(f"{point} of {len(mine)} experts: {min(tokens)} to {max(tokens)} tokens each, median {statistics.median(tokens):.0f}; "
              f"{len(done)} Hessians solved" + (", the others saw too few tokens" if len(done) < len(mine) else "")
              + (f"; output error {after / before:.3f} of rounding's" if done else ""))
    places = {(entry["layer"], entry["expert"], entry["point"]) for entry in solved}
    return len(places) == len(solved) == layers * count * 2


def run(scratch, cgroups, args):
    source, out = scratch / "mixture", scratch / "out"
    octavo(BIN, "synth", *SHAPE, "--out", source)
    job = [source, "--recipe", args.recipe, "--calibration", "random", "--samples", args.samples, "--sample-length", args.length,
           "--workers", 2, "--memory", args.memory]
    plan = json.loads(octavo(BIN, "plan", *job, "--json"))
    print(f"plan: --memory at least {plan['memory_bytes_min'] / 2**20:.0f} MiB, {plan['seconds']:.0f} s", flush=True)
    programs, stop = programs_in(scratch / "programs", cgroups, args.memory), threading.Event()
    sampler = threading.Thread(target=cgroups.sample, args=(stop,))
    sampler.start()
    try:
        octavo(programs, "quantize", *job, "--out", out)
    finally:
        stop.set()
        sampler.join()
    times = json.loads((scratch / "out.report.json").read_text())
    report = json.loads((out / "octavo_report.json").read_text())
    print(f"done in {times['seconds']['total']:.0f} s, {times['units']['total']} units, {times['units']['retries']} repeated")
    good = times["units"]["retries"] == 0
    for group in cgroups.workers():
        peak, kills = int((group / cgroups.peak).read_text()), cgroups.field(group, cgroups.kills, "oom_kill")
        held = peak <= args.memory and kills == 0
        good &= held
        print(f"{group.name}: cgroup's peak {peak / 2**20:.0f} of {args.memory / 2**20:.0f} MiB, anonymous memory at most "
              f"{cgroups.most[group.name] / 2**20:.0f} MiB, {kills} killed: {'ok' if held else 'FAIL'}")
    resident = [worker["rss_peak_bytes"] for worker in times["workers"]]
    print("resident memory at most: " + ", ".join(f"{one / 2**20:.0f} MiB" for one in resident))
    good &= show_coverage(report)
    return good and len(cgroups.workers()) == len(resident) == 2 and max(resident) <= args.memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", help="scratch folder")
    parser.add_argument("--memory", type=int, default=2 << 30)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--recipe", default="int8-w8a8-gptq")
    args = parser.parse_args()
    cgroups = Cgroups()
    try:
        with tempfile.TemporaryDirectory(prefix="octavo-", dir=args.dir) as scratch:
            good = run(pathlib.Path(scratch), cgroups, args)
    finally:
        cgroups.remove()
    print("ok" if good else "FAIL")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
