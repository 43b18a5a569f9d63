"""Anything of a serving cluster dies or hangs at random moments; clients of `octavo gateway` must not notice.

Draws among SIGKILL and SIGSTOP of a rank, of the worker that stands by, and of the coordinator (one that hangs goes on after some
seconds: nobody else would wake it), while 32 streams run through a gateway that stands alone. Every stream must say what an
undisturbed run said. Prints a row of the table of docs/benchmarks for each fault: what happened to whom, when the model was ready
again and when the cluster was whole again, from the beginning of the fault, and how many streams had been compared by then.

usage: OCTAVO_BIN_DIR=build/release/bin faults_table.py [--faults 50] [--gap 10] [--seed 1]

`--gap` is how many seconds lie between two faults at most. A launcher gives up on a worker that dies eight times within ten
seconds of its start: many faults want gaps.
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

import grpc

from client import Client, reason_of
from faults_test import STREAMS, SYNTH, run
from harness import Run, digest_of, wait_until
from serve_test import Gateway, Resident

WORKERS, RANKS = 3, 2
PATIENCE_S = 60
FAULTS = [(victim, signum) for victim in ("rank 0", "rank 1", "spare worker", "coordinator")
          for signum in (signal.SIGKILL, signal.SIGSTOP)]

State = collections.namedtuple("State", "model pids")  # pids of ready workers by id


class Streams:
    """Clients that ask again and again, each for the same, and compare."""

    def __init__(self, client, undisturbed):
        self.client, self.undisturbed = client, undisturbed
        self.stop, self.wrong, self.rounds = threading.Event(), [], [0] * len(undisturbed)
        self.threads = [threading.Thread(target=self.keep_asking, args=(i,)) for i in range(len(undisturbed))]
        for thread in self.threads:
            thread.start()

    def keep_asking(self, index):
        while not self.stop.is_set() and not self.wrong:
            try:
                tokens = run(self.client, index)
            except grpc.RpcError as error:
                self.wrong.append((index, reason_of(error), error.details()))
                return
            if tokens != self.undisturbed[index]:
                self.wrong.append((index, "another text", {choice: len(ids) for choice, ids in tokens.items()}))
            self.rounds[index] += 1

    def compared(self):
        return sum(self.rounds)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def state_of(cluster):
    """What a coordinator says now, by a connection of its own: one that broke is dialled again only after a while."""
    client = Client(cluster.record["address"], cluster.record["token"])
    try:
        pids = {w.hello.worker_id: w.hello.pid for w in client.workers() if w.state == "ready"}
        model = next((m for m in client.models() if m.state == "ready"), None)
        return State(model, pids) if model else None
    except grpc.RpcError:
        return None
    finally:
        client.channel.close()


def strike(cluster, before, victim, signum, draw):
    """Does one fault. Returns the worker's pid, 0 for the coordinator."""
    if victim == "coordinator":
        (pid,) = cluster.run.family("octavo-coordinator")
        os.kill(pid, signum)
        if signum == signal.SIGSTOP:
            time.sleep(draw.uniform(0.5, 4))
            os.kill(pid, signal.SIGCONT)
        return 0
    ranks = list(before.model.worker_ids)
    spare = next(worker for worker in before.pids if worker not in ranks)
    pid = before.pids[ranks[int(victim[-1])] if victim.startswith("rank") else spare]
    os.kill(pid, signum)
    return pid


def one_fault(number, cluster, streams, draw):
    victim, signum = draw.choice(FAULTS)
    before = wait_until(lambda: state_of(cluster), PATIENCE_S, "a coordinator that knows the model")
    began = time.monotonic()
    pid = strike(cluster, before, victim, signum, draw)
    epoch = before.model.group_epoch + victim.startswith("rank")

    def ready():
        state = state_of(cluster)
        return state if state and state.model.group_epoch >= epoch else None

    def whole():
        state = state_of(cluster)
        return state and len(state.pids) == WORKERS and pid not in state.pids.values()
    wait_until(ready, PATIENCE_S, f"fault {number}, {signum.name} of {victim}: the model is ready again")
    back = time.monotonic() - began
    wait_until(whole, PATIENCE_S, f"fault {number}, {signum.name} of {victim}: {WORKERS} workers")
    print(f"| {number} | {signum.name} | {victim} | {back:.2f} s | {time.monotonic() - began:.2f} s | {streams.compared()} |",
          flush=True)
    assert not streams.wrong, streams.wrong


def measure(scratch, flags):
    made = Run("synth", *SYNTH, "--out", scratch / "model")
    assert made.wait() == 0, made.stderr()
    cluster = Resident(scratch, workers=WORKERS)
    gateway = None
    try:
        cluster.client.load(scratch / "model", RANKS)
        gateway = Gateway(cluster)
        with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
            undisturbed = list(pool.map(lambda i: run(gateway.client, i), range(STREAMS)))
        print("| fault | signal | victim | model ready | cluster whole | streams compared |\n|---|---|---|---|---|---|", flush=True)
        streams, draw = Streams(gateway.client, undisturbed), random.Random(flags.seed)
        try:
            for number in range(1, flags.faults + 1):
                time.sleep(draw.uniform(0.05, flags.gap))
                one_fault(number, cluster, streams, draw)
        finally:
            streams.end()
        assert not streams.wrong, streams.wrong
        print(f"\n{flags.faults} faults, {streams.compared()} streams, all as undisturbed, "
              f"digest {digest_of([sorted(tokens.items()) for tokens in undisturbed])}")
    finally:
        if gateway:
            gateway.stop()
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--gap", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="octavo-faults-"))
    try:
        measure(scratch, flags)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
