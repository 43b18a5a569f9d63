#!/usr/bin/env python3
"""Which programs read what Octavo writes: a row per recipe, dialect and family, a column per reader.

Small random models of every family, wide enough that every part of a layer moves the NLL (tiny_models.py), are quantized by
real clusters. Each reader (readers.py, in its own environment) loads the folder as it is and computes the NLL of the same
windows; Octavo's own serving is what it is held against. A difference is the mean over windows of its magnitude (signs
would cancel: these models know nothing). Folders that were read rightly gave 0.001 to 0.015, codes used without their scales
0.15 to 0.19; 0.04 is the limit.

usage: table_readers.py [--venv READER=DIR]... [--family NAME]... [--recipe NAME]... [--json FILE]
Readers without --venv are left out; safetensors and transformers run in this environment (install.sh), vllm in that of
install_vllm.sh, quark in that of install_peers.sh. Environment: as smol.py.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import torch

import smol
import tiny_models

BAR = 0.04
LENGTH, WINDOWS = 96, 8
WEIGHTS = "{type: fp8, scale: tensor}"
RULE = "rules:\n  - {weight: %s, input: %s}\n"
CALIBRATION = "calibration: {observer: absmax, samples: 24, sample_length: 96}\n"
STATIC = RULE % (WEIGHTS, WEIGHTS) + CALIBRATION
BLOCK = RULE % ("{type: fp8, scale: block, block: [128, 128]}", "{type: fp8, scale: group, group: 128}")
# recipe: (dialects, body)
RECIPES = {
    "fp8-dynamic": (["compressed-tensors"], RULE % ("{type: fp8, scale: channel}", "{type: fp8, scale: token}")),
    "fp8-weight-only": (["compressed-tensors"], RULE % ("{type: fp8, scale: channel}", "none")),
    "fp8-block": (["compressed-tensors", "fp8"], BLOCK),
    "int8-dynamic": (["compressed-tensors"], RULE % ("{type: int8, scale: channel}", "{type: int8, scale: token}")),
    "fp8-tensor": (["compressed-tensors", "fp8"], RULE % (WEIGHTS, "{type: fp8, scale: token}")),
    "fp8-static": (["compressed-tensors", "fp8", "quark"], STATIC),
    "fp8-static-kv": (["compressed-tensors", "fp8", "quark"], STATIC + f"kv_cache: {WEIGHTS}\n"),
}
READERS = ("safetensors", "transformers", "vllm", "quark")
# Sizes that every reader's kernels take: blocks of 128, heads of 64.
SIZES = dict(hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2, vocab_size=320)


def families():
    import transformers
    return {
        "llama": tiny_models.llama("llama", **SIZES),
        "mistral": tiny_models.llama("mistral", transformers.MistralConfig, **SIZES, head_dim=64),
        "qwen2": tiny_models.llama("qwen2", transformers.Qwen2Config, **SIZES),
        "qwen3": tiny_models.llama("qwen3", transformers.Qwen3Config, **SIZES, head_dim=64),
        "mixtral": tiny_models.mixtral("mixtral", 4, 2, **SIZES),
        "dbrx": tiny_models.dbrx("dbrx", 4, 2, kv_heads=2, hidden=256, d_model=256, n_heads=4),
    }


def octavo(*args):
    return subprocess.run([str(smol.BIN / "octavo"), *map(str, args)], text=True, capture_output=True)


def make(scratch, family, case, seed, recipes, windows):
    """Jobs of one family: folders, what Octavo's serving makes of them, or why there is none."""
    model = tiny_models.make(case, seed)
    source = scratch / family
    model.to(torch.bfloat16).save_pretrained(source)
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.vocab_size
    draw = lambda count: torch.randint(0, vocabulary, (count, LENGTH), generator=generator).tolist()
    samples, ids = scratch / f"{family}-samples.jsonl", scratch / f"{family}-ids.jsonl"
    rows = draw(windows)
    for path, lists in ((samples, draw(24)), (ids, rows)):
        path.write_text("".join(json.dumps({"ids": one}) + "\n" for one in lists))
    for name in recipes:
        for dialect in RECIPES[name][0]:
            out, recipe = scratch / f"{family}-{name}-{dialect}", scratch / f"{name}-{dialect}.yaml"
            recipe.write_text(f"name: {name}\ndialect: {dialect}\n{RECIPES[name][1]}")
            flags = ["--calibration", samples, "--packing", "each"] if "calibration" in RECIPES[name][1] else []
            job = {"family": family, "recipe": name, "dialect": dialect, "folder": str(out), "source": str(source),
                   "ids": rows, "kv": name.endswith("-kv"), "seen": {}}
            done = octavo("quantize", source, "--recipe", recipe, "--out", out, "--workers", 1, *flags)
            if done.returncode == 0:
                done = octavo("eval", "ppl", out, "--ids", ids, "--window", LENGTH, "--json")
            if done.returncode != 0:
                job["refused"] = done.stderr.strip().splitlines()[-1]
            else:
                job["nll"] = json.loads(done.stdout.strip().splitlines()[-1])["window_nll"]
            yield job


