"""Requests that nobody would send, to every service of a real cluster: gateway, models, jobs, workers' streams, engine.

Every answer is right in itself, or a status with a reason of the table (docs/interfaces.md); no process dies; what was under way
ends; and the cluster answers afterwards as before. OCTAVO_FUZZ_SECONDS says for how long (6), OCTAVO_FUZZ_SEED which requests (1).
With programs built by preset asan, their sanitizers watch too (OCTAVO_BIN_DIR=build/asan/bin).
"""

import collections
import math
import os
import random
import re
import threading
import time
import unittest

import grpc

from client import SOURCE_DIR, Client, pb, reason_of, scrape
from harness import ClusterTest, wait_until
from mutate import mutant
from serve_test import Resident

SECONDS = float(os.environ.get("OCTAVO_FUZZ_SECONDS", "6"))
SEED = int(os.environ.get("OCTAVO_FUZZ_SEED", "1"))
THREADS, LEAST = 6, 150  # requests of each thread, however slow the machine
VOCAB, MODEL_LEN = 320, 512
MESSAGE_MAX = 80 << 20  # kGrpcMessageBytesMax: more is refused by gRPC before anything of ours sees it
SYNTH = ["--family", "llama", "--layers", 2, "--hidden", 128, "--intermediate", 256, "--heads", 4, "--kv-heads", 2,
         "--head-dim", 32, "--vocab", VOCAB, "--max-position", MODEL_LEN, "--seed", 3]
REASONS = {line.split("`")[1] for line in (SOURCE_DIR / "docs" / "interfaces.md").read_text().splitlines()
           if line.startswith("| `") and line.count("|") == 7}
# What gRPC itself says, on either side, of a call whose time is up.
OF_GRPC = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
inference, engine, job, workers = pb["inference"], pb["engine"], pb["job"], pb["cluster"]


class Target:
    """A method, a good request of it, and what must hold of a good answer."""

    def __init__(self, method, request, response, check=lambda answers: None, streams=False, at_leader=False, both_ways=False):
        self.method, self.request, self.response = f"/octavo.v1.{method}", request, response
        self.check, self.streams, self.at_leader, self.both_ways = check, streams, at_leader, both_ways

    def call(self, channel, metadata, data, timeout_s):
        """The bytes of all answers."""
        if self.both_ways:  # one message up, then silence
            return list(channel.stream_stream(self.method)(iter([data]), timeout=timeout_s, metadata=metadata))
        if self.streams:
            return list(channel.unary_stream(self.method)(data, timeout=timeout_s, metadata=metadata))
        return [channel.unary_unary(self.method)(data, timeout=timeout_s, metadata=metadata)]


def check_ids(ids):
    assert all(0 <= i < VOCAB for i in ids), ids


def check_tokens(tokens):
    check_ids([t.id for t in tokens] + [t.id for token in tokens for t in token.top])
    assert all(-math.inf < t.logprob <= 0 for token in tokens for t in [token, *token.top]), tokens


def check_generation(answers):
    ended = [a.finished for a in answers if a.HasField("finished")]
    assert ended and sorted(e.index for e in ended) == list(range(len(ended))), "not every choice ended"
    for answer in answers:
        check_tokens(answer.delta.tokens)
        check_tokens(answer.delta.prompt_tokens)
    for end in ended:
        assert end.reason in (1, 2, 3, 4) and end.usage.completion_tokens <= MODEL_LEN, end


def check_scores(answers):
    scores = answers[0].logprobs
    assert all(-math.inf < s <= 0 for s in scores) and math.isfinite(answers[0].nll_sum), answers
    assert not answers[0].digests or len(answers[0].digests) == len(scores) + 1


def check_load(answers):
    assert answers[-1].state in ("ready", "failed") and (answers[-1].state == "ready" or answers[-1].failure.reason in REASONS), answers


def check_step(answers):
    assert all(a.failure.reason in REASONS for a in answers), answers


def check_ended(answers):
    assert 1 <= answers[-1].state <= 6 and (answers[-1].state != 5 or answers[-1].failure.reason in REASONS), answers


