#!/usr/bin/env python3
"""SparseGPT 2:4 on SmolLM2, by Octavo and by llm-compressor from the same ids, and what INT8 costs weights alone.

Calibration (Debian's linux-doc-6.1) and windows (Debian's handbook) are those of table_gptq.py, and so are the INT8 folders that
it leaves. Differences are paired by window; ± is one standard error.

SparseGPT, by `octavo eval compare` with the BF16 model: FP8 weights under a mask 2:4, and FP8 activations, from each tool. Octavo
solves mask and codes together; llm-compressor prunes, and rounds the result to FP8. Its pruned BF16 folder too, and what
`fp8-dynamic-mse` adds to that, beside what it adds to the dense model. Embeddings must be the source's in all of them. --variants:
Octavo's also with the columns in llm-compressor's order, with layers that see the source's layers below, and with both.
INT8 weights alone: no server runs INT8 weights with BF16 activations, so torch does, in float32: the BF16 model with what codes and
scales stand for.

Held to: SparseGPT's NLL increase at most llm-compressor's plus two standard errors of their difference; `fp8-dynamic-mse` adds to
the pruned model at most what it adds to the dense one, plus two standard errors; mean KL of INT8 weights alone under GPTQ at most
0.7 of rounding's.

usage: table_sparsegpt.py [--samples N] [--length TOKENS] [--windows N] [--keep] [--variants] [--only sparse|weights]
Run with the environment of install_peers.sh. --keep: folders that are there are not made again. Environment: as smol.py; about
a quarter of an hour.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import sys

import torch
import transformers
from safetensors import safe_open

import peers
import smol
import table_gptq
from table_gptq import WINDOW, calibration_ids, folder_of, increases
from table_peer_quality import evaluate_batch, ids_of_handbook, mean_error, write_ids

KL_BAR, NLL_ERRORS = 0.7, 2
OURS, PEER, PEER_PRUNED = "sparsegpt-fp8", "llm-compressor-sparsegpt-fp8", "llm-compressor-sparsegpt"
MSE = {"fp8-dynamic-mse": None, "llm-compressor-sparsegpt-mse": PEER_PRUNED}  # name: the source, None: BF16
RECIPE = """name: NAME
rules:
  - {weight: {type: fp8, scale: channel}, input: {type: fp8, scale: token}, solver: {type: sparsegpt, order: ORDER}}
