#!/usr/bin/env python3
"""Every family against transformers: tiny random checkpoints, written by transformers and run by the built programs.

For each model: the logits of Octavo (BF16 activations) stay within 2 % (relative L2) of transformers' in float32, and
the same token is on top wherever the first two are apart. What is left of those 2 % is rounding: decoder.py computes
Octavo's forward pass once without rounding, which is transformers' function, and once with, which is Octavo's. The bytes
are equal at every tensor-parallel size, chunking and instruction set; `octavo eval ppl` gives transformers' NLL; quantized
folders give what the forward pass makes of their codes and scales, static ones with an FP8 cache too. `tiny_models.ablations` shows that the models can
tell: without any one part the NLL moves.

usage: check_families.py [NAME...]     only the cases whose names contain one of these
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

import decoder
import smol
import static_folder
import tiny_models

TOOL = smol.BIN.parent / "tests" / "logits_tool"
LOGITS_BAR = 2e-2
EXACT_BAR = 1e-4
ROUNDED_BAR = 6e-3
NEAR_TIE = 0.05  # of the first two logits, relative to the spread of all
ABLATION_BAR = 0.05
NLL_BAR = 0.01
STATIC_RANGE = 0.8  # of what was seen: the rest saturates
STATIC_BAR = 5e-2
KEPT_EXPERTS = "kept-experts.yaml"
KEPT_EXPERTS_YAML = """name: kept-experts
dialect: compressed-tensors
rules:
  - {roles: [expert_gate, expert_up, expert_down], weight: keep}
  - {weight: {type: fp8, scale: channel}, input: {type: fp8, scale: token}}
"""
FP8_TENSOR = "fp8-tensor.yaml"
FP8_TENSOR_YAML = """name: fp8-tensor
dialect: fp8
rules:
  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: token}}
"""
RECIPE_FILES = {KEPT_EXPERTS: KEPT_EXPERTS_YAML, FP8_TENSOR: FP8_TENSOR_YAML}
# One bit of BF16 is an eighth of a step between FP8 codes, so a few codes differ.
RECIPE_BARS = {"fp8-weight-only": ROUNDED_BAR, "fp8-dynamic": 5e-2, "int8-dynamic": 2e-2, KEPT_EXPERTS: 5e-2,
               FP8_TENSOR: 5e-2}


def octavo_logits(folder, scratch, sequences, ranks=1, chunk=0, isa="auto", cache="auto"):
    ids, out = scratch / "ids.txt", scratch / "logits.bin"
    ids.write_text("".join(" ".join(map(str, row)) + "\n" for row in sequences.tolist()))
    subprocess.run([TOOL, folder, ids, out, str(ranks), str(chunk), isa, cache], check=True)
    return out.read_bytes()


def as_tensor(raw, sequences):
    return torch.frombuffer(bytearray(raw), dtype=torch.float32).view(*sequences.shape, -1)


def relative(mine, theirs):
    return ((mine - theirs).norm() / theirs.norm()).item()


def top1(mine, theirs):
    """Share of positions with the same token on top, of those where transformers' first two are apart."""
    best = theirs.topk(2, -1)
    clear = best.values[..., 0] - best.values[..., 1] > NEAR_TIE * theirs.std()
    same = mine.argmax(-1) == best.indices[..., 0]
    return (same & clear).sum().item() / clear.sum().item()


def read_all(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})
    return tensors


