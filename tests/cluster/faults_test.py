"""Ranks die and hang at random moments under load: every stream has the text of an undisturbed run.

OCTAVO_FAULTS says how many (10), OCTAVO_FAULT_SEED which, OCTAVO_FAULT_GAP how many seconds apart at most (1); as a script
with --table it prints one row for each, for docs/benchmarks. A launcher gives up on a worker that dies eight times within ten
seconds of its start: more than some 15 faults want a gap of 10.
"""

import concurrent.futures
import os
import random
import signal
import sys
import threading
import time
import unittest

import grpc

from client import reason_of
from harness import ClusterTest, digest_of, wait_until
from serve_test import Resident

SYNTH = ["--family", "llama", "--layers", 3, "--hidden", 256, "--intermediate", 512, "--heads", 4, "--kv-heads", 2,
         "--head-dim", 64, "--vocab", 320, "--max-position", 2048, "--seed", 3]
FAULTS = int(os.environ.get("OCTAVO_FAULTS", "10"))
GAP = float(os.environ.get("OCTAVO_FAULT_GAP", "1"))
SEED = int(os.environ.get("OCTAVO_FAULT_SEED", "1"))
STREAMS = 32
TOKENS = 200


def request(index, tokens=TOKENS):
    """One of many: greedy and sampled, short and long prompts, penalties, one in four of two choices."""
    draw = random.Random(index)
    return {"token_ids": {"ids": draw.choices(range(3, 250), k=draw.randrange(1, 120))}, "ignore_eos": True,
            "max_tokens": draw.randrange(tokens // 2, tokens), "seed": index, "temperature": (0, 0.9)[index % 2],
            "min_p": (0, 0.02)[index % 3 == 0], "presence_penalty": (0, 0.5)[index % 5 == 0],
            "n": (1, 2)[index % 4 == 0], "priority": draw.randrange(3)}


def run(client, index, tokens_max=TOKENS):
    """Tokens by choice; asks again only where nothing had been promised yet."""
    until = time.monotonic() + 60
    while True:
        tokens = {}
        try:
            for response in client.generate(**request(index, tokens_max)):
                tokens.setdefault(response.delta.index, []).extend(t.id for t in response.delta.tokens)
            return tokens
        except grpc.RpcError as error:
            if tokens or reason_of(error) != "NOT_READY" or time.monotonic() > until:
                raise
            time.sleep(0.02)


class FaultsTest(ClusterTest):

    def test_streams_of_ranks_in_shared_memory_have_the_text_of_an_undisturbed_run(self):
        self.hit("auto", FAULTS)

    def test_streams_of_ranks_over_tcp_have_the_text_of_an_undisturbed_run(self):
        self.hit("tcp", max(1, FAULTS // 3))

    def hit(self, collectives, faults):
        folder = self.synth(f"model-{collectives}", *SYNTH)
        cluster = Resident(self.scratch, workers=3, collectives=collectives)
        self.addCleanup(cluster.stop)
        model = cluster.client.load(folder, 2)
        with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
            undisturbed = list(pool.map(lambda i: run(cluster.client, i), range(STREAMS)))
        draw, stop, rounds, wrong = random.Random(SEED), threading.Event(), [0] * STREAMS, []

        def keep_asking(index):
            while not stop.is_set() and not wrong:
                try:
                    tokens = run(cluster.client, index)
                except grpc.RpcError as error:
                    wrong.append((index, reason_of(error), error.details()))
                    return
                if tokens != undisturbed[index]:
                    wrong.append((index, "another text", {k: len(v) for k, v in tokens.items()}))
                rounds[index] += 1

        def ready_after(epoch):
            model_now = next(m for m in cluster.client.models() if m.model_id == model.model_id)
            return model_now if model_now.state == "ready" and model_now.group_epoch > epoch else None

        threads = [threading.Thread(target=keep_asking, args=(i,)) for i in range(STREAMS)]
        for thread in threads:
            thread.start()
        try:
            for fault in range(faults):
                time.sleep(draw.uniform(0.05, GAP))
                pids = {w.hello.worker_id: w.hello.pid for w in cluster.client.workers() if w.state == "ready"}
                rank, signum = draw.randrange(2), draw.choice([signal.SIGKILL, signal.SIGSTOP])
                os.kill(pids[model.worker_ids[rank]], signum)
                hit = time.monotonic()
                model = wait_until(lambda epoch=model.group_epoch: ready_after(epoch), 30, f"fault {fault}: a new group")
                back = time.monotonic() - hit
                wait_until(lambda: len(cluster.worker_pids()) == 3, 30, "the dead worker was replaced")
                if "--table" in sys.argv:
                    print(f"| {fault + 1} | {signum.name} | {rank} | {back:.2f} s | {sum(rounds)} |", flush=True)
                self.assertEqual(wrong, [])
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(wrong, [])
        self.assertGreaterEqual(sum(rounds), STREAMS)
        print(f"{faults} faults, {sum(rounds)} streams compared, digest {digest_of([sorted(u.items()) for u in undisturbed])}")


if __name__ == "__main__":
    unittest.main(argv=[arg for arg in sys.argv if arg != "--table"])
