"""transformers with compressed-tensors loads an eight-bit output head as we write it, and computes with it.

SmolLM2's head is its embedding: the output has to have one of its own. A random model has one from the start. For each scheme
that a head may have: its codes and scales are those of a recomputation in torch from the source's matrix, the embedding is the
source's, the reader finds no key missing or unexpected, holds code * scale and quantizes the head's input where the recipe
says so, and its loss is ours within what rounding moves it. The reader given the same folder with the scales of every other
token 5 % too large, of the others 5 % too small, has to fail that bar where the model is a trained one.

Run in the environment of install.sh. Environment: as smol.py.
"""

import json
import shutil

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

import smol
from check_compressed_tensors import fitting, load, nll, spread, tensors

KEEP = "  - {weight: keep}\n"
INT8 = "weight: {type: int8, scale: channel}, input: {type: int8, scale: token}"
FP8 = "weight: {type: fp8, scale: channel}, input: {type: fp8, scale: token}"
HEADS = {
    "head-int8": (INT8, KEEP, "token"),
    "head-fp8": (FP8, KEEP, "token"),
    "head-fp8-tensor": ("weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: token}", KEEP, "token"),
    "head-fp8-weight-only": ("weight: {type: fp8, scale: channel}", KEEP, None),
    "head-int8-all": (INT8, f"  - {{{INT8}}}\n", "token"),
    "head-int8-mixed": (INT8, f"  - {{{FP8}}}\n", "token"),
}
# Nats per token between the reader in float32 and us in BF16. Inputs that are quantized per token magnify rounding: the last bit
# of a sum moves codes (seen: 0.001 where the head's input stays, 0.002 to 0.010 where only the head quantizes its input).
BAR = {"head-fp8-weight-only": 0.004, "head-int8-all": 0.04, "head-int8-mixed": 0.04}
BAR_INPUTS = 0.02
WRONG = 0.05
TOKENS = 512


def quantize(source, name):
    head, layers, _ = HEADS[name]
    recipe = smol.CACHE / f"{name}.yaml"
    recipe.write_text(f"name: {name}\nrules:\n  - {{roles: [lm_head], {head}}}\n{layers}")
    folder = smol.CACHE / f"{source.name}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    smol.octavo("quantize", source, "--recipe", recipe, "--out", folder, "--workers", 2, capture_output=True)
    return folder


def expected(name, weight):
    weight = weight.float()
    largest = 127.0 if "int8" in name else 448.0
    amax = weight.abs().max().reshape(1) if "tensor" in name else weight.abs().amax(dim=1, keepdim=True)
    scale = (amax / largest).bfloat16().clamp(min=2.0**-126)
    ratio = (weight / scale.float()).clamp(-largest, largest)
    codes = ratio.round().to(torch.int8) if "int8" in name else ratio.to(torch.float8_e4m3fn)
    return codes.view(torch.uint8), scale


def check(source, name, ids, trained):
    folder = quantize(source, name)
    before, after = tensors(source), tensors(folder)
    embedding = before["model.embed_tokens.weight"]
    codes, scale = expected(name, before.get("lm_head.weight", embedding))
    assert torch.equal(after["model.embed_tokens.weight"].view(torch.int16), embedding.view(torch.int16))
    assert torch.equal(after["lm_head.weight_scale"], scale), f"{name}: scales differ"
    assert torch.equal(after["lm_head.weight"].view(torch.uint8), codes), f"{name}: codes differ"
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is False and "lm_head" not in config["quantization_config"]["ignore"]

    model = load(folder)
    head = model.lm_head
    weight = head.weight.detach()
    if weight.dtype in (torch.float8_e4m3fn, torch.int8):
        weight = weight.float() * spread(head.weight_scale.float(), weight.shape)
    wanted = after["lm_head.weight"].float() * spread(scale.float(), codes.shape)
    assert torch.allclose(weight.float(), wanted, rtol=2.0**-8, atol=0), f"{name}: {head.weight.dtype}"
    inputs = head.quantization_scheme.input_activations
    assert (inputs and str(inputs.strategy)) == HEADS[name][2], f"{name}: inputs {inputs}"
    assert model.get_input_embeddings().weight.data_ptr() != head.weight.data_ptr()

    path = smol.CACHE / "head.jsonl"
    path.write_text(json.dumps({"ids": ids[0].tolist()}) + "\n")
    done = smol.octavo("eval", "ppl", folder, "--ids", path, "--json", capture_output=True)
    ours, theirs = json.loads(done.stdout.strip().splitlines()[-1])["nll"], nll(model, ids)
    bar = BAR.get(name, BAR_INPUTS)
    wrong = None
    if trained and name in ("head-int8", "head-fp8-weight-only"):
        sign = 1 - 2 * (torch.arange(len(codes)) % 2)
        wrong_scale = (scale.float() * (1 + WRONG * sign[:, None])).to(scale.dtype)
        save_file({**after, "lm_head.weight_scale": wrong_scale}, str(folder / "model.safetensors"), metadata={"format": "pt"})
        wrong = nll(load(folder), ids)
        assert abs(ours - wrong) > bar, f"{name}: wrong scales are not noticed: {ours} and {wrong}"
    print(json.dumps({"model": source.name, "recipe": name, "octavo": round(ours, 5), "transformers": round(theirs, 5),
                      "wrong": wrong and round(wrong, 5), "bar": bar}), flush=True)
    assert abs(ours - theirs) <= bar, f"{name}: {ours} and {theirs}"
    shutil.rmtree(folder)


def main():
    source = smol.bf16()
    text = smol.handbook().read_text(encoding="utf-8")[:8 * TOKENS]
    ids = AutoTokenizer.from_pretrained(str(source))(text, return_tensors="pt")["input_ids"][:, :TOKENS]
    for name in HEADS:
        check(source, name, ids, True)
    source, _ = fitting("fp8-block")
    ids = torch.randint(0, 256, (1, 200), generator=torch.Generator().manual_seed(1))
    for name in HEADS:
        check(source, name, ids, False)
    print("ok: an eight-bit head is read as it is written")


if __name__ == "__main__":
    main()
