#!/usr/bin/env python3
"""Scales by `algorithm: mse` on SmolLM2's weights, FP8 per channel, beside those of llm-compressor's observer "memoryless_mse".

Both try 20 candidates, 1.00, 0.99 .. 0.81 of a row's largest magnitude, for the least sum of |x - q|^2.4; llm-compressor stops
where no row of a matrix has become better for five candidates. It computes in the type of the weights, so both are looked at
twice: with the BF16 model, where candidates, values of codes and sums of errors are all rounded to BF16 by llm-compressor, and
with the same weights in F32. Octavo's scales are those of folders made by `fp8-dynamic-mse`, stored in the weights' type.

Errors are sums over a row in F64, of |x - value(x / scale) * scale|^2.4 and of the squares, under the scales as they are stored.

Held to: in F32 the candidate equal in at least 99 % of rows, and no row's sum of |x - q|^2.4 more than 2^-16 above that under
llm-compressor's scale; in BF16, where the candidates themselves differ, the sum over all rows not above.

usage: table_mse_grid.py [--layers N]     only the first N layers; default all
Run with the environment of install_peers.sh. Environment: as smol.py; four minutes.
"""

import argparse
import collections
import json
import shutil
import sys

import torch
from compressed_tensors.quantization import QuantizationArgs
from llmcompressor.observers import Observer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import smol

GRID = [1 - i / 100 for i in range(20)]
EQUAL, ROUNDING = 0.99, 2**-16


def float32():
    """The BF16 folder with its tensors in F32."""
    folder = smol.CACHE / "smol-f32"
    if not folder.exists():
        part = smol.CACHE / "smol-f32.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(smol.bf16(), part, ignore=shutil.ignore_patterns("*.safetensors"))
        tensors = {name: tensor.float() for name, tensor in load_file(smol.bf16() / "model.safetensors").items()}
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((part / "config.json").read_text())
        (part / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))
        part.rename(folder)
    return folder


def our_scales(source):
    """Linear layer's name -> scales by `fp8-dynamic-mse`, in F32."""
    out = smol.CACHE / f"{source.name}-mse"
    smol.octavo("quantize", source, "--recipe", "fp8-dynamic-mse", "--out", out, "--overwrite", capture_output=True)
    scales = {name.removesuffix(".weight_scale"): tensor.float().view(-1, 1)
              for name, tensor in load_file(out / "model.safetensors").items() if name.endswith(".weight_scale")}
    shutil.rmtree(out)
    return scales


def their_scales(weight):
    args = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True, observer="memoryless_mse")
    observer = Observer.load_from_registry("memoryless_mse", base_name="weight", args=args)
    observer(weight)
    return observer.get_qparams()["scale"].float().view(-1, 1)


def candidates_of(scales, amax, roundings):
    """Which of GRID each scale is; amax * p and amax * p / 448 are rounded to these two types."""
    made = torch.cat([((amax * p).to(roundings[0]).float() / 448).to(roundings[1]).float() for p in GRID], 1)
    off, best = (made / scales - 1).abs().min(1)
    assert (off <= 2**-22).all(), off.max()
    return best


def errors(weight, scales):
    """Per row: the sum of |x - q|^2.4, and of the squares."""
    x = weight.float()
    off = ((x / scales).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scales - x).abs().double()
    return off.pow(2.4).sum(1), off.square().sum(1)


def look(weight, ours, figures):
    """Adds one matrix's rows to `figures`."""
    live = (weight != 0).any(1)
    weight, ours = weight[live], ours[live]
    amax = weight.float().abs().amax(1, keepdim=True)
    theirs = their_scales(weight)
    mine = candidates_of(ours, amax, (torch.float32, weight.dtype))
    apart = mine - candidates_of(theirs, amax, (weight.dtype, weight.dtype))
    had, has = errors(weight, theirs), errors(weight, ours)
    figures["rows"] += len(apart)
    figures["equal"] += (apart == 0).sum().item()
    figures["next"] += (apart.abs() == 1).sum().item()
    figures["same scale"] += (ours == theirs).sum().item()
    figures["above"] += (has[0] > had[0] * (1 + ROUNDING)).sum().item()
    figures["worst"] = max(figures["worst"], (has[0] / had[0]).max().item())
    figures["square above"] += (has[1] > had[1] * (1 + ROUNDING)).sum().item()
    for at, what in enumerate(("ours power", "ours square")):
        figures[what] += has[at].sum().item()
        figures[what.replace("ours", "theirs")] += had[at].sum().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int)
    args = parser.parse_args()
    found = {}
    print("| weights | rows | candidate equal | one off | scale equal | error above its | largest ratio | sum's ratio | "
          "squares above | sum's ratio |\n|---|---|---|---|---|---|---|---|---|---|")
    for source in (smol.bf16(), float32()):
        f, scales = collections.defaultdict(float), our_scales(source)
        with safe_open(source / "model.safetensors", "pt") as file, torch.inference_mode():
            for name, ours in scales.items():
                if args.layers is None or int(name.split(".")[2]) < args.layers:
                    look(file.get_tensor(f"{name}.weight"), ours, f)
        share = lambda key: f"{f[key] / f['rows']:.3%}"
        print(f"| {source.name} | {f['rows']:.0f} | {share('equal')} | {share('next')} | {share('same scale')} | "
              f"{share('above')} | {f['worst']:.6f} | {f['ours power'] / f['theirs power']:.6f} | {share('square above')} | "
              f"{f['ours square'] / f['theirs square']:.6f} |", flush=True)
        found[source.name] = f
    low, wide = found["smol-bf16"], found["smol-f32"]
    bad = (wide["equal"] < EQUAL * wide["rows"]) or wide["above"] > 0 or low["ours power"] > low["theirs power"]
    print(f"bars: in F32 {EQUAL:.0%} of candidates equal and no row's error above, in BF16 the sum not above: {'FAIL' if bad else 'ok'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