class Checker:
    def __init__(self, scratch):
        self.scratch, self.failures = scratch, 0
        smol.octavo("synth", "--vocab", tiny_models.VOCAB, "--layers", 1, "--hidden", 32, "--heads", 2, "--out",
                    scratch / "synth", stdout=subprocess.DEVNULL)

    def expect(self, good, text):
        self.failures += not good
        print(f"  {'ok  ' if good else 'FAIL'} {text}", flush=True)

    def folder_of(self, case, model):
        folder = self.scratch / case.name
        kept = {name: p.clone() for name, p in model.state_dict().items()}
        model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=case.shard)
        model.float().load_state_dict(kept)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(self.scratch / "synth" / name, folder)
        return folder

    def check_decoder(self, folder, sequences, mine, theirs):
        exact, rounded = (torch.stack([decoder.Decoder(folder, rounding).logits(ids) for ids in sequences]).float()
                          for rounding in (False, True))
        error = relative(exact, theirs)
        self.expect(error <= EXACT_BAR, f"the forward pass without rounding against transformers: {error:.1e}")
        error = relative(mine, rounded)
        self.expect(error <= ROUNDED_BAR, f"Octavo against the forward pass with its rounding: {error:.5f}")

    def check_spellings(self, folder, experts, sequences, want):
        """DBRX's experts under the other names that folders have: the same bytes come out."""
        tensors = read_all(folder)
        wrong = []
        for spelling in (".{part}.weight", ".{expert}.{part}.weight", "_experts.{expert}.{part}.weight"):
            target = self.scratch / f"{folder.name}-respelled"
            target.mkdir()
            save_file(tiny_models.respelled(tensors, spelling, experts), target / "model.safetensors",
                      metadata={"format": "pt"})
            shutil.copy(folder / "config.json", target)
            if octavo_logits(target, self.scratch, sequences) != want:
                wrong.append(spelling)
            shutil.rmtree(target)
        self.expect(not wrong, f"same bytes with experts dotted and split {wrong or ''}")

    def check_digests(self, case, folder, sequences, want):
        settings = [dict(ranks=ranks) for ranks in range(2, case.tensor_parallel + 1)]
        settings += [dict(chunk=7), dict(isa="reference"), dict(isa="avx2"),
                     dict(ranks=case.tensor_parallel, chunk=13, isa="avx2")]
        wrong = [one for one in settings if octavo_logits(folder, self.scratch, sequences, **one) != want]
        self.expect(not wrong,
                    f"same bytes in {len(settings) + 1} settings, TP 1 to {case.tensor_parallel} {wrong or ''}")

    def check_ablations(self, case, seed, model, sequences, base):
        moved = {}
        for name, remove in tiny_models.ablations(model).items():
            broken = tiny_models.make(case, seed)
            remove(broken)
            moved[name] = abs(tiny_models.nll(tiny_models.logits_of(broken, sequences), sequences) - base)
        text = ", ".join(f"{name} {change:.2f}" for name, change in moved.items())
        self.expect(min(moved.values()) > ABLATION_BAR, f"without each part the NLL moves: {text}")

    def check_perplexity(self, case, folder, sequences, want):
        ids = self.scratch / "ids.jsonl"
        ids.write_text("".join(json.dumps({"ids": row}) + "\n" for row in sequences.tolist()))
        done = smol.octavo("eval", "ppl", folder, "--ids", ids, "--window", sequences.shape[1], "--tp",
                           case.tensor_parallel, "--json", capture_output=True)
        mine = json.loads(done.stdout.strip().splitlines()[-1])["nll"]
        self.expect(abs(mine - want) <= NLL_BAR, f"octavo eval ppl --tp {case.tensor_parallel}: {mine:.4f}, "
                    f"transformers {want:.4f}")

    def check_recipe(self, case, folder, sequences, recipe):
        out = self.scratch / f"{case.name}-{recipe}"
        if recipe in RECIPE_FILES:
            (self.scratch / recipe).write_text(RECIPE_FILES[recipe])
        smol.octavo("quantize", folder, "--recipe", self.scratch / recipe if recipe in RECIPE_FILES else recipe,
                    "--out", out, capture_output=True)
        emulated = decoder.Decoder(out, True)
        theirs = torch.stack([emulated.logits(ids) for ids in sequences])
        raw = octavo_logits(out, self.scratch, sequences)
        error = relative(as_tensor(raw, sequences), theirs)
        same = all(octavo_logits(out, self.scratch, sequences, ranks=ranks) == raw
                   for ranks in range(2, case.tensor_parallel + 1))
        self.expect(error <= RECIPE_BARS[recipe] and same, f"{recipe}: {len(emulated.quantized)} matrices, relative L2 "
                    f"to the forward pass with its rounding {error:.5f}, same bytes at every TP")

    def check_static(self, case, folder, sequences):
        target = self.scratch / f"{folder.name}-static"
        observer = decoder.Decoder(folder, True)
        for ids in sequences:
            observer.logits(ids)
        static_folder.write(folder, target, read_all(folder), observer.seen, STATIC_RANGE)
        plain = torch.stack([observer.logits(ids) for ids in sequences])
        results = {}
        for cache in ("fp8", "bf16"):
            emulated = decoder.Decoder(target, True, fp8_cache=cache == "fp8")
            theirs = torch.stack([emulated.logits(ids) for ids in sequences])
            results[cache] = octavo_logits(target, self.scratch, sequences, cache=cache)
            error = relative(as_tensor(results[cache], sequences), theirs)
            self.expect(error <= STATIC_BAR, f"static inputs, {cache} cache: relative L2 to the forward pass with its "
                        f"rounding {error:.5f}, to the BF16 model {relative(theirs, plain):.3f}")
        self.expect(results["fp8"] != results["bf16"], "the cache's scales matter")
        self.check_digests(case, target, sequences, results["fp8"])

    def check(self, case, seed):
        print(f"{case.name}", flush=True)
        model = tiny_models.make(case, seed)
        sequences = tiny_models.sample(model)
        theirs = tiny_models.logits_of(model, sequences)
        folder = self.folder_of(case, model)
        raw = octavo_logits(folder, self.scratch, sequences)
        mine = as_tensor(raw, sequences)
        error, share = relative(mine, theirs), top1(mine, theirs)
        self.expect(error <= LOGITS_BAR, f"relative L2 of logits to transformers in float32: {error:.5f}")
        self.expect(share >= 0.99, f"same token on top outside near-ties: {100 * share:.1f} %")
        self.check_decoder(folder, sequences, mine, theirs)
        self.check_digests(case, folder, sequences, raw)
        if case.config.model_type == "dbrx":
            self.check_spellings(folder, case.config.ffn_config.moe_num_experts, sequences, raw)
        base = tiny_models.nll(theirs, sequences)
        self.check_ablations(case, seed, model, sequences, base)
        self.check_perplexity(case, folder, sequences, base)
        self.check_static(case, folder, sequences)
        for recipe in case.recipes:
            self.check_recipe(case, folder, sequences, recipe)


def main():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        checker = Checker(pathlib.Path(scratch))
        for seed, case in enumerate(tiny_models.cases(), 11):
            if wanted and not any(part in case.name for part in wanted):
                continue
            try:
                checker.check(case, seed)
            except subprocess.CalledProcessError as error:
                checker.expect(False, f"{' '.join(map(str, error.cmd))}: {error.stderr or ''}")
    print("check_families:", "ok" if checker.failures == 0 else f"{checker.failures} failures")
    return 1 if checker.failures else 0


if __name__ == "__main__":
    sys.exit(main())
