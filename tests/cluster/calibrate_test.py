"""Calibrating on real processes: static scales from activations, the same bytes whatever the cluster, whatever dies."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
import unittest

import job_case
from harness import Run, digests

# Small models, so that the many runs take seconds: a mixture, where calibration has most to do.
SYNTH = ["--family", "mixtral", "--layers", 4, "--hidden", 128, "--intermediate", 192, "--heads", 8, "--kv-heads", 2,
         "--experts", 4, "--experts-per-token", 2, "--vocab", 512, "--seed", 7]
CALIBRATION = ["--calibration", "random", "--samples", 40, "--sample-length", 64, "--seed", 3]


def bytes_on_disk(folder):
    """Of all files below, as the file system counts; files may come and go meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                pass
    return total


class CalibrateTest(job_case.JobCase):

    synth = SYNTH

    @classmethod
    def job_args(cls, source=None):
        return ["quantize", source or cls.source, "--recipe", "fp8-static-kv", *CALIBRATION]

    def test_scales_of_every_linear_and_of_the_cache_are_there(self):
        with open(self.reference / "model.safetensors", "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        linears = [name for name in header if re.search(r"(_proj|w[123])\.weight$", name)]
        self.assertEqual(len(linears), 4 * (4 + 3 * 4))
        for name in linears:
            self.assertEqual(header[name]["dtype"], "F8_E4M3")
            for scale in ("weight_scale", "input_scale"):
                self.assertEqual(header[name.replace("weight", scale)]["dtype"], "F32")
        self.assertEqual(sum(name.endswith(("k_scale", "v_scale")) for name in header), 2 * 4)

    def test_a_resumed_job_keeps_its_micro_batches(self):
        run = Run(*self.quantize_args("--workers", 2), env={"OCTAVO_FAULT_POINT": "mid-publish"})
        self.assertNotEqual(run.wait(), 0)
        self.assert_no_orphans(run)
        result = self.resume()
        self.assertEqual(result["units_reused"], result["units_total"])

    def test_a_layer_larger_than_a_worker(self):
        """264 MB in one layer: workers of 256 MiB read its matrices as they need them."""
        wide = self.scratch / "wide"
        self.run_ok("synth", "--family", "mixtral", "--layers", 2, "--hidden", 512, "--intermediate", 1792, "--heads", 8,
                    "--kv-heads", 2, "--experts", 48, "--experts-per-token", 2, "--vocab", 512, "--seed", 7, "--out", wide)
        job = ["quantize", wide, "--recipe", "fp8-static", "--calibration", "random", "--samples", 12, "--sample-length", 48]
        self.run_ok(*job, "--out", self.scratch / "resident", "--workers", 1, "--memory", "1GiB")
        run = Run(*job, "--out", self.scratch / "streamed", "--workers", 2, "--memory", "256MiB")
        peak = 0
        while run.process.poll() is None:
            peak = max(peak, run.peak_kib("octavo-worker"))
            time.sleep(0.02)
        self.assertEqual(run.wait(), 0, run.stderr())
        self.assertGreater(peak, 0)
        self.assertLessEqual(peak, 256 << 10)
        self.assertEqual(digests(self.scratch / "streamed"), digests(self.scratch / "resident"))

    def test_the_disk_holds_no_more_than_planned(self):
        plan = json.loads(self.run_ok("plan", *self.quantize_args()[1:-2], "--json").stdout())
        run = Run(*self.quantize_args("--workers", 2))
        most = 0
        while run.process.poll() is None:
            most = max(most, bytes_on_disk(self.out) + bytes_on_disk(pathlib.Path(f"{self.out}.octavo")))
            time.sleep(0.01)
        self.assertEqual(run.wait(), 0, run.stderr())
        output = bytes_on_disk(self.out)
        print(f"disk: at most {most} bytes, planned {plan['disk_bytes']}, output {output}")
        self.assertGreater(most, output)  # activations were seen
        self.assertLessEqual(most, 1.01 * plan["disk_bytes"])

    def test_plans_of_the_published_shapes_need_headers_only(self):
        script = pathlib.Path(__file__).parents[1] / "bench/header_only.py"
        for shape, layers, tensors in [("mixtral-8x22b", 56, 56 * (4 + 24)), ("dbrx", 40, 40 * 5)]:
            with self.subTest(shape=shape):
                folder = self.scratch / shape
                subprocess.run([sys.executable, script, shape, folder], check=True)
                plan = json.loads(self.run_ok("plan", folder, "--recipe", "fp8-static", "--calibration", "random",
                                              "--samples", 128, "--sample-length", 512, "--json").stdout())
                self.assertEqual(plan["quantized_tensors"], tensors)
                self.assertGreater(plan["source_bytes"], 2.6e11)
                self.assertLess(plan["output_bytes"] / plan["source_bytes"], 0.51)
                self.assertEqual(plan["calibration"]["micro_batches"], 64)
                self.assertLess(plan["memory_bytes_min"], 1 << 30)
                self.assertGreater(plan["calibration"]["memory_bytes_resident"], 5 << 30)
                # 2 operations for each weight that a token meets: 39 and 36 billion of them.
                active = plan["calibration"]["operations"] / (2 * 128 * 512)
                self.assertTrue(35e9 < active < 40e9, active)

    def test_an_expert_that_saw_no_token_is_an_error(self):
        lonely = self.scratch / "lonely"
        self.run_ok("synth", *SYNTH[:12], "--experts", 64, "--experts-per-token", 1, "--vocab", 512, "--seed", 7,
                          "--out", lonely)
        natural = self.scratch / "natural.yaml"
        natural.write_text("""
name: natural
dialect: fp8
rules:
  - weight: {type: fp8, scale: tensor}
    input: {type: fp8, scale: tensor}
calibration: {observer: absmax, samples: 1, sample_length: 4, coverage: natural}
""")
        run = self.run_fails(65, "quantize", lonely, "--recipe", natural, "--calibration", "random", "--samples", 1,
                             "--sample-length", 4, "--out", self.out)
        self.assertRegex(run.stderr(), r"layer [0-3], expert \d\d?, MLP_INPUT")
        self.assertFalse(self.out.exists())

    def test_calibration_input_is_required_and_checked(self):
        self.assertIn("--calibration", self.run_fails(
            64, "quantize", self.source, "--recipe", "fp8-static", "--out", self.out).stderr())
        empty = self.scratch / "empty.txt"
        empty.write_text("")
        run = self.run_fails(65, "quantize", self.source, "--recipe", "fp8-static", "--calibration", empty,
                             "--out", self.out)
        self.assertIn("empty.txt", run.stderr())
        self.assertFalse(pathlib.Path(f"{self.out}.octavo").exists())


if __name__ == "__main__":
    unittest.main()