calibration: {samples: 512, sample_length: 2048, propagate: PROPAGATE}
"""
VARIANTS = {  # name: order, propagate
    "sparsegpt-fp8-natural": ("natural", "quantized"),
    "sparsegpt-fp8-source": ("activation", "source"),
    "sparsegpt-fp8-natural-source": ("natural", "source"),
}
WEIGHTS = ["int8", "int8-gptq", "llm-compressor-int8-gptq"]


def make(name, samples, keep):
    """Makes a folder; seconds of solving, or nothing."""
    out = folder_of(name)
    if keep and out.exists():
        return None
    shutil.rmtree(out, ignore_errors=True)
    if name == PEER_PRUNED:
        return peers.llm_compressor_sparsegpt(smol.bf16(), out, samples)["oneshot"]
    if name == PEER:
        return peers.llm_compressor_fp8_dynamic(folder_of(PEER_PRUNED), out, samples)["oneshot"]
    if name in MSE:
        source = folder_of(MSE[name]) if MSE[name] else smol.bf16()
        smol.octavo("quantize", source, "--recipe", "fp8-dynamic-mse", "--out", out, capture_output=True)
        return None
    recipe = "sparsegpt-24-fp8"
    if name in VARIANTS:
        recipe, (order, propagate) = smol.CACHE / f"gptq-{name}.yaml", VARIANTS[name]
        recipe.write_text(RECIPE.replace("NAME", name).replace("ORDER", order).replace("PROPAGATE", propagate))
    smol.octavo("quantize", smol.bf16(), "--recipe", recipe, "--out", out, "--workers", 2, "--calibration",
                write_ids(smol.CACHE / "gptq-samples.jsonl", samples), "--packing", "each", capture_output=True)
    return json.loads(pathlib.Path(f"{out}.report.json").read_text())["seconds"]["total"]


def share_of_zeros(folder):
    """Of the fours of all quantized or pruned weights, how many have two zeros at least."""
    good = fours = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if name.endswith("_proj.weight"):
                    zero = (file.get_tensor(name).float() == 0).view(-1, 4).sum(1)
                    good, fours = good + (zero >= 2).sum().item(), fours + len(zero)
    return good / fours


def embedding(folder):
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if "model.embed_tokens.weight" in file.keys():
                return file.get_tensor("model.embed_tokens.weight")
    raise AssertionError(f"{folder}: no embedding")


def sparse_table(seconds, results):
    print("| folder | seconds | 2:4 | KL to BF16 | NLL increase |\n|---|---|---|---|---|")
    for name, result in results.items():
        kl, nll = result["kl_divergence"], result["nll_difference"]
        took = f"{seconds[name]:.0f}" if seconds[name] else ""
        print(f"| {name} | {took} | {share_of_zeros(folder_of(name)):.4f} | {kl['mean']:.5f} ± {kl['standard_error']:.5f} | "
              f"{nll['mean']:+.4f} ± {nll['standard_error']:.4f} |", flush=True)


def beyond(what, differences):
    """Prints a mean difference; 1 if it is more than NLL_ERRORS standard errors above zero."""
    mean, error = mean_error(differences)
    bad = mean > NLL_ERRORS * error
    print(f"{what}: {mean:+.5f} ± {error:.5f}, bar {NLL_ERRORS} standard errors: {'FAIL' if bad else 'ok'}", flush=True)
    return bad


def check_sparse(samples, windows, keep, variants):
    seconds = {name: make(name, samples, keep) for name in [OURS, PEER_PRUNED, PEER, *MSE, *variants]}
    for name in seconds:
        assert torch.equal(embedding(folder_of(name)), embedding(smol.bf16())), f"{name}: another embedding than the source's"
    results = {name: table_gptq.compare(name, windows) for name in seconds}
    sparse_table(seconds, results)
    more = {name: increases(result) for name, result in results.items()}
    pairs = lambda a, b: [x - y for x, y in zip(more[a], more[b], strict=True)]
    failures = beyond(f"{OURS} over {PEER}", pairs(OURS, PEER))
    added, dense = pairs("llm-compressor-sparsegpt-mse", PEER_PRUNED), more["fp8-dynamic-mse"]
    mean, error = mean_error(added)
    print(f"fp8-dynamic-mse adds {mean:+.5f} ± {error:.5f} to the pruned model")
    return failures + beyond("more than to the dense one", [x - y for x, y in zip(added, dense, strict=True)])


def weights_of(folder):
    """The BF16 model in float32 with the values of a quantized folder's weights."""
    model, stored = peers.load(smol.bf16()).float(), peers.stored_weights(folder)
    assert len(stored) == 7 * model.config.num_hidden_layers, len(stored)
    for module, values in stored.items():
        model.get_submodule(module).weight.data = values
    return model


def check_weights(windows):
    reference, models = peers.load(smol.bf16()).float(), {name: weights_of(folder_of(name)) for name in WEIGHTS}
    rows = {name: [] for name in models}
    for window in torch.tensor(windows).split(1):
        figures, base = evaluate_batch(reference, models, window)
        for name, figure in figures.items():
            rows[name] += [(kl, nll - base[0]) for nll, kl, _ in figure]
    print("| INT8 weights alone | KL to BF16 | of rounding's | NLL increase |\n|---|---|---|---|")
    rounded = [kl for kl, _ in rows["int8"]]
    ratios = {}
    for name, figures in rows.items():
        kl, kl_error = mean_error([figure[0] for figure in figures])
        ratios[name] = kl / statistics.mean(rounded)
        nll, nll_error = mean_error([figure[1] for figure in figures])
        print(f"| {name} | {kl:.6f} ± {kl_error:.6f} | {ratios[name]:.3f} | {nll:+.5f} ± {nll_error:.5f} |", flush=True)
    bad = ratios["int8-gptq"] > KL_BAR
    print(f"INT8 weights alone under GPTQ: {ratios['int8-gptq']:.3f} of rounding's KL, bar {KL_BAR}: {'FAIL' if bad else 'ok'}")
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=26)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--only", choices=["sparse", "weights"])
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    samples = calibration_ids(args.samples, args.length)
    _, windows = ids_of_handbook(args.windows, WINDOW)
    print(f"{args.samples} x {args.length} tokens of calibration, {args.windows} windows of {WINDOW}")
    failures = 0
    if args.only != "sparse":
        for name in WEIGHTS:
            table_gptq.make(name, samples, args.keep)
        failures += check_weights(windows)
    if args.only != "weights":
        failures += check_sparse(samples, windows, args.keep, VARIANTS if args.variants else ())
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
