"""Quantizing on real processes: the same bytes whatever the cluster, whatever dies."""

import json
import os
import pathlib
import resource
import shutil
import signal
import time
import unittest

import job_case
from harness import BIN, Run, digests, wait_until

# About 220 MB of BF16 in several shards, some 15 units, so that a job takes long enough to be hit.
# OCTAVO_CLUSTER_LARGE=1 takes 2.3 GB instead.
LARGE = os.environ.get("OCTAVO_CLUSTER_LARGE") == "1"
SYNTH = ["--family", "llama", "--layers", 9, "--hidden", 1024, "--intermediate", 2816, "--heads", 16, "--kv-heads", 4,
         "--vocab", 4096, "--shard-size", "40MB", "--seed", 7]
SYNTH_LARGE = ["--family", "llama", "--layers", 23, "--hidden", 2048, "--intermediate", 5632, "--heads", 32,
               "--kv-heads", 4, "--vocab", 32000, "--shard-size", "1GB", "--seed", 1]
HEAD_YAML = """name: head
rules:
  - {roles: [lm_head], weight: {type: fp8, scale: tensor}}
  - {weight: {type: fp8, scale: channel}, input: {type: fp8, scale: token}}
"""


class QuantizeTest(job_case.JobCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source = cls.scratch / "source"
        run = Run("synth", *(SYNTH_LARGE if LARGE else SYNTH), "--out", cls.source)
        assert run.wait() == 0, run.stderr()
        cls.make_reference()

    @classmethod
    def job_args(cls, source=None):
        return ["quantize", source or cls.source, "--recipe", "fp8-dynamic"]

    # ---- outcomes of a second command ---------------------------------------------------------------

    def test_identical_second_command_is_already_done(self):
        self.run_ok(*self.quantize_args())
        stamp = os.stat(self.out).st_mtime_ns
        again = self.run_ok(*self.quantize_args())
        self.assertIn("already done", again.stdout() + again.stderr())
        self.assertEqual(os.stat(self.out).st_mtime_ns, stamp)

    def test_other_recipe_on_the_same_output_is_refused_then_overwritten(self):
        self.run_ok(*self.quantize_args())
        other = ["quantize", self.source, "--recipe", "int8-dynamic", "--out", self.out]
        run = self.run_fails(65, *other)
        self.assertIn("fp8-dynamic", run.stderr())
        self.assertIn("int8-dynamic", run.stderr())
        self.assert_published()
        self.run_ok(*other, "--overwrite")
        self.assertNotEqual(digests(self.out), self.expected)

    def test_concurrent_second_command_is_told_to_wait(self):
        first = Run(*self.quantize_args())
        wait_until(lambda: first.family("octavo-worker"), 10, "workers started")
        second = Run(*self.quantize_args())
        code = second.wait()
        first_code = first.wait()
        self.assertEqual(first_code, 0, first.stderr())
        self.assertEqual(code, 75, second.stderr())
        self.assert_published()

    # ---- a head made from the embedding -----------------------------------------------------------

    def test_a_tied_head_is_written_the_same_by_any_workers(self):
        source, recipe = self.scratch / "tied", self.scratch / "head.yaml"
        recipe.write_text(HEAD_YAML)
        self.run_ok("synth", *SYNTH, "--tied", "--out", source)
        found = []
        for workers in [1, 2, 3]:
            out = self.scratch / f"head-{workers}"
            run = self.run_ok("quantize", source, "--recipe", recipe, "--out", out, "--workers", workers)
            self.assertIn("warning: the source's head is its embedding", run.stderr())
            found.append(digests(out))
        self.assertEqual(found[1:], found[:1] * 2)
        config = json.loads((out / "config.json").read_text())
        self.assertIs(config["tie_word_embeddings"], False)
        self.assertEqual(config["quantization_config"]["ignore"], [])

    def test_experts_without_their_own_weight_only_kernel_get_inputs_and_a_warning(self):
        source, out = self.scratch / "mixture", self.scratch / "mixture-fp8"
        self.run_ok("synth", "--family", "mixtral", "--layers", 2, "--hidden", 64, "--intermediate", 96, "--heads", 4,
                    "--kv-heads", 2, "--vocab", 256, "--experts", 3, "--experts-per-token", 2, "--out", source)
        run = self.run_ok("quantize", source, "--recipe", "fp8-weight-only", "--out", out, "--workers", 2)
        self.assertEqual(run.stderr().count("warning: "), 1)
        self.assertIn("experts are written with FP8 inputs per token", run.stderr())
        groups = json.loads((out / "config.json").read_text())["quantization_config"]["config_groups"].values()
        inputs = {"attn" in group["targets"][0]: group["input_activations"] for group in groups}
        self.assertIsNone(inputs[True])
        self.assertEqual(inputs[False]["strategy"], "token")

    # ---- a person interrupts ------------------------------------------------------------------------

    def test_interrupt_cancels_cleanly_and_says_how_to_resume(self):
        for signum in [signal.SIGINT, signal.SIGTERM]:
            with self.subTest(signal=signum):
                run = Run(*self.quantize_args("--workers", 2))
                wait_until(lambda: run.family("octavo-worker"), 10, "workers started")
                time.sleep(0.2)
                run.process.send_signal(signum)
                code = run.wait(20)
                if code == 0:  # it had just finished
                    self.assert_published()
                else:
                    self.assertEqual(code, 75, run.stderr())
                    self.assertIn("resume", run.stderr())
                    self.assertFalse(self.out.exists())
                    self.resume()
                self.assert_no_orphans(run)
                shutil.rmtree(self.out)

    # ---- bad places ---------------------------------------------------------------------------------

    def test_file_size_limit_is_a_typed_error_and_nothing_is_published(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        run = self.run_fails(75, *self.quantize_args(), preexec=limit)
        self.assertIn("error:", run.stderr())
        self.assertFalse(self.out.exists())
        self.resume()

    def test_output_inside_source_is_refused(self):
        before = digests(self.source)
        run = self.run_fails(77, *self.quantize_args(out=self.source / "quantized"))
        self.assertIn("inside", run.stderr())
        self.assertEqual(digests(self.source), before)

    def test_unwritable_output_is_refused(self):
        parent = self.scratch / "locked"
        parent.mkdir(mode=0o555)
        os.chmod(self.scratch, 0o755)
        # Where nobody may start them, wherever the repository is.
        programs = shutil.copytree(BIN, self.scratch / "programs")

        def become_nobody():
            if os.geteuid() == 0:  # root may write anywhere
                os.setgid(65534)
                os.setuid(65534)
        run = self.run_fails(77, *self.quantize_args(out=parent / "out"), preexec=become_nobody, programs=programs)
        self.assertIn(str(parent), run.stderr())
        self.assertEqual(list(parent.iterdir()), [])

    def test_missing_source(self):
        run = self.run_fails(66, *self.quantize_args(source=self.scratch / "nowhere"))
        self.assertIn("nowhere", run.stderr())

    def test_source_that_changed_between_runs_is_noticed(self):
        copy = self.scratch / "changing"
        shutil.copytree(self.source, copy)
        # Every coordinator dies just before publishing, until all are killed with every unit done.
        run = Run(*self.quantize_args("--workers", 1, source=copy), env={"OCTAVO_FAULT_POINT": "mid-publish"})
        staging = pathlib.Path(f"{self.out}.octavo")
        wait_until(lambda: list(staging.glob("*/octavo_manifest.json")), 30, "the staging folder was complete")
        run.kill()
        run.wait()
        shard = sorted(copy.glob("*.safetensors"))[-1]
        with open(shard, "r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"\x00\x01")
        run = self.run_fails(65, *self.quantize_args("--workers", 1, source=copy))
        self.assertIn(shard.name, run.stderr())
        self.assertFalse(self.out.exists())
        shutil.rmtree(copy)


if __name__ == "__main__":
    unittest.main()