def job_request(nowhere):
    """Of a job that has no source: whatever becomes of its paths, nothing is written."""
    fp8 = pb["recipe"].NUMERIC_FP8_E4M3
    scheme = dict(weight=dict(type=fp8, granularity=pb["recipe"].PER_CHANNEL),
                  input=dict(type=fp8, granularity=pb["recipe"].PER_TOKEN, dynamic=True))
    recipe = dict(name="a", dialect="compressed-tensors", rules=[dict(scheme=scheme, algorithm=pb["recipe"].ABSMAX)])
    return job.SubmitJobRequest(idempotency_key="k", quantize=dict(source_dir=nowhere, output_dir=nowhere + "-out", recipe=recipe))


def of_jobs_and_workers(job_id, nowhere):
    """Workers that nobody started leave at once."""
    hello = dict(worker_id="nobody", engine_address="127.0.0.1:1", metrics_address="127.0.0.1:1", memory_bytes=1 << 30, thread_count=1)
    return [
        Target("Jobs/Submit", job_request(nowhere), job.Job, check_ended),
        Target("Jobs/Get", job.GetJobRequest(id=job_id), job.Job, check_ended),
        Target("Jobs/List", job.ListJobsRequest(), job.ListJobsResponse),
        Target("Jobs/Watch", job.WatchJobRequest(id=job_id, interval_ms=20), job.Job, check_ended, streams=True),
        Target("Jobs/Cancel", job.CancelJobRequest(id=job_id), job.Job, check_ended),
        Target("Cluster/ListWorkers", workers.ListWorkersRequest(), workers.ListWorkersResponse),
        Target("Cluster/Drain", workers.DrainWorkerRequest(worker_id="nobody"), workers.WorkerInfo),
        Target("Cluster/Undrain", workers.DrainWorkerRequest(worker_id="nobody"), workers.WorkerInfo),
        Target("Coordinator/Attach", workers.Report(hello=hello), workers.Directive, both_ways=True),
        Target("Engine/Follow", engine.Step(group_epoch=3, index=1, chunks=[dict(sequence=1, tokens=[5, 6], blocks=[0])]),
               engine.StepDone, check_step, at_leader=True, both_ways=True),
        Target("Engine/Logits", engine.EngineScoreRequest(ids=[5, 9, 17], chunk=2), pb["compare"].LogitRows, streams=True,
               at_leader=True),
        Target("Engine/GetTokenLog", pb["token_log"].GetTokenLogRequest(request_id="a"), pb["token_log"].LoggedRequest, at_leader=True)]


def targets(folder):
    ids = {"ids": [5, 9, 17, 40, 77]}
    chat = {"messages": [{"role": "user", "content": "How are you?"}]}
    common = dict(model="model", max_tokens=8, temperature=0.7, seed=4)
    generate = [dict(prompt="Once upon a time", logprobs=True, top_logprobs=3, stop=["zq"], **common),
                dict(token_ids=ids, n=3, logit_bias={7: 1.5}, prompt_logprobs=True, min_p=0.1, top_k=9, **common),
                dict(chat=chat, request_id="a", repetition_penalty=1.1, min_tokens=2, stop_token_ids=[3], priority=1, **common)]
    of_generate = (inference.GenerateResponse, check_generation, True)
    found = [Target("Inference/Generate", inference.GenerateRequest(**fields), *of_generate) for fields in generate] * 2
    found += [
        Target("Inference/Score", inference.ScoreRequest(model="model", token_ids=ids, want_digests=True, chunk=3),
               inference.ScoreResponse, check_scores),
        Target("Inference/Score", inference.ScoreRequest(model="model", text="Once upon a time"), inference.ScoreResponse, check_scores),
        Target("Inference/Tokenize", inference.TokenizeRequest(model="model", text="Once upon a time"), inference.TokenizeResponse,
               lambda answers: check_ids(answers[0].ids)),
        Target("Inference/Detokenize", inference.DetokenizeRequest(model="model", **ids), inference.DetokenizeResponse),
        Target("Inference/RenderChat", inference.RenderChatRequest(model="model", chat=chat), inference.RenderChatResponse,
               lambda answers: check_ids(answers[0].ids)),
        Target("Inference/Abort", inference.AbortRequest(request_id="a"), inference.AbortResponse),
        Target("Models/Load", inference.LoadModelRequest(model_dir=str(folder), model_id="other", max_model_len=64), inference.ModelInfo,
               check_load, streams=True),
        Target("Models/Unload", inference.UnloadModelRequest(model_id="other"), inference.UnloadModelResponse),
        Target("Inference/Compare", pb["compare"].CompareRequest(model="model", reference="other", token_ids=ids, layers=True),
               pb["compare"].Comparison),
        Target("Inference/Nothing", inference.AbortRequest(request_id="a"), inference.AbortResponse),
        Target("Engine/Generate", engine.EngineRequest(prompt=ids["ids"], max_tokens=5, logprobs=2, want_logprob=True, stop_ids=[3],
                                                       sampling=dict(temperature=1, top_p=0.9, seed=3, logit_bias={5: -2})),
               engine.EngineEvent, lambda answers: [check_tokens(a.tokens) for a in answers], streams=True, at_leader=True),
        Target("Engine/Score", engine.EngineScoreRequest(ids=ids["ids"], chunk=2), engine.EngineScoreResponse, check_scores,
               at_leader=True),
        Target("Engine/GetArtifact", engine.GetArtifactRequest(name="tokenizer.json"), engine.ArtifactChunk, streams=True,
               at_leader=True)]
    return found


