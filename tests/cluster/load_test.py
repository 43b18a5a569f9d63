"""`octavo bench serve` on real processes: what it counts is what the coordinator counted."""

import re
import unittest

from client import scrape
from harness import ClusterTest, Run
from serve_test import Resident

SYNTH = ["--family", "llama", "--layers", 2, "--hidden", 256, "--intermediate", 512, "--heads", 4, "--kv-heads", 2,
         "--head-dim", 64, "--vocab", 320, "--max-position", 512, "--seed", 3]
LATENCIES = ["time_to_first_token", "inter_token", "time_per_token", "whole_request"]


class LoadTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = cls.scratch / "model"
        run = Run("synth", *SYNTH, "--out", cls.folder)
        assert run.wait() == 0, run.stderr()
        cls.cluster = Resident(cls.scratch, workers=1)
        cls.addClassCleanup(cls.cluster.stop)
        cls.there = ["--coordinator", cls.cluster.record["address"], "--token-file", cls.scratch / "token", "--json"]
        (cls.scratch / "token").write_text(cls.cluster.record["token"])
        cls.cluster.client.load(cls.folder)

    def sampled(self):
        """Tokens that the coordinator says were generated."""
        text = scrape(self.cluster.record["metrics"])
        return sum(float(value) for value in re.findall(r"^octavo_generation_tokens_total(?:\{.*\})? (\S+)$", text, re.M))

    def test_a_closed_loop_counts_what_the_coordinator_counted(self):
        before = self.sampled()
        result = self.run_ok("bench", "serve", "--requests", 12, "--input-tokens", 30, "--output-tokens", 20,
                             "--spread", 0.5, "--clients", 3, *self.there).result()
        self.assertEqual((result["answered"], result["failed"], result["clients"]), (12, {}, 3))
        self.assertGreaterEqual(result["input_tokens"], 12 * 15)
        self.assertLessEqual(result["input_tokens"], 12 * 45)
        self.assertEqual(self.sampled() - before, result["output_tokens"])
        self.assertAlmostEqual(result["requests_per_second"], 12 / result["seconds"], delta=1e-6)
        for name in LATENCIES:
            latency = result[f"{name}_seconds"]
            self.assertLess(0, latency["p50"], name)
            self.assertLessEqual(latency["p50"], latency["p99"], name)
            self.assertLessEqual(latency["p99"], latency["max"], name)
        self.assertLess(result["time_to_first_token_seconds"]["max"], result["whole_request_seconds"]["max"])

    def test_an_open_loop_keeps_its_times_and_says_what_failed(self):
        result = self.run_ok("bench", "serve", "--requests", 10, "--input-tokens", 8, "--output-tokens", 4, "--rate", 10,
                             "--goal-first-token-ms", 60_000, *self.there).result()
        self.assertEqual((result["answered"], result["failed"]), (10, {}))
        self.assertAlmostEqual(result["goodput"], result["requests_per_second"], delta=1e-9)
        self.assertGreater(result["seconds"], 0.3)
        # Longer than the model takes: refused by name, and the load goes on.
        result = self.run_ok("bench", "serve", "--requests", 3, "--input-tokens", 600, *self.there).result()
        self.assertEqual((result["answered"], result["failed"]), (0, {"BAD_REQUEST": 3}))


if __name__ == "__main__":
    unittest.main()