def ask(reader, python, jobs):
    """Fills job["seen"][reader]. A reader that dies on a folder is started again with the next one."""
    left = [job for job in jobs if "refused" not in job]
    while left:
        lines = "".join(json.dumps({key: job[key] for key in ("folder", "source", "ids", "kv")}) + "\n" for job in left)
        script = pathlib.Path(__file__).with_name("readers.py")
        with tempfile.TemporaryFile("w+") as noise:
            process = subprocess.Popen([python, str(script), reader], text=True, stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=noise)
            out, _ = process.communicate(lines)
            noise.seek(0)
            last = ([line for line in noise.read().splitlines() if line.strip()] or ["nothing said"])[-1]
        answers = {}
        for line in out.splitlines():
            if line.startswith("@"):
                answer = json.loads(line[1:])
                answers[answer["folder"]] = answer
        for job in left:
            if job["folder"] in answers:
                job["seen"][reader] = answers[job["folder"]]
        left = [job for job in left if reader not in job["seen"]]
        if left:
            left[0]["seen"][reader] = {"verdict": "fails", "note": f"died ({process.returncode}): {last}"[:200]}
            left = left[1:]
        print(f"{reader}: {len(jobs) - len(left)} of {len(jobs)}", file=sys.stderr, flush=True)


def cell(job, reader):
    answer = job["seen"].get(reader)
    if answer is None:
        return ""
    verdict, note = answer["verdict"], answer.get("note") or ""
    if "nll" in answer:
        difference = statistics.mean(abs(a - b) for a, b in zip(answer["nll"], job["nll"], strict=True))
        if verdict == "runs":
            verdict = "reads" if difference <= BAR else "WRONG"
        else:
            verdict = "WRONG" if difference > BAR else "reads, complains"
        verdict += f" {difference:.3f}"
    return f"{verdict} ({note})" if note else verdict


def show(jobs):
    print(f"| family | recipe | dialect | NLL | {' | '.join(READERS)} |\n|---|---|---|---|{'---|' * len(READERS)}")
    for job in jobs:
        row = " | ".join((job["family"], job["recipe"], job["dialect"]))
        if "refused" in job:
            print(f"| {row} | {job['refused']} |" + " |" * len(READERS))
        else:
            cells = " | ".join(cell(job, reader) for reader in READERS)
            print(f"| {row} | {statistics.mean(job['nll']):.3f} | {cells} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--venv", action="append", default=[])
    parser.add_argument("--family", action="append")
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--json", default=str(smol.CACHE / "readers.json"))
    args = parser.parse_args()
    pythons = {"safetensors": sys.executable, "transformers": sys.executable}
    pythons.update((reader, f"{folder}/bin/python") for reader, folder in (pair.split("=", 1) for pair in args.venv))
    scratch = smol.CACHE / "readers"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    jobs = []
    for seed, (family, case) in enumerate(families().items()):
        if not args.family or family in args.family:
            jobs += make(scratch, family, case, seed, args.recipe or RECIPES, WINDOWS)
    for reader in READERS:
        if reader in pythons:
            ask(reader, pythons[reader], jobs)
            pathlib.Path(args.json).write_text(json.dumps(jobs))  # a reader that hangs costs only its own column
    show(jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
