#!/usr/bin/env python3
"""--compat llm-compressor-0.1 on a small random Llama, against the procedure done by torch: the BF16 model's activations by
transformers, one pass without quantizing anything; the Hessian of every linear layer in float64; scales amax / 127.5 in BF16;
GPTQ column by column as they lie, damping 1 %; solved weights rounded to BF16 and quantized again in BF16, as at saving.

Held to: every scale bit for bit; 99.5 % of all codes equal and none off by more than 2; with one worker and with three the same
bytes. Printed beside: how many codes of our own recipe are equal, which has another order, other scales and other activations.

usage: check_gptq_compat.py
Environment: as smol.py; a minute.
"""

import json
import shutil
import sys
import tempfile
import pathlib

import torch
import transformers
from safetensors import safe_open

import smol

SAMPLES, LENGTH, VOCAB, SHARE, FAR = 64, 256, 512, 0.995, 2
SHAPE = ["--layers", 2, "--hidden", 256, "--intermediate", 448, "--heads", 8, "--kv-heads", 2, "--vocab", VOCAB, "--seed", 3]


@torch.no_grad()
def hessians_of(model, ids):
    """Linear layer's name -> sum of the products of what it reads, in float64."""
    sums, hooks = {}, []

    def look(name):
        def hook(module, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + x.T @ x
        return hook
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            hooks.append(module.register_forward_pre_hook(look(name)))
    for sample in ids:
        model(sample[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return sums


def scales_of(weight):
    eps = torch.finfo(torch.float32).eps
    return (weight.abs().amax(1, keepdim=True) / 127.5).clamp(min=eps)  # of the weight's type: BF16


def tools_codes(weight, hessian):
    """What the tool saves."""
    scale = scales_of(weight)
    h = hessian.clone()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    h.diagonal().add_(0.01 * h.diagonal().mean())
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    w = weight.double()
    w[:, dead] = 0
    solved = torch.empty_like(weight)
    step = scale[:, 0].float()
    for i in range(w.shape[1]):
        value = torch.round(w[:, i].float() / step).clamp(-128, 127) * step
        solved[:, i] = value.to(weight.dtype)
        error = (w[:, i] - value.double()) / u[i, i]
        w[:, i + 1:] -= error[:, None] * u[i, i + 1:]
    return torch.round(solved / scale).clamp(-128, 127).to(torch.int8)


def tensors_of(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def compare(folder, model, hessians):
    """(linear layers whose scales differ, share of equal codes, largest difference)"""
    found = tensors_of(folder)
    differ, equal, total, far = 0, 0, 0, 0
    for name, hessian in hessians.items():
        weight = model.get_submodule(name).weight.detach()
        want, got = tools_codes(weight, hessian), found[f"{name}.weight"]
        differ += not torch.equal(found[f"{name}.weight_scale"].flatten(), scales_of(weight).flatten())
        equal += (want == got).sum().item()
        total += want.numel()
        far = max(far, (want.int() - got.int()).abs().max().item())
    return differ, equal / total, far


def main():
    work = pathlib.Path(tempfile.mkdtemp(dir=smol.CACHE))
    try:
        smol.octavo("synth", "--family", "llama", *SHAPE, "--out", work / "source", capture_output=True)
        ids = torch.randint(VOCAB, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(1))
        samples = work / "samples.jsonl"
        samples.write_text("".join(json.dumps({"ids": row}) + "\n" for row in ids.tolist()))
        made = {}
        for name, more in {"1": [], "3": ["--workers", 3], "own": []}.items():
            compat = [] if name == "own" else ["--compat", "llm-compressor-0.1"]
            smol.octavo("quantize", work / "source", "--recipe", "int8-w8a8-gptq", *compat, "--calibration", samples, "--packing",
                        "each", "--samples", SAMPLES, "--sample-length", LENGTH, *more, "--out", work / name, capture_output=True)
            made[name] = (work / name / "model.safetensors").read_bytes()
        model = transformers.AutoModelForCausalLM.from_pretrained(work / "source", dtype=torch.bfloat16).eval()
        hessians = hessians_of(model, ids)
        differ, share, far = compare(work / "1", model, hessians)
        own = compare(work / "own", model, hessians)[1]
        good = len(hessians) == 14 and differ == 0 and share >= SHARE and far <= FAR and made["1"] == made["3"]
        print(f"{len(hessians)} linear layers: scales differ in {differ}; {100 * share:.3f} % of codes equal (our own recipe: "
              f"{100 * own:.1f} %), the farthest off by {far}; one worker and three alike: {made['1'] == made['3']}: "
              f"{'ok' if good else 'FAIL'}")
        return 0 if good else 1
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
