#!/usr/bin/env python3
"""GPTQ layer by layer on SmolLM2: the output error that each linear layer has after Octavo's INT8 GPTQ, over llm-compressor's.

Both folders are made by table_gptq.py's code from the same ids (--keep: those that are there are taken). Of a linear layer with
weights W and stored weights V (codes times scales) the error is the sum over tokens of |x (W - V)^T|^2, for x of two kinds:
what the layer reads in the BF16 source, the same for both; and what it reads behind the tool's own quantized layers, weights and
activations INT8 (one scale per token), which is closer to what either solver looked at. Tokens are the first --measure samples.

V is exact, as servers have it: integer products, then scales. llm-compressor rounds codes times scale to BF16 while it solves,
and transformers does while it loads: its folder is also taken that way, and both.

llm-compressor's defaults: blocks of 128 columns, damping 0.01, activation order "static". Octavo's recipe: `solver: {type: gptq}`.
--variants: also Octavo's with one setting changed, and rounding to nearest. --why: where the difference comes from: the published
procedure in torch, first with llm-compressor's arithmetic, then towards Octavo's in steps, on layers of the source.

Held to: under the source's inputs Octavo's error is at most 1.01 of llm-compressor's in every layer.

usage: table_gptq_layers.py [--samples N] [--length TOKENS] [--measure N] [--keep] [--variants] [--why]
Run with the environment of install_peers.sh. Environment: as smol.py; five minutes, and the folders' six.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import shutil
import statistics
import sys

import torch
import transformers

import peers
import smol
import table_gptq
from table_peer_quality import write_ids

BAR = 1.01
PEER, OURS = "llm-compressor-int8-gptq", "int8-gptq"
VARIANTS = {  # name: what is replaced in the recipe
    "int8-gptq-natural": ("{type: gptq}", "{type: gptq, order: natural}"),
    "int8-gptq-source": ("samples: 512", "propagate: source, samples: 512"),
}
# The linear layers that read the same thing; the first of each records it.
POINTS = [("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",),
          ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)]


def make(name, samples, keep):
    out = table_gptq.folder_of(name)
    if name not in VARIANTS:
        return table_gptq.make(name, samples, keep)
    if keep and out.exists():
        return None
    shutil.rmtree(out, ignore_errors=True)
    recipe = smol.CACHE / f"gptq-{name}.yaml"
    text = table_gptq.RECIPE.replace("NAME", name).replace("TYPE", "int8").replace("INPUT", "{type: int8, scale: token}")
    recipe.write_text(text.replace("SOLVER", "{type: gptq}").replace(*VARIANTS[name]))
    smol.octavo("quantize", smol.bf16(), "--recipe", recipe, "--out", out, "--workers", 2, "--calibration",
                write_ids(smol.CACHE / "gptq-samples.jsonl", samples), "--packing", "each", capture_output=True)
    return json.loads(pathlib.Path(f"{out}.report.json").read_text())["seconds"]["total"]


def token_int8(x):
    """x [..., channels] through INT8 with one scale per token, in its own type."""
    wide = x.float()
    amax = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    return ((wide * (127 / amax)).round() * (amax / 127)).to(x.dtype)


@torch.inference_mode()
def inputs_products(samples, stored=None):
    """Linear layer's name -> X^T X in float64 of what it reads: in the BF16 model, or in the one with `stored` weights and INT8
    activations. Layers that read the same thing share it."""
    model, products = peers.load(smol.bf16()), {}

    def record(name):
        def hook(_, inputs):
            x = inputs[0][0].float()
            products[name] = products.get(name, 0) + (x.T @ x).double()
        return hook

    for index, layer in enumerate(model.model.layers):
        for point in POINTS:
            name = f"model.layers.{index}.{point[0]}"
            layer.get_submodule(point[0]).register_forward_pre_hook(record(name))
    for name, values in (stored or {}).items():
        module = model.get_submodule(name)
        module.weight.data = values.to(torch.bfloat16)
        module.register_forward_pre_hook(lambda _, inputs: (token_int8(inputs[0]), *inputs[1:]))
    for ids in samples:
        model.model(torch.tensor([ids]), use_cache=False)
    for index in range(len(model.model.layers)):
        for first, *others in POINTS:
            for other in others:
                products[f"model.layers.{index}.{other}"] = products[f"model.layers.{index}.{first}"]
    return products


def errors_of(stored, source, products):
    """Linear layer's name -> its squared output error over all tokens."""
    errors = {}
    for name, values in stored.items():
        difference = source[name].double() - values.double()
        errors[name] = ((difference @ products[name]) * difference).sum().item()
    return errors


def table(title, ours, theirs):
    """Prints a row for each role and one for all; the largest ratio of a layer."""
    roles = collections.defaultdict(list)
    for name in theirs:
        roles[name.rsplit(".", 1)[1]].append(name)
    roles["all"] = list(theirs)
    print(f"\n{title}\n| layers | ratio of sums | mean ratio | least | worst | at most {BAR} |\n|---|---|---|---|---|---|")
    for role, names in roles.items():
        ratios = [ours[name] / theirs[name] for name in names]
        whole = sum(ours[name] for name in names) / sum(theirs[name] for name in names)
        print(f"| {role} | {whole:.4f} | {statistics.mean(ratios):.4f} | {min(ratios):.4f} | {max(ratios):.4f} | "
              f"{sum(r <= BAR for r in ratios)} of {len(ratios)} |", flush=True)
    return max(ratios)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    limit: float = 127.5  # amax / limit is the scale; codes from -128 where it is 127.5
    scale: torch.dtype = torch.bfloat16
    value: torch.dtype = torch.bfloat16  # of code times scale
    again: bool = True  # codes made a second time, from values of type `value`, when the model is saved
    work: torch.dtype = torch.float32
    ordered: bool = True
    damping: float = 0.01


