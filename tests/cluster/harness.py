"""Real processes for the cluster tests: run `octavo`, find every process it started, kill any of them, compare folders.

Every command gets a random mark in its environment. Children inherit it, so that the whole family of a run can be found in
/proc whatever became of their parents: that is how orphans are seen and how "all processes" are killed.
"""

import atexit
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import uuid

import scratch

BIN = pathlib.Path(os.environ["OCTAVO_BIN_DIR"])
MARK = "OCTAVO_TEST_MARK"

scratch.choose()

# A state of the tests' own: rates that somebody measured here, or clusters that run here, must not show in them.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="octavo-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


def octavo_args(*args, programs=BIN):
    return [str(programs / "octavo"), *[str(arg) for arg in args]]


class Run:
    """One command with its whole family of processes."""

    def __init__(self, *args, env=None, preexec=None, programs=BIN):
        self.mark = uuid.uuid4().hex
        self.args = octavo_args(*args, programs=programs)
        environment = dict(os.environ, **(env or {}))
        environment[MARK] = self.mark
        # Files, not pipes: a child that outlives the command would hold a pipe open.
        self.out = tempfile.TemporaryFile(mode="w+")
        self.err = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            self.args, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err, env=environment,
            preexec_fn=preexec, start_new_session=True)

    def __del__(self):
        self.out.close()
        self.err.close()

    def family(self, program=None):
        """Living processes of this run as {pid: program name}, the command itself included."""
        found = {}
        needle = f"{MARK}={self.mark}".encode()
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                with open(f"/proc/{entry.name}/environ", "rb") as file:
                    if needle not in file.read().split(b"\0"):
                        continue
                with open(f"/proc/{entry.name}/stat") as file:
                    stat = file.read()
                if stat.rsplit(")", 1)[1].split()[0] == "Z":
                    continue
                name = os.path.basename(os.readlink(f"/proc/{entry.name}/exe"))
            except OSError:
                continue
            if program is None or name == program:
                found[int(entry.name)] = name
        return found

    def peak_kib(self, program):
        """Largest VmHWM among the living processes of `program`, in KiB; 0 when there is none."""
        peak = 0
        for pid in self.family(program):
            try:
                with open(f"/proc/{pid}/status") as file:
                    for line in file:
                        if line.startswith("VmHWM:"):
                            peak = max(peak, int(line.split()[1]))
            except OSError:
                pass
        return peak

    def kill(self, program=None, signum=signal.SIGKILL):
        """Signals every process of the family (or of one program). Returns how many."""
        victims = self.family(program)
        for pid in victims:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                pass
        return len(victims)

    def wait(self, timeout_s=120):
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{' '.join(self.args)} still ran after {timeout_s} s\n{self.stderr()}")
        return self.process.returncode

    def stdout(self):
        self.out.seek(0)
        return self.out.read()

    def stderr(self):
        self.err.seek(0)
        return self.err.read()

    def result(self):
        """The object on the last line of standard output (`--json`)."""
        return json.loads(self.stdout().strip().splitlines()[-1])


def wait_until(condition, timeout_s, what):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {timeout_s} s")


def digests(folder):
    """{relative file name: SHA-256} of every file below `folder`."""
    result = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                result[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return result


def digest_of(values):
    """One short digest of anything printable, for the tables of docs/benchmarks."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


class ClusterTest(unittest.TestCase):
    """A scratch folder per test class, and the promise that nothing outlives a run."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="octavo-cluster-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)

    @classmethod
    def synth(cls, name, *args):
        """A random checkpoint in the scratch folder."""
        made = Run("synth", *args, "--out", cls.scratch / name)
        assert made.wait() == 0, made.stderr()
        return cls.scratch / name

    def run_ok(self, *args, timeout_s=120, **options):
        run = Run(*args, **options)
        code = run.wait(timeout_s)
        self.assertEqual(code, 0, f"{' '.join(run.args)}\n{run.stdout()}\n{run.stderr()}")
        self.assert_no_orphans(run)
        return run

    def run_fails(self, exit_code, *args, timeout_s=120, **options):
        run = Run(*args, **options)
        code = run.wait(timeout_s)
        self.assertEqual(code, exit_code, f"{' '.join(run.args)}\n{run.stdout()}\n{run.stderr()}")
        self.assert_no_orphans(run)
        return run

    def assert_no_orphans(self, run, timeout_s=5):
        wait_until(lambda: not run.family(), timeout_s,
                   f"processes outlived their command: {run.family()}")
