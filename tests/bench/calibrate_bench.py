"""What calibrating costs against what the machine can, and against what `octavo plan` foretold. Needs an idle machine.

usage: OCTAVO_BIN_DIR=build/release/bin calibrate_bench.py [--rounds N] [--dir FOLDER] [--recipe R] [--only MODEL]

For a random Llama of 1.1 B parameters and a random mixture:
  forecast    the time that `octavo plan` foretells from rates measured in the same minutes, beside the job's own
  two / one   how much faster two workers on two cores are than one worker on one core (from job submitted to output
              published), over how much faster two cores multiply than one; the runs and the probes alternate
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

BIN = pathlib.Path(os.environ["OCTAVO_BIN_DIR"]).resolve()
MODELS = {
    "llama-1.1b": (["--layers", "23", "--hidden", "2048", "--intermediate", "5632", "--heads", "32", "--kv-heads", "4",
                    "--vocab", "32000"], ["--samples", "32", "--sample-length", "64"]),
    "mixture": (["--family", "mixtral", "--layers", "6", "--hidden", "1024", "--intermediate", "2816", "--heads", "16",
                 "--kv-heads", "4", "--experts", "8", "--experts-per-token", "2", "--vocab", "32000"],
                ["--samples", "64", "--sample-length", "128"])}


def octavo(*args, cpus=None, **options):
    command = [str(BIN / "octavo"), *map(str, args)]
    if cpus:
        command = ["taskset", "-c", cpus, *command]
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def probe(folder):
    out = subprocess.run([str(BIN / "octavo-worker"), "probe", "--json", "--dir", str(folder), "--seconds", "3"],
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def seconds_of_job(folder, source, recipe, calibration, workers):
    """One cluster of as many workers as cores that it may use; its job's time, without starting and stopping."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    (folder / "out.report.json").unlink(missing_ok=True)
    octavo("quantize", source, "--recipe", recipe, "--calibration", "random", *calibration, "--workers", workers,
           "--threads", 1, "--memory", "4GiB", "--out", out, cpus="0" if workers == 1 else "0,1")
    return json.loads((folder / "out.report.json").read_text())["seconds"]["total"]


def measure(name, folder, recipe, rounds):
    shape, calibration = MODELS[name]
    source = folder / name
    octavo("synth", *shape, "--seed", 1, "--out", source)
    ones, twos, cores, forecasts = [], [], [], []
    for _ in range(rounds):
        octavo("bench", "rates", "--dir", folder, "--probe-seconds", 3)
        plan = json.loads(octavo("plan", source, "--recipe", recipe, "--calibration", "random", *calibration,
                                 "--workers", 2, "--memory", "4GiB", "--json"))
        before = probe(folder)
        ones.append(seconds_of_job(folder, source, recipe, calibration, 1))
        twos.append(seconds_of_job(folder, source, recipe, calibration, 2))
        after = probe(folder)
        cores.append((before["fma_all_flops"] + after["fma_all_flops"])
                     / (before["fma_core_flops"] + after["fma_core_flops"]))
        forecasts.append(plan["seconds"])
        print(f"{name}: one {ones[-1]:.2f} s, two {twos[-1]:.2f} s, two cores over one {cores[-1]:.2f}, "
              f"plan {forecasts[-1]:.2f} s", flush=True)
    faster = statistics.median(one / two for one, two in zip(ones, twos))
    machine = statistics.median(cores)
    print(f"{name}: two workers {faster:.2f} times as fast as one; two cores {machine:.2f}; ratio {faster / machine:.2f} "
          f"(bar 0.92)")
    off = statistics.median(plan / two for plan, two in zip(forecasts, twos))
    print(f"{name}: the plan foretold {off:.2f} of the time (bar 0.70 to 1.30)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="scratch folder, on the disk to measure")
    parser.add_argument("--recipe", default="fp8-static", help="one that calibrates")
    parser.add_argument("--only", choices=MODELS)
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="octavo-", dir=args.dir) as folder:
        for name in [args.only] if args.only else MODELS:
            measure(name, pathlib.Path(folder), args.recipe, args.rounds)
    print(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
