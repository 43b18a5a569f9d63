"""Perplexity of SmolLM2 served by Octavo against Hugging Face transformers in float32, on the same windows.

Every row is the mean over windows of the difference, and its standard error over the windows.

BF16 and FP8 weight-only: within 0.001 of transformers. What quantizes activations: within 0.001 of an emulation of
docs/numerics.md written here, and FP8 also of compressed-tensors; INT8, which that quantizes by amax / 127.5, is only
printed beside it. FP8 blocks have the emulation alone, because compressed-tensors cannot run blocks on this model's
576-wide rows. Quantized activations are chaotic: one BF16 rounding moves a window by some thousandths, either way. Fewer
than 12 windows (OCTAVO_WINDOWS) are therefore judged by two standard errors where those are more than 0.001.
"""

import importlib
import json
import os
import statistics
import sys

import torch
import transformers

import smol

WINDOW = 2048
BAR = 0.001
ENOUGH = 12  # windows to hold everything to BAR


def windows(count):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol.bf16())
    ids = tokenizer(smol.handbook().read_text(encoding="utf-8"))["input_ids"]
    assert len(ids) >= count * WINDOW, len(ids)
    return torch.tensor(ids[:count * WINDOW]).view(count, WINDOW)


@torch.no_grad()
def window_nll(model, ids):
    """Each window's mean negative log-likelihood, logits in float32."""
    return [torch.nn.functional.cross_entropy(model(window[None]).logits[0, :-1].double(), window[1:]).item()
            for window in ids]


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
        q = torch.round(x * torch.div(torch.tensor(127.0), amax)).clamp(-127, 127)
        return (q.double() @ self.codes.double().T).float() * (amax / 127) * self.scale


class EmulatedFp8(torch.nn.Module):
    """The same with FP8 codes."""

    def __init__(self, codes, scale):
        super().__init__()
        self.codes, self.scale = codes.float(), scale.float().view(1, -1)

    def forward(self, x):
        x = x.to(torch.bfloat16).float()
        scale = (x.abs().amax(-1, keepdim=True) / 448).clamp_min(1 / (448 * 512))
        q = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float()
        return (q @ self.codes.T) * scale * self.scale


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
    return json.loads(done.stdout.strip().splitlines()[-1])["window_nll"]


EMULATIONS = {"fp8-dynamic": EmulatedFp8, "fp8-block": EmulatedBlocks, "int8-dynamic": EmulatedInt8}


class Table:
    failures = 0

    def row(self, name, mine, theirs, judged=True, noisy=True):
        """Prints a row; a difference beyond 0.001 (or two standard errors, if noisy and of few windows) is a failure."""
        differences = [a - b for a, b in zip(mine, theirs, strict=True)]
        mean = statistics.mean(differences)
        error = statistics.stdev(differences) / len(differences)**0.5
        bad = judged and not abs(mean) <= max(BAR, 2 * error if noisy and len(mine) < ENOUGH else 0)
        self.failures += bad
        print(f"{name:36s} octavo {statistics.mean(mine):.5f}  oracle {statistics.mean(theirs):.5f}  difference "
              f"{mean:+.5f} +- {error:.5f}  {'FAIL' if bad else 'ok' if judged else '-'}", flush=True)


def main():
    transformers.utils.logging.disable_progress_bar()
    count = int(os.environ.get("OCTAVO_WINDOWS", ENOUGH))
    ids = windows(count)
    table = Table()
    print(f"mean NLL over {count} windows of {WINDOW} tokens")
    table.row("bf16 / transformers", ours(smol.bf16(), count), window_nll(load(smol.bf16()), ids), noisy=False)
    for recipe in smol.RECIPES:
        folder = smol.quantized(recipe)
        mine = ours(folder, count)
        if recipe in EMULATIONS:
            table.row(f"{recipe} / emulation", mine, window_nll(emulate(folder, EMULATIONS[recipe]), ids))
        if recipe == "fp8-block":
            continue
        with CountedQuantization() as counted:
            theirs = window_nll(load(folder), ids)
        weight_only = recipe == "fp8-weight-only"
        if not weight_only and counted.calls == 0:
            print(f"{recipe}: compressed-tensors quantized nothing while the model ran")
            table.failures += 1
        table.row(f"{recipe} / compressed-tensors", mine, theirs, judged=recipe != "int8-dynamic",
                  noisy=not weight_only)
    sys.exit(1 if table.failures else 0)


if __name__ == "__main__":
    main()
