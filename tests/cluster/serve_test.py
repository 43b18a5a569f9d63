"""Serving on real processes: the same logits at any group size, chunk and instruction set; ranks that die."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time
import unittest

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from client import Client, cluster_record, reason_of, scrape
from harness import ClusterTest, Run, digest_of, octavo_args, wait_until

# KV groups of 2 x 64 = 128 elements, so that block formats can be split over 3 ranks too.
SYNTH = ["--family", "llama", "--layers", 2, "--hidden", 384, "--intermediate", 1536, "--heads", 6, "--kv-heads", 3,
         "--head-dim", 64, "--vocab", 1024, "--seed", 3]
RECIPES = {"fp8-dynamic": [], "fp8-weight-only": [], "fp8-block": [], "int8-dynamic": [],
           "static.yaml": ["--calibration", "random"], "head.yaml": []}
STATIC_YAML = """name: static
dialect: compressed-tensors
kv_cache: {type: fp8, scale: tensor}
calibration: {observer: absmax, samples: 4, sample_length: 64}
rules:
  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: tensor}}
"""
HEAD_YAML = """name: head
rules:
  - {roles: [lm_head], weight: {type: int8, scale: channel}, input: {type: int8, scale: token}}
  - {weight: {type: fp8, scale: channel}, input: {type: fp8, scale: token}}