WHY = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj"]
THEIRS = Arithmetic()
STEPS = {  # each with the changes before it
    "codes straight from the solver": {"again": False},
    "values F32": {"value": torch.float32},
    "scales F32": {"scale": torch.float32},
    "amax / 127": {"limit": 127.0},
    "solving in F64 (as Octavo)": {"work": torch.float64},
}
ASIDE = {"columns as they lie": {"ordered": False}, "damping 0.001": {"damping": 0.001}}  # each alone, of the last step


def solved(weight, product, how):
    """What stays of `weight`: codes times scales, float32, under X^T X = `product`."""
    order = torch.arange(weight.shape[1])
    if how.ordered:
        order = torch.argsort(product.diagonal(), descending=True, stable=True)
    h, w = product[order][:, order].to(how.work), weight.to(how.work)[:, order]
    h.diagonal().add_(how.damping * h.diagonal().mean())
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    scale = (weight.float().abs().amax(1) / how.limit).to(how.scale).float()
    codes, least = torch.zeros_like(w, dtype=torch.float32), -128 if how.limit > 127 else -127
    for begin in range(0, w.shape[1], 128):
        end = min(begin + 128, w.shape[1])
        fed = torch.zeros_like(w[:, begin:end])
        for i in range(begin, end):
            codes[:, i] = (w[:, i].float() / scale).round().clamp(least, 127)
            value = (codes[:, i] * scale).to(how.value)
            fed[:, i - begin] = (w[:, i] - value.to(how.work)) / u[i, i]
            w[:, i + 1:end] -= fed[:, i - begin, None] * u[i, i + 1:end]
        w[:, end:] -= fed @ u[begin:end, end:]
    scale = scale[:, None]
    if how.again:
        codes = ((codes * scale).to(how.value) / scale.to(how.value)).float().round().clamp(least, 127)
    out = torch.empty_like(codes)
    out[:, order] = codes * scale
    return out


def why(source, products):
    """Errors of `solved` in steps from llm-compressor's arithmetic to Octavo's, over those of the first."""
    names = [f"model.layers.{index}.{role}" for index in (5, 15, 29) for role in WHY]
    error = lambda name, how: errors_of({name: solved(source[name], products[name], how)}, source, products)[name]
    first = {name: error(name, THEIRS) for name in names}
    print(f"\nthe procedure in torch, {len(names)} layers\n| arithmetic | mean error | least | largest |\n|---|---|---|---|")
    how = THEIRS
    rows = []
    for what, change in STEPS.items():
        how = dataclasses.replace(how, **change)
        rows.append((what, how))
    rows += [(f"then {what}", dataclasses.replace(how, **change)) for what, change in ASIDE.items()]
    for what, how in rows:
        ratios = [error(name, how) / first[name] for name in names]
        print(f"| {what} | {statistics.mean(ratios):.4f} | {min(ratios):.4f} | {max(ratios):.4f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--measure", type=int, default=8)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--why", action="store_true")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    samples = table_gptq.calibration_ids(args.samples, args.length)
    names = [PEER, OURS, *(["int8", *VARIANTS] if args.variants else [])]
    stored = {}
    for name in names:
        make(name, samples, args.keep)
        stored[name] = peers.stored_weights(table_gptq.folder_of(name))
    model = peers.load(smol.bf16())
    source = {name: model.get_submodule(name).weight.detach() for name in stored[PEER]}
    assert len(source) == 7 * model.config.num_hidden_layers and all(s.keys() == source.keys() for s in stored.values())
    seen = samples[:args.measure]
    products = inputs_products(seen)
    errors = {name: errors_of(weights, source, products) for name, weights in stored.items()}
    print(f"{args.samples} x {args.length} tokens, errors over {len(seen)} x {args.length}, {len(source)} linear layers")
    worst = table(f"{OURS} over {PEER}, inputs of the BF16 source", errors[OURS], errors[PEER])
    rounded = {name: errors_of({layer: values.to(torch.bfloat16) for layer, values in stored[name].items()}, source, products)
               for name in (PEER, OURS)}
    table("the same, llm-compressor's values rounded to BF16", errors[OURS], rounded[PEER])
    table("the same, both rounded to BF16", rounded[OURS], rounded[PEER])
    for name in names[2:]:
        table(f"{name} over {PEER}, inputs of the BF16 source", errors[name], errors[PEER])
    if args.why:
        why(source, products)
    own = {name: errors_of(stored[name], source, inputs_products(seen, stored[name])) for name in (PEER, OURS)}
    table(f"{OURS} over {PEER}, each behind its own quantized layers", own[OURS], own[PEER])
    print(f"\nlargest ratio of a layer under the source's inputs: {worst:.4f}, bar {BAR}: {'FAIL' if worst > BAR else 'ok'}")
    return 1 if worst > BAR else 0


if __name__ == "__main__":
    sys.exit(main())