class Stall(threading.Thread):
    """For how long in all this process did not come to run: other threads changing enormous messages, a busy machine."""

    TICK = 0.02

    def __init__(self):
        super().__init__(daemon=True)
        self.seconds = 0.0
        self.start()

    def run(self):
        while True:
            before = time.monotonic()
            time.sleep(self.TICK)
            self.seconds += time.monotonic() - before - self.TICK


class FuzzTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = cls.synth("other", *SYNTH)  # its name is what a load without an id takes
        cls.reports = cls.scratch / "sanitizer"
        os.environ["ASAN_OPTIONS"] = f"log_path={cls.reports}"
        os.environ["UBSAN_OPTIONS"] = f"print_stacktrace=1:log_path={cls.reports}"
        cls.addClassCleanup(cls.assert_nothing_reported)  # when the cluster has stopped: leaks are told at the end
        cls.cluster = Resident(cls.scratch, workers=3, memory="192MiB")
        cls.addClassCleanup(cls.cluster.stop)
        cls.model = cls.cluster.client.load(cls.folder, 2, model_id="model", max_batched_tokens=128)
        nowhere = str(cls.scratch / "nowhere")
        submitted = cls.cluster.client.unary("Jobs/Submit", job_request(nowhere), job.Job)
        cls.stall = Stall()
        cls.aims = targets(cls.folder) + of_jobs_and_workers(submitted.id, nowhere)

    @classmethod
    def assert_nothing_reported(cls):
        """Children write into their logs, whatever the environment says."""
        logs = [path.read_text(errors="replace") for path in [*cls.scratch.glob("sanitizer*"), *cls.cluster.state.glob("*.log")]]
        found = [log[match.start():][:3000] for log in logs if (match := re.search(r"runtime error:|ERROR: \w+Sanitizer", log))]
        assert not found, "\n".join(found)

    def known(self):
        """What plain requests give."""
        client = self.cluster.client
        ids = random.Random(1).choices(range(3, VOCAB), k=70)
        text, tokens, _ = client.complete(model="model", prompt="Once upon a time", max_tokens=40, ignore_eos=True)
        request = inference.ScoreRequest(model="model", token_ids={"ids": ids}, want_digests=True)
        scores = client.unary("Inference/Score", request, inference.ScoreResponse)
        return text, tokens, [(d.low, d.high) for d in scores.digests]

    def gauges(self):
        """Everything that says that something is still under way."""
        client, found = self.cluster.client, collections.Counter()
        addresses = [self.cluster.record["metrics"]] + [w.hello.metrics_address for w in client.workers() if w.state == "ready"]
        for address in addresses:
            for line in scrape(address).splitlines():
                name = line.split("{")[0].split(" ")[0]
                if name in ("octavo_requests_in_flight", "octavo_engine_requests_running", "octavo_engine_requests_waiting",
                            "octavo_kv_cache_usage_ratio"):
                    found[name] += float(line.split()[-1])
        assert len(found) == 4, found
        return found

    def fuzz(self, number, until, outcomes, wrong):
        draw = random.Random(f"{SEED} {number}")
        address = {False: self.cluster.record["address"], True: self.model.leader_address}
        client = {at_leader: Client(where, self.cluster.record["token"]) for at_leader, where in address.items()}
        aims = self.aims
        asked = 0
        while (time.monotonic() < until or asked < LEAST) and not wrong:
            asked += 1
            aim = draw.choice(aims)
            data = mutant(draw, aim.request)
            timeout_s = draw.choice([0, 0.003, 0.1, 5, 5, 5, 5])
            metadata = client[aim.at_leader].metadata if draw.random() > 0.01 else [("authorization", "Bearer wrong")]
            start, stalled = time.monotonic(), self.stall.seconds
            try:
                answers = [aim.response.FromString(a) for a in aim.call(client[aim.at_leader].channel, metadata, data, timeout_s)]
                aim.check(answers)
                outcome = "OK"
            except grpc.RpcError as error:
                outcome = reason_of(error) or f"{error.code().name} of gRPC"
                too_large = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and len(data) > MESSAGE_MAX
                if outcome not in REASONS and error.code() not in OF_GRPC and not too_large:
                    wrong.append((aim.method, error.code(), error.details(), data[:2000]))
                if outcome == "INTERNAL":
                    wrong.append((aim.method, "INTERNAL is a bug", error.details(), data[:2000]))
            except AssertionError as error:
                outcome = "a wrong answer"
                wrong.append((aim.method, outcome, error, data[:2000]))
            took, stalled = time.monotonic() - start, self.stall.seconds - stalled
            if took > timeout_s + 5 + stalled:
                wrong.append((aim.method, f"{outcome} came late", took, timeout_s, stalled, data[:2000]))
            outcomes[aim.method.split(".")[-1], outcome] += 1
            if number == 0 and asked % 10 == 0:
                self.make_room(wrong)

    def make_room(self, wrong):
        """Unloads what was loaded under names that nobody will ask for again: one worker is there for all of them."""
        try:
            for model in self.cluster.client.models():
                if model.model_id not in ("model", "other"):
                    self.cluster.client.unload(model.model_id)
        except grpc.RpcError as error:
            if reason_of(error) not in REASONS:
                wrong.append(("make room", error.code(), error.details()))

    def test_no_request_breaks_anything(self):
        expected, pids = self.known(), self.cluster.worker_pids()
        outcomes, wrong = collections.Counter(), []
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=self.fuzz, args=(i, until, outcomes, wrong)) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for (method, outcome), count in sorted(outcomes.items()):
            print(f"{count:7} {method:22} {outcome}")
        print(f"{sum(outcomes.values())} requests, seed {SEED}, {SECONDS:g} s")
        if wrong:  # what died said why
            print(self.cluster.run.stderr()[-2000:])
            for log in self.cluster.state.glob("*.log"):
                print(f"== {log.name}\n{log.read_text(errors='replace')[-3000:]}")
        self.assertEqual(wrong[:3], [])
        self.assertEqual(self.cluster.worker_pids(), pids, "a worker died")
        wait_until(lambda: sum(self.gauges().values()) == 0, 30, f"everything ends {self.gauges()}")
        self.assertEqual(self.known(), expected)
        rarely = {"Inference/Nothing", "Inference/Compare", "Models/Load", "Cluster/Drain", "Cluster/Undrain", "Engine/GetTokenLog"}
        for method in {aim.method.split(".")[-1] for aim in self.aims} - rarely:
            self.assertGreater(outcomes[method, "OK"], 0, f"{method} was never right")


if __name__ == "__main__":
    unittest.main()
