#!/usr/bin/env python3
"""Calibrating SmolLM2 to FP8 with static scales on 64 samples of 512 tokens: Octavo against llm-compressor, turn by turn.

Octavo's time is from the job's submission to the published folder: reading, calibrating, casting, writing, syncing (its own
report; two workers, started beforehand as Python is). llm-compressor's is the call of oneshot() alone, on a model that is
loaded already and saved afterwards; importing, loading and saving are printed and not counted. Both get the same ids and a
warm page cache. The ratio is of the fastest turns, as the slower ones show what else the machine did. Processor seconds are
printed beside: they tell what a busy machine hides.

usage: bench_peer_speed.py [--rounds N] [--bar RATIO]
Run with the environment of install_peers.sh. Environment: as smol.py.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import time

import torch
import transformers

import peers
import smol
from table_peer_quality import LENGTH, SAMPLES, ids_of_handbook, write_ids

RECIPE = """name: speed
dialect: compressed-tensors
rules:
  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: tensor}}
calibration: {observer: absmax, samples: 64, sample_length: 512}
"""


def cpu_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def octavo_turn(samples):
    """Seconds from submission to the published folder; of the whole command; of all its processors."""
    recipe, out = smol.CACHE / "speed.yaml", smol.CACHE / "speed-octavo"
    recipe.write_text(RECIPE)
    shutil.rmtree(out, ignore_errors=True)
    ids = write_ids(smol.CACHE / "speed-samples.jsonl", samples)
    start, before = time.monotonic(), cpu_of_children()
    smol.octavo("quantize", smol.bf16(), "--recipe", recipe, "--out", out, "--workers", 2, "--calibration", ids,
                "--packing", "each", capture_output=True)
    whole, cpu = time.monotonic() - start, cpu_of_children() - before
    report = json.loads(out.with_name(out.name + ".report.json").read_text())
    assert report["units"]["reused"] == 0, report["units"]
    return report["seconds"]["total"], whole, cpu


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bar", type=float, default=8.0)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    samples, _ = ids_of_handbook(1)
    # Imports that oneshot does at its first call are Python's start-up.
    peers.llm_compressor(smol.bf16(), smol.CACHE / "speed-peer", samples[:1])
    octavo_turn(samples)
    ours, theirs = [], []
    for number in range(args.rounds):
        seconds, whole, cpu = octavo_turn(samples)
        start = time.process_time()
        steps = peers.llm_compressor(smol.bf16(), smol.CACHE / "speed-peer", samples)
        peer_cpu = time.process_time() - start
        ours.append(seconds)
        theirs.append(steps["oneshot"])
        print(f"round {number + 1}: octavo {seconds:.2f} s (whole command {whole:.2f} s, processors {cpu:.1f} s); "
              f"llm-compressor oneshot {steps['oneshot']:.2f} s (load {steps['load']:.2f} s, save {steps['save']:.2f} s, "
              f"processors of all three {peer_cpu:.1f} s); load average {os.getloadavg()[0]:.1f}", flush=True)
    ratio = min(theirs) / min(ours)
    print(f"{SAMPLES} x {LENGTH} tokens, {torch.get_num_threads()} threads of torch: octavo {min(ours):.2f} s (median "
          f"{statistics.median(ours):.2f}), llm-compressor {min(theirs):.2f} s (median {statistics.median(theirs):.2f}); "
          f"{ratio:.2f} times as fast, bar {args.bar:g}: {'ok' if ratio >= args.bar else 'FAIL'}")
    return 0 if ratio >= args.bar else 1


if __name__ == "__main__":
    sys.exit(main())
