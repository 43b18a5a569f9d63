#!/usr/bin/env python3
"""Tokens and log probabilities of a folder as Octavo serves it: one JSON question a line on standard input, one JSON answer a line.

{"text": ...} gives {"ids"}, without special tokens; {"ids": [...]} gives {"logprobs"}, of each id after the first (`Score`). The
first line out is {"max_model_len"}. A real cluster is asked over gRPC, for which this runs in Debian's own Python, not in the
oracles' environments. Environment: OCTAVO_BIN_DIR.

usage: served_scores.py FOLDER [TENSOR_PARALLEL]
"""

import json
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))

from client import Client, cluster_record, pb
from harness import Run, wait_until

inference = pb["inference"]


def answer(client, question):
    if "text" in question:
        request = inference.TokenizeRequest(text=question["text"], omit_special_tokens=True)
        return {"ids": list(client.unary("Inference/Tokenize", request, inference.TokenizeResponse).ids)}
    request = inference.ScoreRequest(token_ids={"ids": question["ids"]})
    return {"logprobs": list(client.unary("Inference/Score", request, inference.ScoreResponse).logprobs)}


def main():
    folder, ranks = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    state = pathlib.Path(tempfile.mkdtemp(prefix="octavo-scores-"))
    run = Run("up", "--foreground", "--workers", ranks, "--state", state)
    try:
        wait_until(lambda: (state / "cluster.json").exists() or run.process.poll() is not None, 30, "the cluster came up")
        assert run.process.poll() is None, run.stderr()
        record = cluster_record(state)
        client = Client(record["address"], record["token"])
        print(json.dumps({"max_model_len": client.load(folder, ranks).max_model_len}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(client, json.loads(line))), flush=True)
    finally:
        run.process.terminate()
        run.wait(30)
        shutil.rmtree(state)


if __name__ == "__main__":
    main()
