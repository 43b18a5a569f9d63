"""`octavo bench serve` on real processes: what it counts is what the coordinator counted."""

import http.server
import json
import re
import threading
import time
import unittest

from client import scrape
from harness import ClusterTest
from serve_test import Resident

SYNTH = ["--family", "llama", "--layers", 2, "--hidden", 256, "--intermediate", 512, "--heads", 4, "--kv-heads", 2,
         "--head-dim", 64, "--vocab", 320, "--max-position", 512, "--seed", 3]
LATENCIES = ["time_to_first_token", "inter_token", "time_per_token", "whole_request"]


class Peer(http.server.BaseHTTPRequestHandler):
    """What OpenAI-style servers have in common; prompts longer than 100 ids are refused."""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/completions" and asked["stream"] and asked["ignore_eos"], asked
        if len(asked["prompt"]) > 100:
            self.send_response(400)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"no\n")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token in range(asked["max_tokens"]):
            time.sleep(0.01)
            last = token + 1 == asked["max_tokens"]
            self.event({"choices": [{"text": "x", "finish_reason": "length" if last else None}]})
        self.event({"choices": [], "usage": {"prompt_tokens": len(asked["prompt"]),
                                             "completion_tokens": asked["max_tokens"]}})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, value):
        self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_):
        pass


class LoadTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = cls.synth("model", *SYNTH)
        cls.cluster = Resident(cls.scratch, workers=1)
        cls.addClassCleanup(cls.cluster.stop)
        cls.there = ["--coordinator", cls.cluster.record["address"], "--token-file", cls.scratch / "token", "--json"]
        (cls.scratch / "token").write_text(cls.cluster.record["token"])
        cls.cluster.client.load(cls.folder)

    def sampled(self):
        """Tokens that the coordinator says were generated."""
        text = scrape(self.cluster.record["metrics"])
        return sum(float(value) for value in re.findall(r"^octavo_generation_tokens_total(?:\{.*\})? (\S+)$", text, re.M))

    def test_a_closed_loop_counts_what_the_coordinator_counted(self):
        before = self.sampled()
        result = self.run_ok("bench", "serve", "--requests", 12, "--input-tokens", 30, "--output-tokens", 20,
                             "--spread", 0.5, "--clients", 3, *self.there).result()
        self.assertEqual((result["answered"], result["failed"], result["clients"]), (12, {}, 3))
        self.assertGreaterEqual(result["input_tokens"], 12 * 15)
        self.assertLessEqual(result["input_tokens"], 12 * 45)
        self.assertEqual(self.sampled() - before, result["output_tokens"])
        self.assertAlmostEqual(result["requests_per_second"], 12 / result["seconds"], delta=1e-6)
        for name in LATENCIES:
            latency = result[f"{name}_seconds"]
            self.assertLess(0, latency["p50"], name)
            self.assertLessEqual(latency["p50"], latency["p99"], name)
            self.assertLessEqual(latency["p99"], latency["max"], name)
        self.assertLess(result["time_to_first_token_seconds"]["max"], result["whole_request_seconds"]["max"])

    def test_an_open_loop_keeps_its_times_and_says_what_failed(self):
        result = self.run_ok("bench", "serve", "--requests", 10, "--input-tokens", 8, "--output-tokens", 4, "--rate", 10,
                             "--goal-first-token-ms", 60_000, *self.there).result()
        self.assertEqual((result["answered"], result["failed"]), (10, {}))
        self.assertAlmostEqual(result["goodput"], result["requests_per_second"], delta=1e-9)
        self.assertGreater(result["seconds"], 0.3)
        # Longer than the model takes: refused by name, and the load goes on.
        result = self.run_ok("bench", "serve", "--requests", 3, "--input-tokens", 600, *self.there).result()
        self.assertEqual((result["answered"], result["failed"]), (0, {"BAD_REQUEST": 3}))

    def test_an_http_server_is_loaded_by_the_same_clients(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Peer)
        self.addCleanup(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)
        there = ["--http", f"http://127.0.0.1:{server.server_port}", "--json"]
        result = self.run_ok("bench", "serve", "--requests", 6, "--input-tokens", 40, "--output-tokens", 5,
                             "--clients", 2, *there).result()
        self.assertEqual((result["answered"], result["failed"]), (6, {}))
        self.assertEqual((result["input_tokens"], result["output_tokens"]), (240, 30))
        self.assertGreater(result["inter_token_seconds"]["p50"], 0.009)
        self.assertGreater(result["whole_request_seconds"]["p50"], 0.049)
        result = self.run_ok("bench", "serve", "--requests", 2, "--input-tokens", 101, *there).result()
        self.assertEqual((result["answered"], result["failed"]), (0, {"HTTP 400": 2}))
        result = self.run_ok("bench", "serve", "--requests", 1, "--output-tokens", 1000, "--input-tokens", 5,
                             "--timeout", 0.5, *there).result()
        self.assertEqual((result["answered"], result["failed"]), (0, {"DEADLINE": 1}))
        server.shutdown()
        server.server_close()
        result = self.run_ok("bench", "serve", "--requests", 1, *there).result()
        self.assertEqual((result["answered"], result["failed"]), (0, {"UNREACHABLE": 1}))


if __name__ == "__main__":
    unittest.main()
