"""Perplexity of SmolLM2 served by Octavo against Hugging Face transformers in float32, on the same windows.

BF16 and FP8: mean NLL within 0.001 of transformers (with compressed-tensors, its activation quantization seen to run).
INT8: within 0.001 of an emulation of docs/numerics.md written here; compressed-tensors rounds activations otherwise
(amax / 127.5), so that figure is only printed. FP8 blocks: the emulation too, because compressed-tensors cannot run
blocks on this model's 576-wide rows.
"""

import importlib
import json
import os
import sys

import torch
import transformers

import smol

WINDOW = 2048
BAR = 0.001


def windows(count):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol.bf16())
    ids = tokenizer(smol.handbook().read_text(encoding="utf-8"))["input_ids"]
    assert len(ids) >= count * WINDOW, len(ids)
    return torch.tensor(ids[:count * WINDOW]).view(count, WINDOW)


@torch.no_grad()
def mean_nll(model, ids):
    """Mean over windows of each window's mean negative log-likelihood, logits in float32."""
    total = 0.0
    for window in ids:
        logits = model(window[None]).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits.double(), window[1:]).item()
    return total / len(ids)


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class CountedQuantization:
    """Counts how often compressed-tensors quantizes anything while a model runs."""

    def __enter__(self):
        forward = importlib.import_module("compressed_tensors.quantization.lifecycle.forward")
        self.module, self.original, self.calls = forward, forward.fake_quantize, 0

        def counted(*args, **kwargs):
            self.calls += 1
            return self.original(*args, **kwargs)
        forward.fake_quantize = counted
        return self

    def __exit__(self, *_):
        self.module.fake_quantize = self.original


class EmulatedInt8(torch.nn.Module):
    """A linear by docs/numerics.md: activations INT8 per token from their BF16 value, integer sums, F32 epilogue."""

    def __init__(self, codes, scale):
        super().__init__()
        self.codes, self.scale = codes.float(), scale.float().view(1, -1)

    def forward(self, x):
        x = x.to(torch.bfloat16).float()
        amax = x.abs().amax(-1, keepdim=True).clamp_min(127 * 2.0**-126)
        q = torch.round(x * (127 / amax)).clamp(-127, 127)
        return (q.double() @ self.codes.double().T).float() * (amax / 127) * self.scale


class EmulatedBlocks(torch.nn.Module):
    """A linear by docs/numerics.md: FP8 weights in blocks of 128 x 128, FP8 activations per group of 128."""

    def __init__(self, codes, scale):
        super().__init__()
        rows, columns = codes.shape
        spread = scale.float().repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        self.weight = codes.float() * spread

    def forward(self, x):
        x = x.to(torch.bfloat16).float()
        parts = []
        for group in x.split(128, dim=-1):
            scale = (group.abs().amax(-1, keepdim=True) / 448).clamp_min(1 / (448 * 512))
            parts.append((group / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale)
        return torch.cat(parts, -1) @ self.weight.T


def emulate(folder, linear_type):
    """The BF16 model with every linear that `folder` quantizes replaced."""
    from safetensors import safe_open
    model = load(smol.bf16())
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in file.keys():
            if name.endswith(".weight_scale"):
                module = name.removesuffix(".weight_scale")
                parent, leaf = module.rsplit(".", 1)
                linear = linear_type(file.get_tensor(module + ".weight"), file.get_tensor(name))
                setattr(model.get_submodule(parent), leaf, linear)
    return model


def ours(folder, count):
    done = smol.octavo("eval", "ppl", folder, "--text", smol.handbook(), "--windows", count, "--json",
                       capture_output=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["nll"]


def main():
    count = int(os.environ.get("OCTAVO_WINDOWS", "12"))
    ids = windows(count)
    failures = 0

    def row(name, mine, theirs, bar):
        nonlocal failures
        bad = bar is not None and not abs(mine - theirs) <= bar
        failures += bad
        print(f"{name:34s} octavo {mine:.5f}  oracle {theirs:.5f}  difference {mine - theirs:+.5f}"
              f"  {'-' if bar is None else 'FAIL' if bad else 'ok'}", flush=True)

    print(f"mean NLL over {count} windows of {WINDOW} tokens")
    row("bf16 / transformers", ours(smol.bf16(), count), mean_nll(load(smol.bf16()), ids), BAR)
    for recipe in smol.RECIPES:
        folder = smol.quantized(recipe)
        mine = ours(folder, count)
        if recipe == "fp8-block":
            row(f"{recipe} / emulation", mine, mean_nll(emulate(folder, EmulatedBlocks), ids), BAR)
            continue
        with CountedQuantization() as counted:
            theirs = mean_nll(load(folder), ids)
        if recipe != "fp8-weight-only" and counted.calls == 0:
            print(f"{recipe}: compressed-tensors quantized nothing while the model ran")
            failures += 1
        integer = recipe.startswith("int8")
        row(f"{recipe} / compressed-tensors", mine, theirs, None if integer else BAR)
        if integer:
            row(f"{recipe} / emulation", mine, mean_nll(emulate(folder, EmulatedInt8), ids), BAR)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
