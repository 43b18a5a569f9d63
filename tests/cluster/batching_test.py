"""Many requests at once on real processes: each gets what it gets alone, whoever else is in the step, preempted or not."""

import random
import threading
import unittest

from client import scrape
from harness import ClusterTest, Run
from serve_test import STATIC_YAML, SYNTH, Resident

# Around the ends of key-value blocks (32 tokens), and of several lengths.
LENGTHS = [1, 7, 31, 32, 33, 40, 63, 64, 65, 80, 95, 96, 100, 120, 128, 150]
IDS = random.Random(6)
REQUESTS = [dict(token_ids={"ids": IDS.choices(range(3, 250), k=length)}, max_tokens=40 + i, ignore_eos=True,
                 **({"temperature": 0.9, "top_k": 40, "seed": i} if i % 2 else {}))
            for i, length in enumerate(LENGTHS)]
PROMPT = IDS.choices(range(3, 250), k=150)
MODEL_LEN = 320


class BatchingTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folders = {"bf16": cls.scratch / "bf16", "static": cls.scratch / "static"}
        run = Run("synth", *SYNTH, "--out", cls.folders["bf16"])
        assert run.wait() == 0, run.stderr()
        recipe = cls.scratch / "static.yaml"
        recipe.write_text(STATIC_YAML)
        run = Run("quantize", cls.folders["bf16"], "--recipe", recipe, "--out", cls.folders["static"],
                  "--calibration", "random")
        assert run.wait() == 0, run.stderr()
        cls.cluster = Resident(cls.scratch, workers=2, memory="192MiB")
        cls.addClassCleanup(cls.cluster.stop)
        cls.client = cls.cluster.client
        cls.tokens_alone = {}

    def setUp(self):
        for model in self.client.models():
            self.client.unload(model.model_id)

    def alone(self, name):
        """The tokens of every request, one after the other, on one rank. BF16 and FP8 caches differ."""
        if name not in self.tokens_alone:
            info = self.client.load(self.folders[name], 1)
            self.tokens_alone[name] = [self.client.complete(**request)[1] for request in REQUESTS]
            self.client.unload(info.model_id)
            self.assertEqual([len(ids) for ids in self.tokens_alone[name]], [r["max_tokens"] for r in REQUESTS])
        return self.tokens_alone[name]

    def together(self):
        found = [None] * len(REQUESTS)

        def ask(i):
            found[i] = self.client.complete(**REQUESTS[i])[1]
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(REQUESTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def leader_metric(self, info, name):
        leader = next(w for w in self.client.workers() if w.hello.worker_id == info.worker_ids[0])
        return sum(float(line.split()[-1]) for line in scrape(leader.hello.metrics_address).splitlines()
                   if line.split("{")[0].split(" ")[0] == name)

    def test_tokens_are_those_of_each_request_alone(self):
        for name, folder in self.folders.items():
            for tensor_parallel in [1, 2]:
                with self.subTest(format=name, tensor_parallel=tensor_parallel):
                    expected = self.alone(name)
                    info = self.client.load(folder, tensor_parallel)
                    before = [self.leader_metric(info, f"octavo_engine_step_tokens_{part}") for part in ["sum", "count"]]
                    self.assertEqual(self.together(), expected)
                    after = [self.leader_metric(info, f"octavo_engine_step_tokens_{part}") for part in ["sum", "count"]]
                    self.assertEqual(after[0] - before[0], sum(LENGTHS) + sum(r["max_tokens"] - 1 for r in REQUESTS))
                    self.assertLess(after[1] - before[1], 0.5 * sum(r["max_tokens"] for r in REQUESTS))
                    self.client.unload(info.model_id)

    def test_logits_are_the_same_while_others_are_computed(self):
        self.client.load(self.folders["static"], 2)
        expected = [(d.low, d.high) for d in self.client.score(PROMPT).digests]
        load = [self.client.generate(token_ids={"ids": PROMPT[:10 + i]}, max_tokens=1500, ignore_eos=True)
                for i in range(8)]
        for stream in load:
            next(iter(stream))
        for chunk in [0, 1, 7, 64]:
            with self.subTest(chunk=chunk):
                self.assertEqual([(d.low, d.high) for d in self.client.score(PROMPT, chunk).digests], expected)
        self.assertTrue(all(stream.is_active() for stream in load), "the load ended before the scores")
        for stream in load:
            stream.cancel()

    def test_what_the_prefix_cache_has_is_not_computed_again(self):
        for name, folder in self.folders.items():
            info = self.client.load(folder, 2)
            counters = ["octavo_prefix_cache_hit_tokens_total", "octavo_prefix_cache_tokens_total"]
            before = [self.leader_metric(info, counter) for counter in counters]
            ask = dict(max_tokens=8, ignore_eos=True, logprobs=True)
            prompts = [PROMPT, PROMPT, PROMPT[:100], PROMPT[:64], PROMPT[:40] + PROMPT]
            expected = [0, 128, 96, 32, 32]
            for prompt, cached in zip(prompts, expected):
                with self.subTest(format=name, length=len(prompt)):
                    text, tokens, logprobs, usage = self.answer(prompt, **ask)
                    self.assertEqual(usage.cached_prompt_tokens, cached)
                    alone = self.answer(prompt, no_prefix_cache=True, **ask)
                    self.assertEqual(alone[3].cached_prompt_tokens, 0)
                    self.assertEqual((text, tokens, logprobs), alone[:3])
            counted = [self.leader_metric(info, counter) - was for counter, was in zip(counters, before)]
            self.assertEqual(counted, [sum(expected), sum(map(len, prompts))])
            self.client.unload(info.model_id)

    def answer(self, prompt, **fields):
        """(text, ids, log probabilities, usage)."""
        text, tokens, usage = "", [], None
        for response in self.client.generate(token_ids={"ids": prompt}, **fields):
            text += response.delta.text
            tokens += response.delta.tokens
            usage = response.finished.usage
        return text, [token.id for token in tokens], [token.logprob for token in tokens], usage

    def load_with_few_blocks(self, name):
        """Makes steps so large that their scratch leaves a cache of 320 to 640 tokens."""
        low, high = 256, 8192
        while low < high:
            tokens = (low + high) // 2
            try:
                info = self.client.load(self.folders[name], 2, max_model_len=MODEL_LEN, max_batched_tokens=tokens)
            except AssertionError as refused:
                self.assertRegex(str(refused), "OUT_OF_MEMORY")
                self.assertRegex(str(refused), "bytes .* of weights, .* of KV cache .* of scratch")
                high = tokens
                continue
            if info.kv_cache_tokens <= 2 * MODEL_LEN:
                self.assertGreaterEqual(info.kv_cache_tokens, MODEL_LEN)
                return info
            self.client.unload(info.model_id)
            low = tokens + 1
        self.fail("no number of tokens leaves that much")

    def test_preempted_requests_go_on_with_the_same_tokens(self):
        for name in self.folders:
            with self.subTest(format=name):
                expected = self.alone(name)
                info = self.load_with_few_blocks(name)
                before = self.leader_metric(info, "octavo_engine_preemptions_total")
                self.assertEqual(self.together(), expected)
                self.assertGreater(self.leader_metric(info, "octavo_engine_preemptions_total"), before)
                self.client.unload(info.model_id)

    def test_limits_that_cannot_be_are_refused(self):
        for limits in [{"max_batched_tokens": 8, "max_sequences": 9}, {"max_batched_tokens": 100000}]:
            with self.subTest(**limits):
                with self.assertRaisesRegex(AssertionError, "BAD_REQUEST"):
                    self.client.load(self.folders["bf16"], 1, **limits)


if __name__ == "__main__":
    unittest.main()
