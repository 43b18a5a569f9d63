"""Families by presets by workers by memory by kills, on real processes: one set of bytes for each family and preset.

As a test it runs a sample in which every two settings meet at least once (a pairwise covering sample, always the same).
As a script it runs them all and prints the table of docs/benchmarks:

usage: OCTAVO_BIN_DIR=build/release/bin matrix_test.py --full
"""

import itertools
import pathlib
import random
import shutil
import sys
import tempfile
import time
import unittest

from harness import ClusterTest, Run, digest_of, digests, wait_until

SHAPE = ["--layers", 2, "--hidden", 128, "--intermediate", 256, "--heads", 4, "--kv-heads", 2, "--vocab", 256, "--seed", 7]
EXPERTS = ["--experts", 3, "--experts-per-token", 2]
FAMILIES = {"llama": [], "mistral": [], "qwen2": [], "qwen3": [], "mixtral": EXPERTS, "dbrx": EXPERTS}
CALIBRATION = ["--calibration", "random", "--samples", 8, "--sample-length", 32, "--seed", 3]
PRESETS = {"fp8-dynamic": [], "fp8-weight-only": [], "fp8-block": [], "int8-dynamic": [], "fp8-static": CALIBRATION,
           "fp8-static-kv": CALIBRATION, "fp8-gptq": CALIBRATION, "int8-smoothquant-gptq": CALIBRATION}
# No reader has a kernel, or the dialect no place for the scales of stacked experts, or they are not smoothed.
REFUSED = {("dbrx", preset) for preset in PRESETS if "static" not in preset}
WORKERS = [1, 2, 3, 8]
MEMORY = ["256MiB", "1GiB"]
# Where one process kills itself, once: a worker at the first three, the coordinator at the others.
KILLS = ["none", "leased:1", "mid-write:1", "before-receipt:1", "leased-out", "mid-publish", "after-publish"]
MODELS = [pair for pair in itertools.product(FAMILIES, PRESETS) if pair not in REFUSED]
CASES = [(*model, *rest) for model, rest in itertools.product(MODELS, itertools.product(WORKERS, MEMORY, KILLS))]


def pairs_of(case):
    """Every two settings of a case; two settings of different places are different pairs."""
    return set(itertools.combinations(enumerate(case), 2))


def pairwise_sample():
    """Greedy: of some random cases that bring a pair still to be seen, the one that brings the most."""
    choose = random.Random(4)
    left = set().union(*map(pairs_of, CASES))
    sample = []
    while left:
        wanted = min(left)
        fitting = [case for case in CASES if wanted in pairs_of(case)]
        best = max(choose.sample(fitting, min(len(fitting), 60)), key=lambda case: len(pairs_of(case) & left))
        left -= pairs_of(best)
        sample.append(best)
    return sample


class Cluster:
    """Models and their expected bytes, made when they are first asked for."""

    def __init__(self, scratch):
        self.scratch, self.expected = scratch, {}

    def end(self, *args, env=None):
        """The exit code, after every process of the run has ended."""
        run = Run(*args, env=env)
        code = run.wait()
        wait_until(lambda: not run.family(), 5, f"{run.args}: processes outlived their command")
        return code, run

    def job(self, family, preset, out):
        source = self.scratch / family
        if not source.exists():
            code, run = self.end("synth", "--family", family, *SHAPE, *FAMILIES[family], "--out", source)
            assert code == 0, run.stderr()
        return ["quantize", source, "--recipe", preset, *PRESETS[preset], "--out", out]

    def reference(self, family, preset):
        key = (family, preset)
        if key not in self.expected:
            out = self.scratch / f"{family}-{preset}"
            code, run = self.end(*self.job(family, preset, out), "--workers", 1)
            assert code == 0, run.stderr()
            self.expected[key] = digests(out)
            shutil.rmtree(out)
        return self.expected[key]

    def run(self, case):
        """Bytes of one case, {name: digest}; a job that its kill ended is resumed by the same command."""
        family, preset, workers, memory, kill = case
        out, flag = self.scratch / "out", self.scratch / "flag"
        command = [*self.job(family, preset, out), "--workers", workers, "--memory", memory]
        flag.unlink(missing_ok=True)
        code, run = self.end(*command, env={} if kill == "none" else {"OCTAVO_FAULT_POINT": f"{kill}@{flag}"})
        assert flag.exists() == (kill != "none"), f"{case}: the fault point was not passed\n{run.stderr()}"
        if code != 0:
            assert kill != "none", f"{case}: {code}\n{run.stderr()}"
            code, run = self.end(*command)
        assert code == 0, f"{case}: {code}\n{run.stderr()}"
        found = digests(out)
        shutil.rmtree(out)
        return found


class MatrixTest(ClusterTest):

    def test_every_two_settings_together_once(self):
        cluster = Cluster(self.scratch)
        sample = pairwise_sample()
        seen = set().union(*map(pairs_of, sample))
        self.assertEqual(seen, set().union(*map(pairs_of, CASES)))
        for case in sample:
            with self.subTest(case=case):
                self.assertEqual(cluster.run(case), cluster.reference(*case[:2]))
        print(f"{len(sample)} of {len(CASES)} cases")

    def test_what_is_refused_leaves_nothing(self):
        cluster = Cluster(self.scratch)
        for family, preset in sorted(REFUSED):
            with self.subTest(family=family, preset=preset):
                run = self.run_fails(65, *cluster.job(family, preset, self.scratch / "refused"))
                self.assertRegex(run.stderr(), "is not possible|experts stacked in one tensor cannot be")
                self.assertFalse((self.scratch / "refused").exists())


def full():
    print("| family | preset | runs | digest | other bytes |\n|---|---|---|---|---|")
    began, failures = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="octavo-matrix-") as scratch:
        cluster = Cluster(pathlib.Path(scratch))
        for model in MODELS:
            expected = cluster.reference(*model)
            cases = [case for case in CASES if case[:2] == model]
            wrong = [case[2:] for case in cases if cluster.run(case) != expected]
            failures += len(wrong)
            print(f"| {' | '.join(model)} | {len(cases)} | `{digest_of(expected)}` | {wrong or 'none'} |", flush=True)
    print(f"\n{len(CASES)} runs, {failures} with other bytes, {time.monotonic() - began:.0f} s")
    return failures


if __name__ == "__main__":
    if "--full" in sys.argv:
        sys.exit(1 if full() else 0)
    unittest.main()
