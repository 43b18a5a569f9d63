"""`octavo eval compare` on real processes: two models at once, the same figures at any group size and instruction set, and
a divergence that Score alone confirms."""

import json
import math
import random
import signal
import unittest

from harness import ClusterTest, Run, wait_until
from serve_test import Resident

VOCAB = 320
SYNTH = ["--family", "llama", "--layers", 2, "--hidden", 256, "--intermediate", 512, "--heads", 4, "--kv-heads", 2,
         "--head-dim", 64, "--vocab", VOCAB, "--seed", 3]
PAIRS = [(11, 240), (100, 7), (31, 32)]


def without_time(result):
    return {key: value for key, value in result.items() if key != "seconds"}


class EvalTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.bf16, cls.fp8 = cls.scratch / "bf16", cls.scratch / "fp8"
        for args in [["synth", *SYNTH, "--out", cls.bf16],
                     ["quantize", cls.bf16, "--recipe", "fp8-dynamic", "--out", cls.fp8]]:
            run = Run(*args)
            assert run.wait() == 0, run.stderr()
        cls.text = cls.scratch / "text"
        words = random.Random(4)
        cls.text.write_text(" ".join("".join(words.choices("abcdefgh", k=5)) for _ in range(400)))
        cls.windows = ["--text", cls.text, "--window", 200, "--windows", 3, "--json"]

    def test_figures_do_not_depend_on_ranks_or_instruction_sets(self):
        first = self.run_ok("eval", "compare", self.bf16, self.fp8, *self.windows).result()
        for extra in [["--tp", 2], ["--isa", "avx2"], ["--isa", "reference"], ["--workers", 3]]:
            with self.subTest(extra=extra):
                run = self.run_ok("eval", "compare", self.bf16, self.fp8, *self.windows, *extra)
                self.assertEqual(without_time(run.result()), without_time(first))
        self.assertEqual(first["windows"], 3)
        self.assertEqual(first["tokens"], 3 * 199)
        self.assertGreater(first["kl_divergence"]["mean"], 1e-6)
        self.assertGreater(first["kl_divergence"]["standard_error"], 0)
        self.assertLess(first["top1_agreement"]["mean"], 1)
        self.assertGreater(first["top1_agreement"]["mean"], 0.5)
        # Each side is what perplexity says of it.
        for key, folder in [("reference", self.bf16), ("model", self.fp8)]:
            alone = self.run_ok("eval", "ppl", folder, *self.windows).result()
            for mine, theirs in zip(first[key]["window_nll"], alone["window_nll"], strict=True):
                self.assertAlmostEqual(mine, theirs, delta=1e-12)
            self.assertAlmostEqual(first[key]["perplexity"], alone["perplexity"], delta=1e-9)
        difference = first["model"]["nll"] - first["reference"]["nll"]
        self.assertAlmostEqual(first["nll_difference"]["mean"], difference, delta=1e-12)

    def test_a_model_is_not_apart_from_itself(self):
        result = self.run_ok("eval", "compare", self.bf16, self.bf16, *self.windows).result()
        self.assertEqual(result["kl_divergence"]["windows"], [0, 0, 0])
        self.assertEqual(result["kl_divergence"]["max"], 0)
        self.assertEqual(result["top1_agreement"]["mean"], 1)
        self.assertEqual(result["nll_difference"], {"mean": 0, "standard_error": 0})

    def test_layers_do_not_depend_on_ranks_or_instruction_sets(self):
        first = self.run_ok("eval", "compare", self.bf16, self.fp8, *self.windows, "--layers").result()
        self.assertEqual(len(first["layers"]), 2)
        # FP8 rounds weights and inputs by some 2 to 3 %: neither nothing nor most of a layer's output.
        for distance in first["layers"]:
            self.assertGreater(distance, 0.005)
            self.assertLess(distance, 0.2)
        for extra in [["--tp", 2], ["--isa", "reference"]]:
            with self.subTest(extra=extra):
                run = self.run_ok("eval", "compare", self.bf16, self.fp8, *self.windows, "--layers", *extra)
                self.assertEqual(without_time(run.result()), without_time(first))
        without = self.run_ok("eval", "compare", self.bf16, self.fp8, *self.windows).result()
        first.pop("layers")
        self.assertEqual(without_time(without), without_time(first))
        same = self.run_ok("eval", "compare", self.bf16, self.bf16, *self.windows, "--layers").result()
        self.assertEqual(same["layers"], [0, 0])

    def test_layers_of_models_that_differ_in_them_are_refused(self):
        deeper = self.scratch / "deeper"
        self.run_ok("synth", *[3 if arg == 2 and SYNTH[i - 1] == "--layers" else arg for i, arg in enumerate(SYNTH)],
                    "--out", deeper)
        run = self.run_fails(64, "eval", "compare", self.bf16, deeper, "--ids", self.two_ids(), "--layers")
        self.assertIn("2 layers", run.stderr().splitlines()[-1])
        self.run_ok("eval", "compare", self.bf16, deeper, "--ids", self.two_ids())

    def test_pseudo_quantized_is_what_quantizing_gives(self):
        static = self.scratch / "static"
        calibration = ["--calibration", "random", "--samples", 8, "--sample-length", 64, "--seed", 2]
        self.run_ok("quantize", self.bf16, "--recipe", "fp8-static", *calibration, "--out", static)
        scratch = self.scratch / "scratch"
        scratch.mkdir()
        for recipe, folder, more in [("fp8-dynamic", self.fp8, []), ("fp8-static", static, calibration)]:
            with self.subTest(recipe=recipe):
                kept = self.run_ok("eval", "ppl", folder, *self.windows).result()
                run = self.run_ok("eval", "ppl", self.bf16, "--pseudo-quant", recipe, "--scratch", scratch, *more,
                                  *self.windows, "--workers", 2)
                self.assertEqual(run.result()["window_nll"], kept["window_nll"])
                self.assertEqual(run.result()["recipe"], recipe)
                self.assertIn(str(scratch), run.stderr())
                self.assertEqual(list(scratch.iterdir()), [], "the copy went")

    def test_pseudo_quantizing_leaves_nothing_when_interrupted_or_refused(self):
        scratch = self.scratch / "gone"
        scratch.mkdir()
        long = self.scratch / "longer"
        long.write_text("abcdefgh " * 40_000)
        run = Run("eval", "ppl", self.bf16, "--pseudo-quant", "int8-dynamic", "--scratch", scratch, "--text", long)
        wait_until(lambda: "window 1 of" in run.stderr() or run.process.poll() is not None, 60, "windows are scored")
        self.assertNotEqual(list(scratch.iterdir()), [])
        run.process.send_signal(signal.SIGINT)
        self.assertEqual(run.wait(20), 75, run.stderr())
        self.assert_no_orphans(run)
        self.assertEqual(list(scratch.iterdir()), [])
        source = ["eval", "ppl", self.bf16, *self.windows]
        self.run_fails(64, *source, "--pseudo-quant", "fp8-static", "--scratch", scratch)
        self.run_fails(64, *source, "--calibration", "random")
        self.run_fails(64, *source, "--pseudo-quant", "fp8-dynamic", "--coordinator", "127.0.0.1:1")
        self.run_fails(65, "eval", "ppl", self.fp8, *self.windows, "--pseudo-quant", "fp8-dynamic", "--scratch", scratch)
        self.run_fails(66, "eval", "ppl", self.scratch / "nobody", *self.windows, "--pseudo-quant", "fp8-dynamic",
                       "--scratch", scratch)
        self.assertEqual(list(scratch.iterdir()), [])

    def test_the_divergence_is_that_of_scored_distributions(self):
        ids = self.scratch / "pairs"
        ids.write_text("".join(json.dumps({"ids": pair}) + "\n" for pair in PAIRS))
        cluster = Resident(self.scratch, workers=2)
        self.addCleanup(cluster.stop)
        out = cluster.cli("eval", "compare", self.bf16, self.fp8, "--ids", ids, "--json")
        result = json.loads(out.strip().splitlines()[-1])
        self.assertEqual(list(cluster.client.models()), [], "a resident cluster is left as it was")
        self.assertIsNotNone(result["kl_divergence"]["standard_error"])
        distributions = {}
        for name, folder in [("reference", self.bf16), ("model", self.fp8)]:
            info = cluster.client.load(folder)
            distributions[name] = [[cluster.client.score([first, other]).logprobs[0] for other in range(VOCAB)]
                                   for first, _ in PAIRS]
            cluster.client.unload(info.model_id)
        for i, (p, q) in enumerate(zip(distributions["reference"], distributions["model"], strict=True)):
            self.assertAlmostEqual(sum(math.exp(a) for a in p), 1, delta=1e-4)
            expected = sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
            self.assertAlmostEqual(result["kl_divergence"]["windows"][i], expected, delta=2e-6)
            same = max(range(VOCAB), key=p.__getitem__) == max(range(VOCAB), key=q.__getitem__)
            self.assertEqual(result["top1_agreement"]["windows"][i], 1 if same else 0)
            self.assertAlmostEqual(result["model"]["window_nll"][i], -q[PAIRS[i][1]], delta=1e-9)

    def test_what_is_refused(self):
        other = self.scratch / "other"
        self.run_ok("synth", *[1000 if arg == VOCAB else arg for arg in SYNTH], "--out", other)
        run = self.run_fails(64, "eval", "compare", self.bf16, other, "--ids", self.two_ids())
        self.assertIn("vocabulary", run.stderr().splitlines()[-1])
        self.run_fails(66, "eval", "compare", self.bf16, self.scratch / "nobody", *self.windows)
        self.run_fails(64, "eval", "compare", self.bf16, self.fp8)

    def two_ids(self):
        path = self.scratch / "two"
        path.write_text('{"ids": [1, 2]}\n')
        return path

    def test_an_interrupt_ends_everything(self):
        long = self.scratch / "long"
        long.write_text("abcdefgh " * 40_000)
        run = Run("eval", "compare", self.bf16, self.fp8, "--text", long)
        wait_until(lambda: "window 2 of" in run.stderr() or run.process.poll() is not None, 60, "windows are compared")
        run.process.send_signal(signal.SIGINT)
        self.assertEqual(run.wait(20), 75, run.stderr())
        self.assert_no_orphans(run)


if __name__ == "__main__":
    unittest.main()
