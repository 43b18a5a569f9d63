"""Many requests at once on real processes: each gets what it gets alone, whoever else is in the step, preempted or not."""

import random
import threading
import time
import unittest

from client import scrape, total
from harness import ClusterTest, Run, wait_until
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

    def leader_metric(self, info, name, *labels):
        leader = next(w for w in self.client.workers() if w.hello.worker_id == info.worker_ids[0])
        return total(scrape(leader.hello.metrics_address), name, *labels)

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

    def test_operators_see_what_steps_and_collectives_take(self):
        info = self.client.load(self.folders["bf16"], 2)
        workers = {w.hello.worker_id: w.hello.metrics_address for w in self.client.workers()}

        def look(rank=0):
            return scrape(workers[info.worker_ids[rank]])
        tokens = sum(LENGTHS) + sum(r["max_tokens"] - 1 for r in REQUESTS)
        model = f'model="{info.model_id}"'
        before, follower_before = look(), look(1)
        self.together()

        def settled():  # some figures are a tenth of a second old
            text = look()
            return text if total(text, "octavo_engine_decode_seconds_count") - total(
                before, "octavo_engine_decode_seconds_count") == len(REQUESTS) and total(
                    text, "octavo_kv_cache_usage_ratio", model) == 0 else None
        wait_until(settled, 10, "all have ended")
        time.sleep(0.5)
        after, follower = look(), look(1)

        def more(name, *labels, old=before, new=after):
            return total(new, name, *labels) - total(old, name, *labels)
        self.assertEqual(more("octavo_engine_tokens_total"), tokens)
        for kind in ("prefill", "decode"):
            self.assertGreater(more("octavo_engine_tokens_total", f'kind="{kind}"'), 0, kind)
        self.assertGreater(more("octavo_engine_steps_total", 'kind="mixed"'), 0)
        self.assertEqual(more("octavo_engine_queue_seconds_count"), len(REQUESTS))
        self.assertEqual(more("octavo_engine_prefill_seconds_count"), len(REQUESTS))
        sources = {source: more("octavo_engine_prompt_tokens_total", f'source="{source}"')
                   for source in ("compute", "prefix_cache", "replay")}
        self.assertEqual(sources, {"compute": sum(LENGTHS), "prefix_cache": 0, "replay": 0})
        for phase in ("schedule", "prepare", "compute", "collective", "collect", "sample", "emit"):
            self.assertGreater(more("octavo_engine_phase_seconds_total", f'phase="{phase}"'), 0, phase)
        # Every rank: steps are computing and collectives; all gather the same bytes in as many calls.
        for old, new in [(before, after), (follower_before, follower)]:
            spent = sum(more("octavo_engine_phase_seconds_total", f'phase="{phase}"', old=old, new=new)
                        for phase in ("compute", "collective"))
            self.assertAlmostEqual(spent, more("octavo_engine_step_seconds_sum", old=old, new=new), places=6)
        for name in ("octavo_collective_bytes_total", "octavo_collective_duration_seconds_count"):
            self.assertGreater(more(name, 'op="all_gather"'), 0)
            self.assertEqual(more(name, 'op="all_gather"'),
                             more(name, 'op="all_gather"', old=follower_before, new=follower))
        steps = more("octavo_engine_steps_total")
        self.assertEqual(more("octavo_rank_skew_seconds_count"), steps)
        self.assertLessEqual(more("octavo_rank_skew_seconds_sum"),
                             sum(more("octavo_engine_phase_seconds_total", 'phase="collective"', old=old, new=new)
                                 for old, new in [(before, after), (follower_before, follower)]))
        self.assertGreater(total(follower, "octavo_heartbeat_rtt_seconds_count"), 0)
        self.assertLess(total(follower, "octavo_heartbeat_rtt_seconds_sum"), 10 * total(follower, "octavo_heartbeat_rtt_seconds_count"))
        self.assertEqual(total(after, "octavo_group_size", model), 2)
        self.assertEqual(total(after, "octavo_engine_state", model, 'state="serving"'), 1)
        blocks = total(after, "octavo_kv_cache_blocks", model)
        self.assertEqual(total(after, "octavo_kv_cache_max_concurrency", model), blocks // -(-info.max_model_len // 32))
        coordinator = scrape(self.cluster.record["metrics"])
        said = next(line for line in coordinator.splitlines() if line.startswith("octavo_model_info{") and model in line)
        self.assertIn(f'family="{SYNTH[SYNTH.index("--family") + 1]}"', said)
        self.assertIn('format="bf16"', said)
        self.assertEqual(float(said.split()[-1]), 1)
        self.client.unload(info.model_id)
        gone = wait_until(lambda: (lambda text: text if total(text, "octavo_group_size", model) == 0 else None)(look()),
                          10, "the model is gone")
        for name in ("octavo_engine_state", "octavo_kv_cache_max_concurrency", "octavo_engine_requests_waiting"):
            self.assertEqual(total(gone, name, model), 0, name)
        self.assertEqual(total(scrape(self.cluster.record["metrics"]), "octavo_model_info", model), 0)

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
                replayed = self.leader_metric(info, "octavo_engine_prompt_tokens_total", 'source="replay"')
                self.assertEqual(self.together(), expected)
                wait_until(lambda: self.leader_metric(info, "octavo_engine_prompt_tokens_total", 'source="replay"')
                           > replayed, 10, "replayed tokens were counted")
                self.assertGreater(self.leader_metric(info, "octavo_engine_preemptions_total"), before)
                self.client.unload(info.model_id)

    def test_limits_that_cannot_be_are_refused(self):
        for limits in [{"max_batched_tokens": 8, "max_sequences": 9}, {"max_batched_tokens": 100000}]:
            with self.subTest(**limits):
                with self.assertRaisesRegex(AssertionError, "BAD_REQUEST"):
                    self.client.load(self.folders["bf16"], 1, **limits)


if __name__ == "__main__":
    unittest.main()
