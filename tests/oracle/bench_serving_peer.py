#!/usr/bin/env python3
"""Serving one folder: Octavo against vLLM on the same processors, load by load in turn, by the clients of `octavo bench serve`.

vLLM is started as its own documentation tunes it for CPUs (tcmalloc and Intel's OpenMP preloaded, threads bound), without its
prefix cache; it is stopped (SIGSTOP) while Octavo is measured, and Octavo idles while vLLM is. Octavo: one worker with all
processors. Both get the same requests, of random ids. What is compared: one client's time per token, the time to the first token of a
long prompt, tokens a second of 8 and of 32 clients.

usage: bench_serving_peer.py DIR [--rounds N] [--octavo-dir DIR]
Run with the environment of install_vllm.sh; Debian's libtcmalloc-minimal4 must be there. Environment: as smol.py.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import smol

# What it is called, clients, requests, tokens in, tokens out, and the figure, of which more is better.
LOADS = [
    ("decode, one client: tokens/s", 1, 3, 32, 128, lambda r: 1 / r["time_per_token_seconds"]["p50"]),
    ("prompt of 1,920 tokens: tokens/s", 1, 3, 1920, 2, lambda r: 1920 / r["time_to_first_token_seconds"]["p50"]),
    ("8 clients, 32 in, 128 out: tokens/s", 8, 8, 32, 128, lambda r: r["output_tokens_per_second"]),
    ("32 clients, 256 in, 128 out: tokens/s", 32, 32, 256, 128, lambda r: r["output_tokens_per_second"]),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def vllm(folder, log):
    """A running server's URL and process group."""
    port, site = free_port(), pathlib.Path(sys.prefix)
    preload = ["/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4", str(site / "lib/libiomp5.so")]
    for library in preload:
        assert os.path.exists(library), library
    env = dict(os.environ, LD_PRELOAD=":".join(preload), VLLM_CPU_KVCACHE_SPACE="4", VLLM_NO_USAGE_STATS="1",
               VLLM_CPU_OMP_THREADS_BIND=f"0-{os.cpu_count() - 1}", HF_HUB_OFFLINE="1", VLLM_LOGGING_LEVEL="WARNING")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1", "--port",
               str(port), "--max-model-len", "2048", "--dtype", "bfloat16", "--no-enable-prefix-caching"]
    server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 600
        while True:
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200:
                    break
            assert server.poll() is None and time.monotonic() < until, f"vLLM did not start: {log.name}"
            time.sleep(1)
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.contextmanager
def octavo(folder, state):
    """Arguments that reach a cluster which serves the folder."""
    smol.octavo("up", "--workers", 1, "--memory", "6GiB", "--state", state, capture_output=True)
    try:
        record = json.loads((state / "cluster.json").read_text())
        (state / "token").write_text(record["token"])
        there = ["--coordinator", record["address"], "--token-file", state / "token"]
        smol.octavo("serve", folder, "--max-model-len", 2048, *there, capture_output=True)
        yield there
    finally:
        smol.octavo("down", "--state", state, capture_output=True)


def load(shape, there, seed):
    _, clients, requests, inside, out, figure = shape
    done = smol.octavo("bench", "serve", "--clients", clients, "--requests", requests, "--input-tokens", inside,
                       "--output-tokens", out, "--timeout", 600, "--seed", seed, "--json", *there, capture_output=True)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["answered"] == requests and result["output_tokens"] == requests * out, result
    return figure(result)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--octavo-dir", type=pathlib.Path, help="another folder for Octavo")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, open(pathlib.Path(scratch) / "vllm.log", "w") as log, \
            octavo(args.octavo_dir or args.dir, pathlib.Path(scratch) / "state") as ours, vllm(args.dir, log) as (url, group):
        theirs = ["--http", url, "--model", args.dir]
        for shape in LOADS:
            for there in (ours, theirs):  # what a server does for the first time only
                load((*shape[:2], min(2, shape[2]), *shape[3:]), there, 999)
            seen = {"octavo": [], "vllm": []}
            for seed in range(args.rounds):  # of its own each: nothing is in a cache of prefixes
                os.killpg(group, signal.SIGSTOP)
                try:
                    seen["octavo"].append(load(shape, ours, seed))
                finally:
                    os.killpg(group, signal.SIGCONT)
                seen["vllm"].append(load(shape, theirs, seed))
            ratio = statistics.median(seen["octavo"]) / statistics.median(seen["vllm"])
            rounds = {name: ", ".join(f"{value:.1f}" for value in values) for name, values in seen.items()}
            print(f"| {shape[0]} | {rounds['octavo']} | {rounds['vllm']} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
