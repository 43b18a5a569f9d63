#!/usr/bin/env python3
"""Greedy texts of folders as Octavo serves them: one JSON job a line on standard input, one JSON answer a line.

A job is {"folder", "prompts" (lists of ids), "tokens", "tp"} and, where it likes, "settings", more fields of GenerateRequest
(as {"field": value}, ids of logit_bias as text); its answer {"ids": a list for each prompt, "top": for each
prompt and token the 20 most likely [id, log probability] over the raw logits, best first}. A real cluster is asked over
gRPC, for which this runs in Debian's own Python, not in the oracles' environments; Environment: OCTAVO_BIN_DIR.
"""

import json
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))

from client import Client, cluster_record
from harness import Run, wait_until

TOP = 20  # as many as a request may ask for


def answer(client, job):
    info = client.load(job["folder"], job["tp"])
    settings = dict({"ignore_eos": True}, **job.get("settings", {}))
    settings["logit_bias"] = {int(token): bias for token, bias in settings.get("logit_bias", {}).items()}
    ids, top = [], []
    for prompt in job["prompts"]:
        tokens = []
        for response in client.generate(token_ids={"ids": prompt}, max_tokens=job["tokens"], logprobs=True, top_logprobs=TOP,
                                        **settings):
            tokens += response.delta.tokens
        assert len(tokens) == job["tokens"] or "stop_token_ids" in settings, len(tokens)
        ids.append([token.id for token in tokens])
        top.append([[[one.id, one.logprob] for one in token.top] for token in tokens])
    client.unload(info.model_id)
    return {"ids": ids, "top": top}


def main():
    jobs = [json.loads(line) for line in sys.stdin]
    state = pathlib.Path(tempfile.mkdtemp(prefix="octavo-served-"))
    run = Run("up", "--foreground", "--workers", max(job["tp"] for job in jobs), "--state", state)
    try:
        wait_until(lambda: (state / "cluster.json").exists() or run.process.poll() is not None, 30, "the cluster came up")
        assert run.process.poll() is None, run.stderr()
        record = cluster_record(state)
        client = Client(record["address"], record["token"])
        for job in jobs:
            print(json.dumps(answer(client, job)), flush=True)
    finally:
        run.process.terminate()
        run.wait(30)
        shutil.rmtree(state)


if __name__ == "__main__":
    main()
