"""The coordinator dies under load: its own clients take their streams up again, those of `octavo gateway` notice nothing.

What a stream says, in text and tokens, is what an undisturbed run said.
"""

import concurrent.futures
import os
import random
import signal
import threading
import time
import unittest

import grpc

from client import reason_of, scrape, total
from harness import ClusterTest, Run, wait_until
from serve_test import Gateway, Resident

SYNTH = ["--family", "llama", "--layers", 2, "--hidden", 256, "--intermediate", 512, "--heads", 4, "--kv-heads", 2,
         "--head-dim", 64, "--vocab", 320, "--max-position", 2048, "--seed", 3]
STREAMS = 32


def request(index):
    """One of many: greedy and sampled, with alternatives, stop strings and several choices."""
    draw = random.Random(index)
    return {"token_ids": {"ids": draw.choices(range(3, 250), k=draw.randrange(1, 120))}, "ignore_eos": True,
            "max_tokens": draw.randrange(450, 700), "seed": index, "temperature": (0, 0.9)[index % 2],
            "logprobs": index % 3 == 0, "top_logprobs": (0, 2)[index % 6 == 0], "stop": [["@#"], []][index % 2],
            "frequency_penalty": (0, 0.5)[index % 5 == 0], "n": (1, 2)[index % 8 == 0]}


class Stream:
    """What a client has of one request, by choice."""

    def __init__(self, client, index):
        self.client, self.index = client, index
        self.texts, self.tokens, self.ends = {}, {}, {}
        self.broken = 0

    def hear(self, responses):
        for response in responses:
            if response.HasField("delta"):
                delta = response.delta
                self.texts[delta.index] = self.texts.get(delta.index, "") + delta.text
                self.tokens.setdefault(delta.index, []).extend(
                    (t.id, t.logprob, tuple((a.id, a.logprob) for a in t.top)) for t in delta.tokens)
            else:
                self.ends[response.finished.index] = (response.finished.reason, response.finished.matched_stop,
                                                      response.finished.seed,
                                                      response.finished.usage.completion_tokens)

    def run(self, request_id="", timeout_s=60):
        """Asks, and asks for the rest for as long as the connection breaks."""
        until = time.monotonic() + timeout_s
        again = False
        while True:
            try:
                self.hear(self.client.resume(request_id, self.counts()) if again else
                          self.client.generate(request_id=request_id, **request(self.index)))
                return self
            except grpc.RpcError as error:
                # One that died before it reached a leader is known to nobody.
                unknown = error.code() == grpc.StatusCode.NOT_FOUND and not self.tokens
                gone = error.code() == grpc.StatusCode.UNAVAILABLE
                if not request_id or not (gone or unknown) or time.monotonic() > until:
                    raise
                self.broken += reason_of(error) == ""
                again = self.broken > 0 and not unknown
            time.sleep(0.05)

    def counts(self):
        return [len(self.tokens.get(choice, [])) for choice in range(request(self.index)["n"])]

    def told(self):
        return self.texts, self.tokens, self.ends


class TakeoverTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = cls.synth("model", *SYNTH)
        cls.cluster = Resident(cls.scratch, workers=3)
        cls.addClassCleanup(cls.cluster.stop)
        cls.model = cls.cluster.client.load(cls.folder, 2)
        with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
            cls.undisturbed = [s.told() for s in pool.map(lambda i: Stream(cls.cluster.client, i).run(), range(STREAMS))]
        assert all(text for texts, _, _ in cls.undisturbed for text in texts.values())

    def kill_coordinator(self):
        self.assertEqual(self.cluster.run.kill("octavo-coordinator"), 1)

    def figure(self, name):
        return total(scrape(self.cluster.record["metrics"]), name)

    def model_now(self):
        try:
            return next((m for m in self.cluster.client.models() if m.state == "ready"), None)
        except grpc.RpcError:
            return None

    def disturb(self, client, request_ids, hit, hits=2):
        """All streams at once, and among them what `hit` does, so many times. Returns the streams."""
        streams = [Stream(client, i) for i in range(STREAMS)]
        tokens = lambda told: sum(len(choice) for _, by_choice, _ in told for choice in list(by_choice.values()))
        share = tokens(self.undisturbed) // (hits + 1)
        with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
            runs = [pool.submit(s.run, request_ids(s.index)) for s in streams]
            for number in range(hits):
                # At a share of the work, so that it comes among streams however fast they are.
                wait_until(lambda due=share * (number + 1): tokens([s.told() for s in streams]) >= due, 30, "tokens came")
                self.assertTrue(number > 0 or not all(run.done() for run in runs), "streams ended before the fault")
                hit()
                wait_until(self.model_now, 20, "a coordinator that knows the model")
                if number + 1 < hits:
                    time.sleep(0.3)
            for run in runs:
                run.result(60)
        for index, stream in enumerate(streams):
            self.assertEqual(stream.told(), self.undisturbed[index], index)
        return streams

    def test_streams_of_a_dead_coordinator_are_taken_up_again(self):
        epoch = self.model_now().group_epoch
        recoveries = self.figure("octavo_coordinator_recoveries_total")
        streams = self.disturb(self.cluster.client, lambda index: f"again-{index}", self.kill_coordinator)
        self.assertGreater(sum(s.broken for s in streams), STREAMS // 2)
        self.assertEqual(self.figure("octavo_coordinator_recoveries_total") - recoveries, 2)
        self.assertGreater(self.figure("octavo_coordinator_recovery_seconds"), 0)
        # The group is the one that served before: nothing was loaded again.
        self.assertEqual(self.model_now().group_epoch, epoch)

    def pause_coordinator(self, seconds=3):
        self.assertEqual(self.cluster.run.kill("octavo-coordinator", signal.SIGSTOP), 1)
        time.sleep(seconds)
        self.assertEqual(self.cluster.run.kill("octavo-coordinator", signal.SIGCONT), 1)

    def test_a_coordinator_that_stood_still_takes_nobody_for_lost(self):
        epoch, lost = self.model_now().group_epoch, self.figure("octavo_workers_lost_total")
        streams = self.disturb(self.cluster.client, lambda index: f"paused-{index}", self.pause_coordinator, 1)
        self.assertEqual(sum(s.broken for s in streams), 0)
        self.assertEqual(self.model_now().group_epoch, epoch)
        self.assertEqual(self.figure("octavo_workers_lost_total"), lost)

    def test_a_chat_asks_for_the_rest_of_its_answer(self):
        ask = ["chat", "--target", self.cluster.record["address"], "--message", "Tell me more.", "--seed", 4,
               "--temperature", 0.9, "--max-tokens", 1500, "--min-tokens", 1500]
        token = {"OCTAVO_TOKEN": self.cluster.record["token"]}
        expected = self.run_ok(*ask, env=token).stdout()
        size = len(expected.encode())
        run = Run(*ask, env=token)
        for part in (0.2, 0.6):
            # Not by reading: the file's offset is the program's, too.
            wait_until(lambda due=part * size: os.fstat(run.out.fileno()).st_size >= due, 30, "text came")
            self.assertIsNone(run.process.poll(), "the answer ended before the fault")
            self.kill_coordinator()
        self.assertEqual(run.wait(60), 0, run.stderr())
        wait_until(self.model_now, 20, "a coordinator that knows the model")
        self.assertEqual(run.stdout(), expected)
        self.assertIn("the connection broke", run.stderr())

    def kill_coordinator_and_leader(self):
        leader = self.model_now().worker_ids[0]
        pid = next(w.hello.pid for w in self.cluster.client.workers() if w.hello.worker_id == leader)
        self.kill_coordinator()
        os.kill(pid, signal.SIGKILL)

    def through_a_gateway(self, hit, hits):
        gateway = Gateway(self.cluster)
        try:
            streams = self.disturb(gateway.client, lambda index: "", hit, hits)
            self.assertEqual(sum(s.broken for s in streams), 0)
            self.assertEqual([m.model_id for m in gateway.client.models()], [self.model.model_id])
            with self.assertRaises(grpc.RpcError) as refused:
                gateway.client.load(self.folder)
            self.assertEqual(reason_of(refused.exception), "UNSUPPORTED")
        finally:
            gateway.stop()

    def test_streams_of_a_gateway_notice_nothing(self):
        epoch = self.model_now().group_epoch
        self.through_a_gateway(self.kill_coordinator, 2)
        self.assertEqual(self.model_now().group_epoch, epoch)

    def test_streams_of_a_gateway_outlive_coordinator_and_leader(self):
        epoch = self.model_now().group_epoch
        self.through_a_gateway(self.kill_coordinator_and_leader, 1)
        self.assertGreater(self.model_now().group_epoch, epoch)

    def test_a_worker_that_hangs_when_the_coordinator_dies_is_replaced(self):
        pids = self.cluster.worker_pids()
        os.kill(pids[0], signal.SIGSTOP)
        self.kill_coordinator()
        wait_until(self.model_now, 20, "a coordinator that knows the model")
        wait_until(lambda: len(set(self.cluster.worker_pids()) - {pids[0]}) == 3, 20, "another worker")

    def test_a_request_that_nobody_remembers(self):
        time.sleep(5.5)  # workers of a young coordinator may still be attaching
        for model in ["", "model"]:
            with self.assertRaises(grpc.RpcError) as unknown:
                list(self.cluster.client.resume("nobody's", [3], model=model))
            self.assertEqual((unknown.exception.code(), reason_of(unknown.exception)),
                             (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"))

    def test_the_later_stream_of_a_request_is_the_one_that_goes_on(self):
        first, second = Stream(self.cluster.client, 1), Stream(self.cluster.client, 1)
        outcome = []

        def ask():
            try:
                first.hear(self.cluster.client.generate(request_id="twice", **request(1)))
            except grpc.RpcError as error:
                outcome.append((error.code(), reason_of(error)))
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: len(first.tokens.get(0, [])) > 10, 20, "tokens came")
        second.hear(self.cluster.client.resume("twice", [0]))
        thread.join()
        self.assertEqual(outcome, [(grpc.StatusCode.ABORTED, "BUSY")])
        self.assertEqual(second.told(), self.undisturbed[1])
        # It has ended, and can still be asked for.
        third = Stream(self.cluster.client, 1)
        third.hear(self.cluster.client.resume("twice", [5]))
        self.assertEqual(third.tokens[0], self.undisturbed[1][1][0][5:])


if __name__ == "__main__":
    unittest.main()
