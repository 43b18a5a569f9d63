"""What every kind of job must do on real processes: the same bytes whatever the cluster, whatever dies.

OCTAVO_KILLS says how many random kills (8); tests/run.sh --full takes 20.
"""

import os
import pathlib
import random
import shutil
import signal
import time

from harness import ClusterTest, Run, digest_of, digests, wait_until


KILLS = int(os.environ.get("OCTAVO_KILLS", "8"))


class JobCase(ClusterTest):
    """A subclass has job_args() and, as class attributes, `source` (or `synth`, flags that make it); `out_flag` names the folder
    that is published, in which a file ends with `published`."""

    synth = None
    out_flag = "--out"
    published = ".safetensors"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.synth is None:
            return
        cls.source = cls.scratch / "source"
        run = Run("synth", *cls.synth, "--out", cls.source)
        assert run.wait() == 0, run.stderr()
        cls.make_reference()

    @classmethod
    def job_args(cls, source=None):
        raise NotImplementedError

    @classmethod
    def make_reference(cls):
        """One worker's output is what all others must equal."""
        cls.reference = cls.scratch / "reference"
        begun = time.monotonic()
        run = Run(*cls.job_args(), cls.out_flag, cls.reference, "--workers", 1)
        assert run.wait() == 0, run.stderr()
        cls.seconds = time.monotonic() - begun  # what a job takes here and now
        cls.expected = digests(cls.reference)
        assert any(name.endswith(cls.published) for name in cls.expected)

    def setUp(self):
        self.out = self.scratch / f"out-{self.id().rsplit('.', 1)[1]}"

    def tearDown(self):
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.rmtree(f"{self.out}.octavo", ignore_errors=True)

    def quantize_args(self, *more, source=None, out=None):
        return [*self.job_args(source), self.out_flag, out or self.out, *more]

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

    def kill_when(self, seen, *args, out):
        """Kills all of a command's processes as soon as seen(); a run that ended before is made again."""
        for _ in range(20):
            run = Run(*args, "--out", out)
            while run.process.poll() is None and not seen():
                time.sleep(0.001)
            run.kill(None)
            run.wait()
            self.assert_no_orphans(run)
            if not out.exists():
                return
            shutil.rmtree(out)
        self.fail("every run had ended before it could be killed")

    def test_killed_cli_leaves_no_process_and_resumes(self):
        run = Run(*self.quantize_args("--workers", 2))
        wait_until(lambda: run.family("octavo-worker"), 10, "workers started")
        time.sleep(0.3)
        run.kill("octavo")
        self.assert_no_orphans(run)
        self.resume()

    def test_random_kills(self):
        seed = random.randrange(1 << 30)
        choose = random.Random(seed)
        hits = 0
        for round_index in range(KILLS):
            run = Run(*self.quantize_args("--workers", 2))
            victim = choose.choice(["octavo-worker", "octavo-coordinator", "octavo", None])
            wait_until(lambda: run.family("octavo-worker") or run.process.poll() is not None, 10, "started")
            time.sleep(choose.uniform(0.05, self.seconds))
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
        self.assertGreater(hits, KILLS // 4, f"seed {seed}: too few kills hit a running job")
