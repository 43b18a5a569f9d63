#!/usr/bin/env python3
"""What FP8 with static scales costs SmolLM2, made by Octavo and by the peers from the same calibration ids.

Every folder is evaluated by one implementation, written here: transformers in float32 on the BF16 weights, each quantized
linear replaced by StaticFp8, which reads codes and scales from the folder (llm-compressor, Quark and Octavo name them alike).
Calibration takes the handbook's first ids, evaluation windows of later ones. Primary figure: mean KL(BF16 || quantized) over
the whole vocabulary; everything is paired by window.

Held to: the NLL increases of the default recipe and of --compat llm-compressor are at most llm-compressor's plus two standard
errors of their difference; the best observer's KL is at most 0.95 of llm-compressor's.

usage: table_peer_quality.py [--windows N] [--window TOKENS] [--octavo-windows N] [--keep] [--quark] [NAME...]
Run with the environment of install_peers.sh. NAME: only folders whose names contain one. --keep: folders that are there are
not made again. --quark: also amd-quark, which takes half a minute per sample without a GPU. --octavo-windows: the same of `octavo eval compare`, on so many windows, as a second opinion.
Environment: as smol.py. About half an hour; the figures stay in OCTAVO_ORACLE_CACHE/peer_quality.json.
"""

import argparse
import contextlib
import json
import shutil
import signal
import statistics
import sys

import torch
import transformers
from safetensors import safe_open

import peers
import smol

SAMPLES, LENGTH = 64, 512
BATCH = 1  # windows at once: 100 MB of logits a model at 512 tokens
PEER, DEFAULT, COMPAT = "llm-compressor", "octavo", "octavo-compat"
NLL_ERRORS, KL_BAR = 2, 0.95

RECIPE = """name: NAME
dialect: compressed-tensors
rules:
  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: tensor}, algorithm: WEIGHTS}
calibration: {observer: OBSERVER, samples: 64, sample_length: 512}
"""
# name: (observer of inputs, algorithm of weights, flags)
OURS = {
    DEFAULT: ("absmax", "absmax"),
    COMPAT: ("absmax", "absmax", "--compat", PEER),
    "octavo-percentile-99.99": ("percentile, percentile: 99.99", "absmax"),
    "octavo-mse": ("mse", "absmax"),
    "octavo-weights-mse": ("absmax", "mse"),
    "octavo-both-mse": ("mse", "mse"),
}


def ids_of_handbook(windows, width=LENGTH):
    """Calibration samples, and evaluation windows from what comes after them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol.bf16())
    ids = tokenizer(smol.handbook().read_text(encoding="utf-8"))["input_ids"]
    cut = SAMPLES * LENGTH
    assert len(ids) >= cut + windows * width, len(ids)
    samples = [ids[i * LENGTH:(i + 1) * LENGTH] for i in range(SAMPLES)]
    return samples, [ids[cut + i * width:cut + (i + 1) * width] for i in range(windows)]


def write_ids(path, rows):
    path.write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in rows))
    return path


def make(name, samples, keep):
    """The folder called `name`; with `keep` as it is, if it is there."""
    out = smol.CACHE / f"quality-{name}"
    if keep and out.exists():
        return out
    if name in peers.PEERS:
        steps = peers.PEERS[name](smol.bf16(), out, samples)
        print(f"{name}: " + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in steps.items()), flush=True)
        return out
    observer, weights, *flags = OURS[name]
    recipe = smol.CACHE / f"{name}.yaml"
    recipe.write_text(RECIPE.replace("NAME", name).replace("OBSERVER", observer).replace("WEIGHTS", weights))
    shutil.rmtree(out, ignore_errors=True)
    smol.octavo("quantize", smol.bf16(), "--recipe", recipe, "--out", out, "--workers", 2, "--calibration",
                write_ids(smol.CACHE / "quality-samples.jsonl", samples), "--packing", "each", *flags, capture_output=True)
    return out


class StaticFp8(torch.nn.Module):
    """A linear with FP8 codes and inputs quantized by one fixed scale, from their BF16 value as servers have it."""

    def __init__(self, codes, weight_scale, input_scale):
        super().__init__()
        self.register_buffer("weight", codes.float() * weight_scale.float())
        self.scale = input_scale.float().item()
        self.reciprocal = (1 / input_scale.float()).item()

    def forward(self, x):
        x = x.to(torch.bfloat16).float() * self.reciprocal
        return torch.nn.functional.linear(x.clamp(-448, 448).to(torch.float8_e4m3fn).float() * self.scale, self.weight)


def load(folder=None):
    """The BF16 model in float32, its linears replaced by those of `folder`; and the scales of that."""
    model, scales = peers.load(smol.bf16()).float(), {}
    for path in sorted(folder.glob("*.safetensors")) if folder else ():
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            for name in sorted(names):
                module = name.removesuffix(".input_scale")
                if module == name:
                    continue
                linear = [file.get_tensor(f"{module}.{part}") for part in ("weight", "weight_scale", "input_scale")]
                assert linear[0].dtype == torch.float8_e4m3fn and linear[1].numel() == linear[2].numel() == 1, module
                scales[module] = tuple(scale.float().item() for scale in linear[1:])
                parent, leaf = module.rsplit(".", 1)
                setattr(model.get_submodule(parent), leaf, StaticFp8(linear[0], linear[1].reshape(()), linear[2].reshape(())))
    assert not folder or len(scales) == 7 * model.config.num_hidden_layers, len(scales)
    return model, scales


@torch.inference_mode()
def log_probabilities(model, windows):
    return torch.log_softmax(model(windows, use_cache=False).logits[:, :-1], -1)


def evaluate_batch(reference, models, windows):
    """Rows of every model, and the reference's NLL, for each of `windows` [count, tokens]."""
    def nll(logprobs):
        return -logprobs.gather(2, windows[:, 1:, None]).mean((1, 2), dtype=torch.float64)
    a = log_probabilities(reference, windows)
    p, best, rows = a.exp(), a.argmax(-1), {}
    for name, model in models.items():
        b = log_probabilities(model, windows)
        divergence = (p * (a - b)).sum(-1, dtype=torch.float64).mean(1)
        same = (best == b.argmax(-1)).double().mean(1)
        rows[name] = torch.stack([nll(b), divergence, same], 1).tolist()
    return rows, nll(a).tolist()


