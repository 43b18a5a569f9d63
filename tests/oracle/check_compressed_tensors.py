"""transformers with compressed-tensors loads what we write, unchanged, and what we write is what numerics says.

For each preset, on SmolLM2: every code and scale equals a recomputation in torch from the source weights; the reader
finds no key missing, unexpected or misshapen; the weights it holds are code * scale; activations are quantized where the
recipe says so; and its loss stays close to the BF16 model's.
"""

import json
import sys

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import smol

TEXT = ("The history of bookbinding begins with the codex. A printed sheet folded once gives a folio of two leaves, folded "
        "twice a quarto of four, and folded three times an octavo of eight leaves, or sixteen pages. The size of the book "
        "therefore depends on the size of the sheet that the mill made and on the number of times it was folded.")
NLL_BAR = 0.15  # nats over the BF16 model on TEXT; the losses of these formats on this model are below 0.05
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def tensors(folder):
    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def block_amax(weight):
    rows, columns = weight.shape
    padded = torch.zeros(-(-rows // 128) * 128, -(-columns // 128) * 128)
    padded[:rows, :columns] = weight.abs()
    return padded.view(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128).amax(dim=(1, 3))


def spread(scale, shape):
    """The scale of every element of a weight."""
    if scale.shape[1] == 1 and scale.shape[0] == shape[0]:
        return scale.expand(shape)
    return scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:shape[0], :shape[1]]


def recompute(recipe, weight):
    """Codes (as bytes) and stored scales of one BF16 weight, from the definition."""
    weight = weight.float()
    largest = 127.0 if recipe == "int8-dynamic" else 448.0
    amax = block_amax(weight) if recipe == "fp8-block" else weight.abs().amax(dim=1, keepdim=True)
    scale = (amax / largest).bfloat16().clamp(min=2.0**-126)
    scale = torch.where(amax == 0, torch.ones_like(scale), scale)
    ratio = (weight / spread(scale.float(), weight.shape)).clamp(-largest, largest)
    if recipe == "int8-dynamic":
        return ratio.round().to(torch.int8).view(torch.uint8), scale
    return ratio.to(torch.float8_e4m3fn).view(torch.uint8), scale


def check_bytes(recipe, source, output):
    quantized = 0
    for name, weight in source.items():
        if not any(f".{part}.weight" in name for part in PROJECTIONS):
            assert torch.equal(weight.view(torch.int16), output[name].view(torch.int16)), f"{name} changed"
            continue
        codes, scale = recompute(recipe, weight)
        stored = output[name + "_scale"]
        assert stored.dtype == torch.bfloat16 and stored.shape == scale.shape, f"{name}: scale {stored.shape}"
        assert torch.equal(stored, scale), f"{name}: {(stored != scale).sum()} scales differ"
        different = (output[name].view(torch.uint8) != codes).sum().item()
        assert different == 0, f"{name}: {different} codes differ"
        quantized += 1
    assert len(output) == len(source) + quantized
    return quantized


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), f"{key}: {info[key]}"
    return model.eval()


def nll(model, ids):
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].float()
    assert torch.isfinite(logits).all()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()


def check_reader(recipe, model, output):
    """The reader's weights are code * scale, and its linears quantize their inputs where they should."""
    checked = 0
    for name, module in model.named_modules():
        if name.split(".")[-1] not in PROJECTIONS:
            continue
        codes, scale = output[name + ".weight"].float(), output[name + ".weight_scale"].float()
        wanted = codes * spread(scale, codes.shape)
        weight = module.weight.detach()
        if weight.dtype in (torch.float8_e4m3fn, torch.int8):
            weight = weight.float() * spread(module.weight_scale.float(), weight.shape)
        assert torch.allclose(weight.float(), wanted, rtol=2.0**-8, atol=0), f"{name}: {weight.dtype}"
        scheme = module.quantization_scheme
        assert (scheme.input_activations is None) == (recipe == "fp8-weight-only"), name
        checked += 1
    assert checked == 210, checked
    assert not hasattr(model.lm_head, "quantization_scheme") or model.lm_head.quantization_scheme is None


def main():
    recipes = sys.argv[1:] or smol.RECIPES
    source_folder = smol.bf16()
    source = tensors(source_folder)
    ids = AutoTokenizer.from_pretrained(str(source_folder))(TEXT, return_tensors="pt")["input_ids"]
    base = nll(load(source_folder), ids)
    for recipe in recipes:
        folder = smol.quantized(recipe)
        output = tensors(folder)
        quantized = check_bytes(recipe, source, output)
        model = load(folder)
        loss = nll(model, ids)
        check_reader(recipe, model, output)
        print(json.dumps({"recipe": recipe, "tensors": quantized, "nll": round(loss, 4), "bf16_nll": round(base, 4)}),
              flush=True)
        assert abs(loss - base) < NLL_BAR, f"{recipe}: {loss} against {base}"
    print("ok: compressed-tensors reads what we write")


if __name__ == "__main__":
    main()
