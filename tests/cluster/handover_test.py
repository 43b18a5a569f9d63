"""One worker serves several models; a new version takes over while streams on the old one finish; a worker is drained."""

import concurrent.futures
import json
import os
import subprocess
import threading
import unittest

import grpc

from client import reason_of, scrape, total
from harness import ClusterTest, octavo_args, wait_until
from serve_test import Gateway, Resident

SYNTH = ["--family", "llama", "--layers", 3, "--hidden", 256, "--intermediate", 512, "--heads", 4, "--kv-heads", 2,
         "--head-dim", 64, "--vocab", 320, "--max-position", 2048]
PROMPT = {"ids": list(range(5, 45))}
STREAMS = 12
TOKENS = 900


def ids_of(stream):
    """The tokens of a stream, whole."""
    ids = []
    for response in stream:
        ids += [token.id for token in response.delta.tokens]
    return ids


class HandoverTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.old = cls.synth("old", *SYNTH, "--seed", 3)
        cls.new = cls.synth("new", *SYNTH, "--seed", 4)

    def start(self, workers):
        cluster = Resident(self.scratch, workers=workers)
        self.addCleanup(cluster.stop)
        return cluster

    def ask(self, client, index, tokens=TOKENS, model="chat"):
        return client.generate(model=model, token_ids=PROMPT, max_tokens=tokens, ignore_eos=True, seed=index,
                               temperature=(0, 0.8)[index % 2])

    def say(self, client, index, tokens=TOKENS, model="chat"):
        return ids_of(self.ask(client, index, tokens, model))

    def state_of(self, client, folder):
        """States of the groups that serve or load this folder."""
        return [m.state for m in client.models() if m.model_dir == str(folder)]

    def assert_figures(self, client, model, blocks):
        """What the leader shows of a model: every block is in one state, and some wait for whoever begins alike."""
        leader = next(w for w in client.workers() if any(r.model_id == model and r.rank == 0 for r in w.ranks))

        def idle():  # figures of an engine without steps are a tenth of a second old
            text = scrape(leader.hello.metrics_address)
            return text if total(text, "octavo_kv_cache_usage_ratio", f'model="{model}"') == 0 else None
        text = wait_until(idle, 10, "nothing is in use")
        states = {state: total(text, "octavo_kv_cache_blocks", f'model="{model}"', f'state="{state}"')
                  for state in ("used", "free", "cached")}
        self.assertEqual(sum(states.values()), blocks)
        self.assertEqual(states["used"], 0)
        self.assertGreater(states["cached"], 0)
        self.assertGreater(total(text, "octavo_engine_step_sequences_sum"), total(text, "octavo_engine_step_sequences_count"))

    def test_a_new_version_takes_over_while_streams_on_the_old_one_finish(self):
        cluster = self.start(2)
        beside = Gateway(cluster)  # hears of groups a little later than the coordinator
        self.addCleanup(beside.stop)
        client, gateway = cluster.client, beside.client
        client.load(self.new, 1, model_id="alone", kv_cache_tokens=2048)
        young = [self.say(client, i, 30, "alone") for i in range(4)]
        client.unload("alone")
        client.load(self.old, 2, model_id="chat", kv_cache_tokens=STREAMS * 1024)
        undisturbed = [self.say(client, i) for i in range(STREAMS)]
        with concurrent.futures.ThreadPoolExecutor(STREAMS + 2) as pool:
            streams = [self.ask((client, gateway)[i // 2 % 2], i) for i in range(STREAMS)]
            heads = [next(stream) for stream in streams]
            running = [pool.submit(ids_of, stream) for stream in streams]
            # Short requests go on all the while: none fails, and each is answered by one version, whole.
            stop, short = threading.Event(), {client: [], gateway: []}

            def keep_asking(through):
                while not stop.is_set():
                    short[through].append(self.say(through, 0, 30))

            asking = [pool.submit(keep_asking, through) for through in short]
            wait_until(lambda: all(short.values()), 30, "answers of the old version")
            with self.assertRaisesRegex(grpc.RpcError, "loaded in another way"):
                client.load(self.new, 2, model_id="chat")
            told = json.loads(cluster.cli("serve", self.new, "--tp", 2, "--model-id", "chat", "--replace", "--json",
                                          "--kv-cache-tokens", 4096))
            self.assertEqual(told["state"], "ready")
            self.assertEqual(self.say(client, 1, 30), young[1])
            self.assertIn(self.state_of(client, self.old), (["draining"], []))
            whole = [[t.id for t in head.delta.tokens] + rest.result() for head, rest in zip(heads, running, strict=True)]
            wait_until(lambda: all(young[0] in answers for answers in short.values()), 30, "answers of the new one")
            stop.set()
            for asked in asking:
                asked.result()
        self.assertEqual(whole, undisturbed)
        for answers in short.values():
            at = answers.index(young[0])  # all of the old version, then all of the new one
            self.assertEqual(answers, [undisturbed[0][:30]] * at + [young[0]] * (len(answers) - at))
        wait_until(lambda: not self.state_of(client, self.old), 30, "the old version is gone")
        self.assertEqual([len(w.ranks) for w in client.workers()], [1, 1])

    def test_models_share_workers_and_their_memory(self):
        cluster = self.start(2)
        client = cluster.client
        alone = {}
        for name, folder in (("a", self.old), ("b", self.new)):
            client.load(folder, 2, model_id=name, kv_cache_tokens=8192)
            alone[name] = [self.say(client, i, 60, name) for i in range(6)]
        client.unload("a")
        client.load(self.old, 2, model_id="a", kv_cache_tokens=8192)
        self.assertNotEqual(alone["a"], alone["b"])
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            both = {name: [pool.submit(self.say, client, i, 60, name) for i in range(6)] for name in alone}
            for name, answers in both.items():
                self.assertEqual([answer.result() for answer in answers], alone[name])
        budget = client.workers()[0].hello.memory_bytes
        for worker in client.workers():
            self.assertEqual(sorted(rank.model_id for rank in worker.ranks), ["a", "b"])
            self.assertLess(sum(rank.bytes for rank in worker.ranks), budget)
        self.assert_figures(client, "a", 8192 // 32)
        client.load(self.old, 2, model_id="greedy", max_sequences=4096, max_batched_tokens=4096)  # takes what is left
        with self.assertRaisesRegex(AssertionError, "(?s)OUT_OF_MEMORY.*ranks of other groups hold"):
            client.load(self.new, 1, model_id="c")

    def test_a_model_moves_off_a_worker_that_is_drained(self):
        cluster = self.start(2)
        client = cluster.client
        first = client.load(self.old, 1, model_id="chat", kv_cache_tokens=8192).worker_ids[0]
        undisturbed = self.say(client, 1)
        stream = self.ask(client, 1)
        head = [t.id for t in next(stream).delta.tokens]
        draining = subprocess.Popen(octavo_args("cluster", "drain", first, "--coordinator", cluster.record["address"]),
                                    env=dict(os.environ, OCTAVO_TOKEN=cluster.record["token"]), stdout=subprocess.PIPE,
                                    text=True)
        wait_until(lambda: [m.state for m in client.models()].count("ready") == 1 and len(client.models()) == 2, 30,
                   "the model is on the other worker")
        self.assertEqual(self.say(client, 1, 40), undisturbed[:40])
        self.assertEqual(head + ids_of(stream), undisturbed)
        self.assertIn("is drained", draining.communicate(timeout=30)[0])
        self.assertEqual(draining.returncode, 0)
        states = {w.hello.worker_id: (w.state, len(w.ranks)) for w in client.workers()}
        self.assertEqual(states.pop(first), ("draining", 0))
        self.assertEqual(list(states.values()), [("ready", 1)])
        # The other one too: nothing holds the model now, until a worker is taken back.
        (second,) = states
        cluster.cli("cluster", "drain", second)
        with self.assertRaises(grpc.RpcError) as refused:
            self.say(client, 1, 4)
        self.assertEqual(reason_of(refused.exception), "NOT_READY")
        cluster.cli("cluster", "undrain", first)
        wait_until(lambda: [m.state for m in client.models()] == ["ready"], 30, "the model is back")
        self.assertEqual(self.say(client, 1, 40), undisturbed[:40])


if __name__ == "__main__":
    unittest.main()