def evaluate(models, windows):
    """{name: rows of (NLL, KL, share of positions with the same top token)}, and the reference's NLL, per window. Ctrl-C
    leaves it at the windows that are done."""
    reference, _ = load()
    rows, base = {name: [] for name in models}, []
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        for batch in torch.tensor(windows).split(BATCH):
            figures, zeros = evaluate_batch(reference, models, batch)
            base += zeros
            for name, more in figures.items():
                rows[name] += more
            print(f"{len(base)} of {len(windows)} windows", file=sys.stderr, flush=True)
    return rows, base


def mean_error(values):
    return statistics.mean(values), statistics.stdev(values) / len(values)**0.5


def report(rows, base, width):
    """Prints a row for each folder; returns how many of the promises are broken."""
    peer, failures, best = rows[PEER], 0, None
    peer_kl = statistics.mean(row[1] for row in peer)
    print(f"\nNLL of BF16 {statistics.mean(base):.5f} over {len(base)} windows of {width} tokens\n"
          "| folder | KL to BF16 | of llm-compressor's | NLL increase | minus llm-compressor's | same top token |\n"
          "|---|---|---|---|---|---|")
    for name, mine in rows.items():
        kl, kl_error = mean_error([row[1] for row in mine])
        ratio = kl / peer_kl
        _, ratio_error = mean_error([(a[1] - ratio * b[1]) / peer_kl for a, b in zip(mine, peer, strict=True)])
        nll, nll_error = mean_error([row[0] - zero for row, zero in zip(mine, base, strict=True)])
        more, more_error = mean_error([a[0] - b[0] for a, b in zip(mine, peer, strict=True)])
        print(f"| {name} | {kl:.6f} ± {kl_error:.6f} | {ratio:.3f} ± {ratio_error:.3f} | {nll:+.5f} ± {nll_error:.5f} | "
              f"{more:+.5f} ± {more_error:.5f} | {statistics.mean(row[2] for row in mine):.4f} |")
        if name in (DEFAULT, COMPAT):
            within = more <= NLL_ERRORS * more_error
            failures += not within
            print(f"  {name}: NLL increase {'within' if within else 'BEYOND'} {NLL_ERRORS} standard errors", file=sys.stderr)
        if name in OURS and (best is None or ratio < best[0]):
            best = ratio, name
    if best:
        failures += not best[0] <= KL_BAR
        print(f"\nbest of ours: {best[1]}, {best[0]:.3f} of {PEER}'s KL, bar {KL_BAR}: {'ok' if best[0] <= KL_BAR else 'FAIL'}")
    return failures


def compare_scales(scales):
    """How far each folder's scales are from llm-compressor's."""
    print("\n| folder | inputs: within 2^-7 | least, median, most | weights: equal | least, median, most |\n|---|---|---|---|---|")
    for name, mine in scales.items():
        cells = []
        for which in (1, 0):
            ratios = sorted(mine[module][which] / theirs[which] for module, theirs in scales[PEER].items())
            near = sum(abs(ratio - 1) <= (2**-7 if which else 0) for ratio in ratios)
            cells += [f"{near} of {len(ratios)}", ", ".join(f"{ratios[at]:.4f}" for at in (0, len(ratios) // 2, -1))]
        print(f"| {name} | {' | '.join(cells)} |")


def second_opinion(names, windows):
    """`octavo eval compare` on the folders as they are (Quark's and llm-compressor's too)."""
    ids = write_ids(smol.CACHE / "quality-windows.jsonl", windows)
    print(f"\n`octavo eval compare`, {len(windows)} windows\n| folder | KL to BF16 | NLL increase |\n|---|---|---|")
    for name in names:
        done = smol.octavo("eval", "compare", smol.bf16(), smol.CACHE / f"quality-{name}", "--ids", ids, "--json",
                           capture_output=True)
        result = json.loads(done.stdout.strip().splitlines()[-1])
        kl, nll = result["kl_divergence"], result["nll_difference"]
        print(f"| {name} | {kl['mean']:.6f} ± {kl['standard_error']:.6f} | {nll['mean']:+.5f} ± "
              f"{nll['standard_error']:.5f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=120)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--octavo-windows", type=int, default=0)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--quark", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    names = [PEER, *(["quark"] if args.quark else []), *OURS]
    if args.names:
        names = [name for name in names if name in (PEER, DEFAULT, COMPAT) or any(word in name for word in args.names)]
    samples, windows = ids_of_handbook(args.windows, args.window)
    models, scales = {}, {}
    for name in names:
        models[name], scales[name] = load(make(name, samples, args.keep))
    rows, base = evaluate(models, windows)
    (smol.CACHE / "peer_quality.json").write_text(json.dumps({"reference_nll": base, "rows": rows, "scales": scales}))
    failures = report(rows, base, args.window)
    compare_scales(scales)
    models.clear()
    if args.octavo_windows:
        second_opinion(names, windows[:args.octavo_windows])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
