"""Quantizing on real processes: the same bytes whatever the cluster, whatever dies."""

import os
import pathlib
import random
import resource
import shutil
import signal
import time
import unittest

from harness import ClusterTest, Run, digest_of, digests, wait_until

# About 220 MB of BF16 in several shards, some 15 units, so that a job takes long enough to be hit.
# OCTAVO_CLUSTER_LARGE=1 takes 2.3 GB instead.
LARGE = os.environ.get("OCTAVO_CLUSTER_LARGE") == "1"
SYNTH = ["--family", "llama", "--layers", 9, "--hidden", 1024, "--intermediate", 2816, "--heads", 16, "--kv-heads", 4,
         "--vocab", 4096, "--shard-size", "40MB", "--seed", 7]
SYNTH_LARGE = ["--family", "llama", "--layers", 23, "--hidden", 2048, "--intermediate", 5632, "--heads", 32,
               "--kv-heads", 4, "--vocab", 32000, "--shard-size", "1GB", "--seed", 1]


class QuantizeTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source = cls.scratch / "source"
        run = Run("synth", *(SYNTH_LARGE if LARGE else SYNTH), "--out", cls.source)
        assert run.wait() == 0, run.stderr()
        cls.reference = cls.scratch / "reference"
        run = Run("quantize", cls.source, "--recipe", "fp8-dynamic", "--out", cls.reference, "--workers", 1)
        assert run.wait() == 0, run.stderr()
        cls.expected = digests(cls.reference)
        assert any(name.endswith(".safetensors") for name in cls.expected)

    def setUp(self):
        self.out = self.scratch / f"out-{self.id().rsplit('.', 1)[1]}"

    def tearDown(self):
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.rmtree(f"{self.out}.octavo", ignore_errors=True)

    def quantize_args(self, *more, source=None, out=None):
        return ["quantize", source or self.source, "--recipe", "fp8-dynamic", "--out", out or self.out, *more]

    def assert_published(self, how=""):
        found = digests(self.out)
        print(f"output {digest_of(found)} {how}")
        self.assertEqual(found, self.expected)
        self.assertFalse(pathlib.Path(f"{self.out}.octavo").exists(), "staging was left behind")

    def resume(self):
        """The same command again: it must resume and give the same bytes."""
        run = self.run_ok(*self.quantize_args("--workers", 2, "--json"))
        self.assert_published()
        return run.result()

    # ---- the same bytes -----------------------------------------------------------------------------

    def test_bytes_do_not_depend_on_workers_or_memory(self):
        for workers, memory in [(2, "1GiB"), (3, "256MiB"), (8, "512MiB")]:
            with self.subTest(workers=workers, memory=memory):
                run = Run(*self.quantize_args("--workers", workers, "--memory", memory))
                begun = time.monotonic()
                peak = {"octavo-worker": 0, "octavo-coordinator": 0}
                while run.process.poll() is None:
                    for program in peak:
                        peak[program] = max(peak[program], run.peak_kib(program))
                    time.sleep(0.02)
                self.assertEqual(run.wait(), 0, run.stderr())
                seconds = time.monotonic() - begun
                self.assert_published(
                    f"by {workers} workers of {memory}: {seconds:.1f} s, peak of a worker "
                    f"{peak['octavo-worker'] >> 10} MiB, of the coordinator {peak['octavo-coordinator'] >> 10} MiB")
                budget_kib = {"1GiB": 1 << 20, "512MiB": 512 << 10, "256MiB": 256 << 10}[memory]
                self.assertGreater(peak["octavo-worker"], 0)
                self.assertLessEqual(peak["octavo-worker"], budget_kib)
                self.assertLessEqual(peak["octavo-coordinator"], 256 << 10)
                shutil.rmtree(self.out)

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

    # ---- crashes ------------------------------------------------------------------------------------

    def crash_at(self, point):
        """Runs with a fault point that kills one process once. Returns the command's exit code."""
        flag = self.scratch / f"flag-{point.replace(':', '-')}-{random.randrange(1 << 30)}"
        run = Run(*self.quantize_args("--workers", 2), env={"OCTAVO_FAULT_POINT": f"{point}@{flag}"})
        code = run.wait()
        self.assertTrue(flag.exists(), f"fault point {point} was never passed\n{run.stderr()}")
        self.assert_no_orphans(run)
        return code

    def test_worker_dies_at_named_points(self):
        for point in ["leased:2", "mid-write:3", "before-receipt:2"]:
            with self.subTest(point=point):
                self.assertEqual(self.crash_at(point), 0, "the local cluster survives a dead worker")
                self.assert_published(f"after a worker died at {point}")
                shutil.rmtree(self.out)

    def test_coordinator_dies_at_named_points(self):
        for point in ["leased-out", "mid-publish", "after-publish"]:
            with self.subTest(point=point):
                code = self.crash_at(point)
                if code != 0:
                    self.resume()
                self.assert_published(f"after the coordinator died at {point}")
                shutil.rmtree(self.out)

    def test_killed_cli_leaves_no_process_and_resumes(self):
        run = Run(*self.quantize_args("--workers", 2))
        wait_until(lambda: run.family("octavo-worker"), 10, "workers started")
        time.sleep(0.3)
        run.kill("octavo")
        self.assert_no_orphans(run)
        self.resume()

    def test_twenty_random_kills(self):
        seed = random.randrange(1 << 30)
        choose = random.Random(seed)
        hits = 0
        for round_index in range(20):
            run = Run(*self.quantize_args("--workers", 2))
            victim = choose.choice(["octavo-worker", "octavo-coordinator", "octavo", None])
            wait_until(lambda: run.family("octavo-worker") or run.process.poll() is not None, 10, "started")
            time.sleep(choose.uniform(0.05, 4.0 if LARGE else 0.6))
            running = run.process.poll() is None
            if victim == "octavo-worker" and running:
                workers = list(run.family(victim))
                if workers:
                    os.kill(choose.choice(workers), signal.SIGKILL)
            else:
                run.kill(victim)
            hits += running
            code = run.wait(60)
            self.assert_no_orphans(run)
            message = f"seed {seed} round {round_index} victim {victim}: {code}\n{run.stderr()}"
            if code != 0:
                self.resume()
            found = digests(self.out)
            print(f"output {digest_of(found)} after kill -9 of {victim or 'all'}"
                  f"{'' if running else ' (too late: it had ended)'}")
            self.assertEqual(found, self.expected, message)
            shutil.rmtree(self.out)
        self.assertGreater(hits, 5, f"seed {seed}: too few kills hit a running job")

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

        def become_nobody():
            if os.geteuid() == 0:  # root may write anywhere
                os.setgid(65534)
                os.setuid(65534)
        run = self.run_fails(77, *self.quantize_args(out=parent / "out"), preexec=become_nobody)
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
