"""More requests come than the cluster can answer: what is let in is answered whole, the rest is refused by name, nothing grows.

Capacity is measured first, by a closed loop; then an open loop asks for 1.5 times as much. As a test this takes some seconds and
says nothing about speed. As a script, OCTAVO_OVERLOAD_SECONDS=600 makes it ten minutes of a larger model, with one row of the
table of docs/benchmarks for every thirtieth of them, and then goodput must be within 10 % of capacity and no process may have
grown by 2 % after a tenth of the time.

usage: OCTAVO_BIN_DIR=build/release/bin OCTAVO_OVERLOAD_SECONDS=600 overload_test.py
"""

import collections
import os
import random
import statistics
import threading
import time
import unittest

import grpc

from client import reason_of, scrape, total
from harness import ClusterTest, Run
from serve_test import Resident

SECONDS = float(os.environ.get("OCTAVO_OVERLOAD_SECONDS", "8"))
LONG = "OCTAVO_OVERLOAD_SECONDS" in os.environ
# In the long form a request is some work, beside which it is little to ask and to refuse, on the same processors.
LAYERS, HIDDEN, INTERMEDIATE, HEADS, OUTPUT = (4, 512, 1536, 8, 48) if LONG else (2, 256, 512, 4, 24)
SYNTH = ["--family", "llama", "--layers", LAYERS, "--hidden", HIDDEN, "--intermediate", INTERMEDIATE, "--heads", HEADS,
         "--kv-heads", 2, "--head-dim", 64, "--vocab", 320, "--max-position", 512, "--seed", 3]
FACTOR = 1.5
INPUT = 24
QUEUE_MAX, RUNNING_MAX = 256, 64  # of the engine
CLIENTS = 512  # of the load: more than the engine lets in, so that a refused one is free at once

Sample = collections.namedtuple("Sample", "time answered refused waiting in_flight resident")


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


class Listener(threading.Thread):
    """One client beside the load that knows what its streams must say."""

    def __init__(self, client, index, expected):
        super().__init__()
        self.client, self.index, self.expected = client, index, expected
        self.stop, self.whole, self.refused, self.wrong = threading.Event(), 0, 0, []

    def run(self):
        while not self.stop.wait(0.02):
            try:
                said = self.client.complete(**request(self.index))[1]
                self.whole += said == self.expected
                if said != self.expected:
                    self.wrong.append(said)
            except grpc.RpcError as error:
                self.refused += reason_of(error) == "QUEUE_FULL"
                if reason_of(error) != "QUEUE_FULL":
                    self.wrong.append((error.code(), error.details()))


def request(index):
    return {"token_ids": {"ids": random.Random(index).choices(range(3, 250), k=INPUT)}, "ignore_eos": True,
            "max_tokens": OUTPUT, "seed": index, "temperature": (0, 0.9)[index % 2]}


class OverloadTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = cls.synth("model", *SYNTH)
        cls.cluster = Resident(cls.scratch, workers=2)
        cls.addClassCleanup(cls.cluster.stop)
        (cls.scratch / "token").write_text(cls.cluster.record["token"])
        cls.leader = cls.cluster.client.load(cls.folder, 2).worker_ids[0]
        cls.leader_metrics = next(w.hello.metrics_address for w in cls.cluster.client.workers()
                                  if w.hello.worker_id == cls.leader)

    def load(self, *flags):
        """A load of requests of one shape, as a running command."""
        return Run("bench", "serve", "--input-tokens", INPUT, "--output-tokens", OUTPUT, "--timeout", 120, *flags,
                   "--coordinator", self.cluster.record["address"], "--token-file", self.scratch / "token", "--json")

    def result(self, run, requests, timeout_s=120):
        """What it came to: every request was answered whole, or refused by name."""
        self.assertEqual(run.wait(timeout_s), 0, run.stderr())
        result = run.result()
        self.assertLessEqual(set(result["failed"]), {"QUEUE_FULL"})
        self.assertEqual(result["answered"] + result["failed"].get("QUEUE_FULL", 0), requests)
        self.assertEqual(result["output_tokens"], OUTPUT * result["answered"])
        return result

    def capacity(self):
        """Requests a second of as many clients as the engine computes at once and half as many waiting; the second of two loads."""
        rate, clients = 100.0, RUNNING_MAX * 3 // 2
        for seconds in (1, 20 if LONG else 2):
            requests = max(2 * clients, int(rate * seconds))
            rate = self.result(self.load("--requests", requests, "--clients", clients), requests)["requests_per_second"]
        return rate

    def sample(self, begun):
        coordinator, leader = scrape(self.cluster.record["metrics"]), scrape(self.leader_metrics)
        ended = {outcome: total(coordinator, "octavo_requests_total", 'method="generate"', f'outcome="{outcome}"')
                 for outcome in ("length", "QUEUE_FULL")}
        return Sample(time.monotonic() - begun, ended["length"], ended["QUEUE_FULL"],
                      total(leader, "octavo_engine_requests_waiting"), total(coordinator, "octavo_requests_in_flight"),
                      {f"{name} {pid}": resident_kib(pid) for pid, name in sorted(self.cluster.run.family().items())})

    def watch(self, run, begun):
        """Samples for as long as the load runs; a long one prints a row of each thirtieth."""
        samples = [self.sample(begun)]
        last = samples[0]
        while run.process.poll() is None:
            time.sleep(0.2)
            samples.append(self.sample(begun))
            if LONG and samples[-1].time - last.time >= SECONDS / 30:
                self.print_row(last, samples[-1])
                last = samples[-1]
        return samples

    @staticmethod
    def print_row(before, now):
        seconds = now.time - before.time
        answered, refused = now.answered - before.answered, now.refused - before.refused
        offered = answered + refused + now.in_flight - before.in_flight
        memory = ", ".join(f"{name.split()[0].removeprefix('octavo-')} {kib / 1024:.1f}" for name, kib in now.resident.items())
        print(f"| {now.time:.0f} s | {offered / seconds:.1f} | {answered / seconds:.1f} | {refused / seconds:.1f} | "
              f"{now.waiting:.0f} | {memory} |", flush=True)

    def assert_flat(self, samples):
        """Resident memory of every process does not grow: in the second half, or after a tenth of a long run."""
        end = samples[-1].time
        parts = ((0.1, 0.2), (0.9, 1.0)) if LONG else ((0.5, 0.75), (0.75, 1.0))
        for name in samples[0].resident:
            before, after = (statistics.median(s.resident[name] for s in samples if low * end <= s.time <= high * end)
                             for low, high in parts)
            print(f"{name}: {before / 1024:.1f} MiB, later {after / 1024:.1f} MiB")
            # In some seconds the allocator's own steps show.
            self.assertLessEqual(after, before * 1.02 if LONG else before * 1.02 + (4 << 10), name)

    def test_what_is_let_in_is_answered_and_nothing_grows(self):
        expected = [self.cluster.client.complete(**request(i))[1] for i in range(2)]
        family = self.cluster.run.family()
        capacity = self.capacity()
        rate = FACTOR * capacity
        requests = int(rate * SECONDS)
        if LONG:
            print(f"capacity {capacity:.1f} requests/s; {rate:.1f} are sent\n\n"
                  "| time | offered/s | answered/s | refused/s | waiting | resident MiB |\n|---|---|---|---|---|---|")
        listeners = [Listener(self.cluster.client, i, expected[i]) for i in range(2)]
        begun = time.monotonic()
        run = self.load("--requests", requests, "--rate", rate, "--clients", CLIENTS)
        for listener in listeners:
            listener.start()
        try:
            samples = self.watch(run, begun)
        finally:
            for listener in listeners:
                listener.stop.set()
                listener.join()
        result = self.result(run, requests)
        self.assertEqual([listener.wrong for listener in listeners], [[], []])
        self.assertEqual(self.cluster.run.family(), family, "a process died")
        self.assertLessEqual(max(s.waiting for s in samples), QUEUE_MAX)
        self.assertLessEqual(max(s.in_flight for s in samples), QUEUE_MAX + CLIENTS)
        self.assert_flat(samples)
        print(f"{requests} requests at {rate:.1f}/s: {result['answered']} answered ({result['requests_per_second']:.1f}/s of "
              f"{capacity:.1f}), {result['failed']}; beside them {sum(ear.whole for ear in listeners)} whole streams, "
              f"{sum(ear.refused for ear in listeners)} refused")
        if LONG:
            self.assertGreaterEqual(result["requests_per_second"], 0.9 * capacity)
            self.assertGreater(result["failed"].get("QUEUE_FULL", 0), 0)

    def test_a_burst_is_refused_by_name_and_the_queue_is_empty_afterwards(self):
        requests = 2 * CLIENTS
        result = self.result(self.load("--requests", requests, "--clients", CLIENTS), requests)
        # So many at once do not fit, whatever the machine.
        self.assertGreaterEqual(result["answered"], QUEUE_MAX)
        self.assertGreater(result["failed"].get("QUEUE_FULL", 0), 0)
        after = self.sample(0)
        self.assertEqual((after.waiting, after.in_flight), (0, 0))
        self.assertEqual(len(self.cluster.client.complete(**request(0))[1]), OUTPUT)


if __name__ == "__main__":
    unittest.main()