"""
PROMPT = random.Random(5).choices(range(3, 250), k=150)


class Resident:
    """A cluster kept by `octavo up`, and a client of it."""

    def __init__(self, scratch, workers, isa="auto", memory="1GiB", collectives="auto"):
        self.state = pathlib.Path(scratch) / f"state-{isa}-{workers}-{random.randrange(1 << 30)}"
        self.run = Run("up", "--foreground", "--workers", workers, "--isa", isa, "--memory", memory,
                       "--collectives", collectives, "--state", self.state)
        wait_until(lambda: (self.state / "cluster.json").exists() or self.run.process.poll() is not None,
                   30, "the cluster came up")
        assert self.run.process.poll() is None, self.run.stderr()
        self.record = cluster_record(self.state)
        self.client = Client(self.record["address"], self.record["token"])

    def cli(self, *args):
        done = subprocess.run(octavo_args(*args, "--coordinator", self.record["address"]), capture_output=True,
                              text=True, timeout=120,
                              env=dict(os.environ, OCTAVO_TOKEN=self.record["token"]))
        assert done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def worker_pids(self):
        return sorted(w.hello.pid for w in self.client.workers() if w.state == "ready")

    def stop(self):
        self.run.process.terminate()
        self.run.wait(30)


class Gateway:
    """`octavo gateway` beside a cluster, and a client of it."""

    def __init__(self, cluster):
        token = cluster.record["token"]
        self.run = Run("gateway", "--coordinator", cluster.record["address"], "--json", env={"OCTAVO_TOKEN": token})
        wait_until(lambda: self.run.stdout().endswith("\n") or self.run.process.poll() is not None, 20, "the gateway")
        assert self.run.process.poll() is None, self.run.stderr()
        self.client = Client(json.loads(self.run.stdout())["address"], token)

    def stop(self):
        self.run.process.terminate()
        self.run.wait(20)


class ServeTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folders = {"bf16": cls.scratch / "bf16"}
        run = Run("synth", *SYNTH, "--out", cls.folders["bf16"])
        assert run.wait() == 0, run.stderr()
        cls.cluster = Resident(cls.scratch, workers=3)
        cls.addClassCleanup(cls.cluster.stop)
        cls.client = cls.cluster.client
        cls.pids_at_start = cls.cluster.worker_pids()
        (cls.scratch / "static.yaml").write_text(STATIC_YAML)
        (cls.scratch / "head.yaml").write_text(HEAD_YAML)
        for recipe, flags in RECIPES.items():
            name = recipe.removesuffix(".yaml")
            cls.folders[name] = cls.scratch / name
            cls.cluster.cli("quantize", cls.folders["bf16"], "--recipe",
                            recipe if name == recipe else cls.scratch / recipe, "--out", cls.folders[name], *flags)

    def setUp(self):
        for model in self.client.models():
            self.client.unload(model.model_id)

    def digests(self, client, folder, tensor_parallel, chunk, cache_type="CACHE_AUTO", **options):
        info = client.load(folder, tensor_parallel, cache_type=cache_type, **options)
        response = client.score(PROMPT, chunk)
        client.unload(info.model_id)
        self.assertEqual(len(response.digests), len(PROMPT))
        found = [(d.low, d.high) for d in response.digests]
        print(f"logits {digest_of(found)} of {folder.name} at TP {tensor_parallel}, chunk {chunk or 'whole'}")
        return found

    # ---- the same tokens ------------------------------------------------------------------------------

    def test_logits_do_not_depend_on_ranks_or_chunks(self):
        for name, folder in self.folders.items():
            expected = self.digests(self.client, folder, 1, 0)
            self.assertEqual(len(set(expected)), len(expected), "digests of different positions coincide")
            for tensor_parallel, chunk in [(1, 1), (1, 7), (2, 0), (2, 64), (3, 0), (3, 7)]:
                with self.subTest(format=name, tensor_parallel=tensor_parallel, chunk=chunk):
                    self.assertEqual(self.digests(self.client, folder, tensor_parallel, chunk), expected)

    def test_logits_do_not_depend_on_the_instruction_set(self):
        other = {isa: Resident(self.scratch, 1, isa) for isa in ["avx2", "reference"]}
        try:
            for name, folder in self.folders.items():
                expected = self.digests(self.client, folder, 1, 0)
                for isa, cluster in other.items():
                    with self.subTest(format=name, isa=isa):
                        self.assertEqual(self.digests(cluster.client, folder, 1, 0), expected)
        finally:
            for cluster in other.values():
                cluster.stop()

    def test_keys_and_values_are_stored_as_asked(self):
        folder = self.folders["static"]
        fp8 = self.digests(self.client, folder, 1, 0, "CACHE_FP8")
        bf16 = self.digests(self.client, folder, 1, 0, "CACHE_BF16")
        self.assertEqual(self.digests(self.client, folder, 1, 0), fp8)
        self.assertNotEqual(bf16, fp8)
        self.assertEqual(self.digests(self.client, folder, 3, 7, "CACHE_BF16"), bf16)
        bytes_of = {}
        for name in ["fp8", "bf16"]:
            said = json.loads(self.cluster.cli("serve", folder, "--kv-cache-dtype", name, "--json"))
            self.assertEqual(said["kv_cache"], name)
            leader = next(w for w in self.client.workers() if any(r.model_id == said["model"] for r in w.ranks))
            line = next(line for line in scrape(leader.hello.metrics_address).splitlines()
                        if line.startswith("octavo_kv_cache_bytes{") and f'dtype="{name}"' in line
                        and f'model="{said["model"]}"' in line)
            bytes_of[name] = float(line.split()[-1])
            self.client.unload(said["model"])
        self.assertGreater(bytes_of["fp8"], 0)
        self.assertEqual(bytes_of["fp8"] * 2, bytes_of["bf16"])
        with self.assertRaisesRegex(AssertionError, "(?s)BAD_REQUEST.*--kv-scale-one"):
            self.client.load(self.folders["bf16"], 1, cache_type="CACHE_FP8")
        # Scales of 1 have to be asked for; scales that were calibrated are used all the same.
        plain = self.digests(self.client, self.folders["bf16"], 1, 0)
        ones = self.digests(self.client, self.folders["bf16"], 1, 0, "CACHE_FP8", kv_scale_one=True)
        self.assertNotEqual(ones, plain)
        self.assertEqual(self.digests(self.client, self.folders["bf16"], 2, 7, "CACHE_FP8", kv_scale_one=True), ones)
        self.assertEqual(self.digests(self.client, folder, 2, 0, "CACHE_FP8", kv_scale_one=True), fp8)

    def test_a_head_quantized_at_load_is_the_head_of_a_quantized_checkpoint(self):
        recipe = self.scratch / "fp8-head.yaml"
        recipe.write_text("name: fp8-head\nrules:\n  - {roles: [lm_head], weight: {type: fp8, scale: channel}, "
                          "input: {type: fp8, scale: token}}\n  - {weight: keep}\n")
        tied = self.scratch / "tied"
        Run("synth", *SYNTH, "--tied", "--out", tied).wait()
        for source in [self.folders["bf16"], tied]:
            made = self.scratch / f"{source.name}-fp8-head"
            self.cluster.cli("quantize", source, "--recipe", recipe, "--out", made)
            expected = self.digests(self.client, made, 1, 0)
            self.assertNotEqual(self.digests(self.client, source, 1, 0), expected)
            for ranks in [1, 2, 3]:
                self.assertEqual(self.digests(self.client, source, ranks, 7 * ranks, head_type="HEAD_FP8"), expected)
        said = json.loads(self.cluster.cli("serve", tied, "--lm-head", "fp8", "--json"))
        self.assertEqual(said["format"], "bf16, fp8 head")
        self.client.unload(said["model"])
        with self.assertRaisesRegex(AssertionError, "(?s)BAD_REQUEST.*eight bits already"):
            self.client.load(self.folders["head"], 1, head_type="HEAD_FP8")

    def test_the_processes_that_quantized_are_the_ones_that_serve(self):
        self.assertEqual(len(self.pids_at_start), 3)
        info = self.client.load(self.folders["fp8-dynamic"], 3)
        serving = sorted(w.hello.pid for w in self.client.workers() if any(r.model_id == info.model_id for r in w.ranks))
        self.assertEqual(serving, self.pids_at_start)
        self.assertGreater(len(self.client.complete(token_ids={"ids": PROMPT[:8]}, max_tokens=4)[1]), 0)

    # ---- requests -------------------------------------------------------------------------------------

    def test_generate_is_the_same_at_any_group_size_and_reports_usage(self):
        seen = {}
        for tensor_parallel in [1, 2]:
            info = self.client.load(self.folders["fp8-dynamic"], tensor_parallel)
            greedy = self.client.complete(token_ids={"ids": PROMPT[:20]}, max_tokens=12, ignore_eos=True)
            sampled = self.client.complete(token_ids={"ids": PROMPT[:20]}, max_tokens=12, ignore_eos=True,
                                           temperature=0.9, top_k=40, top_p=0.95, seed=11)
            self.assertEqual(greedy[2].usage.prompt_tokens, 20)
            self.assertEqual(greedy[2].usage.completion_tokens, 12)
            self.assertEqual(len(greedy[1]), 12)
            self.assertEqual(sampled[2].seed, 11)
            seen[tensor_parallel] = (greedy[1], sampled[1])
            self.client.unload(info.model_id)
        self.assertEqual(seen[1], seen[2])
        self.assertNotEqual(seen[1][0], seen[1][1])

    def test_choices_least_length_and_prompt_logprobs(self):
        self.client.load(self.folders["fp8-dynamic"], 2)
        asked = dict(token_ids={"ids": PROMPT[:40]}, max_tokens=10, temperature=0.9, top_p=0.95, min_p=0.01,
                     repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2, logit_bias={7: -5.0, 9: 2.5})
        ids, finished, prompt = {}, {}, []
        for response in self.client.generate(n=4, seed=50, prompt_logprobs=True, ignore_eos=True, **asked):
            if response.HasField("finished"):
                finished[response.finished.index] = response.finished
            else:
                prompt += response.delta.prompt_tokens
                ids.setdefault(response.delta.index, []).extend(token.id for token in response.delta.tokens)
        self.assertEqual(sorted(finished), [0, 1, 2, 3])
        self.assertEqual([finished[i].seed for i in range(4)], [50, 51, 52, 53])
        self.assertEqual(sum(one.usage.prompt_tokens for one in finished.values()), 40)
        self.assertEqual(sum(one.usage.completion_tokens for one in finished.values()), 40)
        self.assertGreater(len({tuple(one) for one in ids.values()}), 1)
        # A choice is what its seed gives alone, and the prompt's log probabilities are those of Score.
        alone = self.client.complete(seed=52, ignore_eos=True, **asked)[1]
        self.assertEqual(ids[2], alone)
        self.assertEqual([token.id for token in prompt], PROMPT[1:40])
        self.assertEqual([token.logprob for token in prompt], list(self.client.score(PROMPT[:40]).logprobs))
        # Every other id would end the text, but not before seven are out.
        for least in [0, 7]:
            ended = self.client.complete(stop_token_ids=range(0, 1024, 2), min_tokens=least, seed=3, ignore_eos=True,
                                         **{**asked, "max_tokens": 30})
            self.assertEqual(ended[2].reason, 1)
            self.assertGreater(len(ended[1]), least)
            self.assertTrue(all(token % 2 for token in ended[1][:-1]), ended[1])
            self.assertEqual(ended[1][-1] % 2, 0)

    def test_cancelled_and_late_requests_free_the_engine(self):
        self.client.load(self.folders["bf16"], 2)
        stream = self.client.generate(token_ids={"ids": PROMPT}, max_tokens=4000, ignore_eos=True)
        next(iter(stream))
        stream.cancel()
        with self.assertRaises(grpc.RpcError) as late:
            for _ in self.client.generate(token_ids={"ids": PROMPT}, max_tokens=4000, ignore_eos=True, timeout_s=0.5):
                pass
        self.assertEqual(late.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        started = time.monotonic()
        self.client.complete(token_ids={"ids": PROMPT[:4]}, max_tokens=2)
        self.assertLess(time.monotonic() - started, 3)

    def test_bad_requests_are_refused_by_reason(self):
        with self.assertRaises(grpc.RpcError) as nothing_loaded:
            self.client.complete(token_ids={"ids": [1]})
        self.assertEqual(nothing_loaded.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(reason_of(nothing_loaded.exception), "NOT_READY")
        self.client.load(self.folders["bf16"], 1)
        for fields in [{"token_ids": {"ids": []}}, {"token_ids": {"ids": [10 ** 6]}}, {"token_ids": {"ids": [-1]}},
                       {"prompt": "x", "temperature": -1}, {"prompt": "x", "top_p": 2},
                       {"prompt": "x", "top_logprobs": 1000}, {}, {"prompt": "x", "n": 17},
                       {"prompt": "x", "min_p": float("nan")}, {"prompt": "x", "logit_bias": {10 ** 6: 1}},
                       {"prompt": "x", "logit_bias": {1: 101}}, {"prompt": "x", "repetition_penalty": -1},
                       {"prompt": "x", "min_tokens": 9, "max_tokens": 8}]:
            with self.subTest(fields=fields):
                with self.assertRaises(grpc.RpcError) as refused:
                    self.client.complete(**fields)
                self.assertEqual(refused.exception.code(), grpc.StatusCode.INVALID_ARGUMENT,
                                 refused.exception.details())
                self.assertEqual(reason_of(refused.exception), "BAD_REQUEST")
        with self.assertRaises(grpc.RpcError) as stranger:
            Client(self.cluster.record["address"], "wrong").models()
        self.assertEqual(stranger.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
        self.assertEqual(reason_of(stranger.exception), "UNAUTHENTICATED")

    def test_more_ranks_than_workers_or_heads_is_refused(self):
        """It waits for a fourth worker, longer than we do here."""
        with self.assertRaises(grpc.RpcError) as refused:
            self.client.load(self.folders["bf16"], 4, timeout_s=3)
        self.assertEqual(refused.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    # ---- ranks that die -------------------------------------------------------------------------------

    def hit_a_rank(self, rank, signum):
        """A stream goes on with the group that forms next, with the tokens that it would have had."""
        info = self.client.load(self.folders["fp8-dynamic"], 2)
        victims = {w.hello.worker_id: w.hello.pid for w in self.client.workers()}
        asked = {"token_ids": {"ids": PROMPT}, "max_tokens": 1500, "ignore_eos": True, "temperature": 0.9, "seed": 11,
                 "repetition_penalty": 1.1, "logprobs": True}
        undisturbed = [(t.id, t.logprob) for r in self.client.generate(**asked) for t in r.delta.tokens]
        self.assertEqual(len(undisturbed), 1500)
        before = self.resumed()
        stream = self.client.generate(**asked)
        tokens = [(t.id, t.logprob) for t in next(iter(stream)).delta.tokens]
        os.kill(victims[info.worker_ids[rank]], signum)
        tokens += [(t.id, t.logprob) for response in stream for t in response.delta.tokens]
        self.assertEqual(tokens, undisturbed)
        self.assertEqual(self.resumed(), before + 1)
        model = next(m for m in self.client.models() if m.model_id == info.model_id)
        self.assertEqual(model.state, "ready")
        self.assertGreater(model.group_epoch, info.group_epoch)
        wait_until(lambda: len(self.cluster.worker_pids()) == 3, 20, "the dead worker was replaced")
        type(self).pids_at_start = self.cluster.worker_pids()

    def resumed(self):
        return float(re.search(r"^octavo_streams_resumed_total(?:{.*})? (\S+)$", scrape(self.cluster.record["metrics"]),
                               re.M).group(1))

    def test_a_stream_survives_the_leader(self):
        self.hit_a_rank(0, signal.SIGKILL)

    def test_a_stream_survives_a_rank_that_hangs(self):
        self.hit_a_rank(1, signal.SIGSTOP)

    def test_scores_of_a_lost_group_fail_by_reason_and_soon(self):
        info = self.client.load(self.folders["fp8-dynamic"], 2)
        pid = {w.hello.worker_id: w.hello.pid for w in self.client.workers()}[info.worker_ids[1]]
        outcomes, ended = [], []

        def score():
            try:
                self.client.score(PROMPT * 13)
                outcomes.append("ok")
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE, error.details())
                outcomes.append(reason_of(error))
                ended.append(time.monotonic())
        threads = [threading.Thread(target=score) for _ in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: outcomes, 60, "the first score")
        os.kill(pid, signal.SIGKILL)
        hit = time.monotonic()
        for thread in threads:
            thread.join()
        self.assertEqual(set(outcomes), {"ok", "GROUP_LOST"})
        self.assertLess(max(ended) - hit, 2.0, "the failures came late")
        wait_until(lambda: len(self.cluster.worker_pids()) == 3, 20, "the dead worker was replaced")
        type(self).pids_at_start = self.cluster.worker_pids()

    # ---- what operators see ---------------------------------------------------------------------------

    def test_health_watch_says_serving(self):
        self.assertEqual(next(self.client.health()), 1)

    def test_reflection_lists_and_describes_the_services(self):
        listed = {s.name for s in self.client.reflected(list_services="").list_services_response.service}
        self.assertLessEqual({"octavo.v1.Inference", "octavo.v1.Models", "octavo.v1.Jobs", "octavo.v1.Cluster",
                              "grpc.health.v1.Health"}, listed)
        answer = self.client.reflected(file_containing_symbol="octavo.v1.Inference").file_descriptor_response
        files = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_proto]
        methods = {m.name for file in files for service in file.service for m in service.method}
        self.assertLessEqual({"Generate", "Score", "Tokenize", "Detokenize", "RenderChat"}, methods)

    def test_prometheus_scrapes_coordinator_and_workers(self):
        self.client.load(self.folders["bf16"], 1)
        self.client.complete(token_ids={"ids": PROMPT[:8]}, max_tokens=4, ignore_eos=True)
        targets = [self.cluster.record["metrics"]] + [w.hello.metrics_address for w in self.client.workers()
                                                      if w.state == "ready"]
        for target in targets:
            check = subprocess.run(["promtool", "check", "metrics"], input=scrape(target), capture_output=True,
                                   text=True, timeout=30)
            self.assertEqual((check.returncode, check.stdout + check.stderr), (0, ""), target)
        folder = self.scratch / "prometheus"
        folder.mkdir()
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: octavo\n  static_configs:\n  - targets: "
            + str(targets).replace("'", '"') + "\n")
        port = random.randrange(20000, 30000)
        with open(folder / "log", "w") as log:
            server = subprocess.Popen(
                ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            def query(expression):
                done = subprocess.run(["promtool", "query", "instant", f"http://127.0.0.1:{port}", expression],
                                      capture_output=True, text=True, timeout=10)
                return done.stdout if done.returncode == 0 else ""
            wait_until(lambda: query("count(up == 1)").startswith(f"{{}} => {len(targets)} "), 30,
                       "Prometheus scraped every target")
            wait_until(lambda: "octavo" in query("octavo_generation_tokens_total > 0"), 10, "tokens were counted")
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    unittest.main()
