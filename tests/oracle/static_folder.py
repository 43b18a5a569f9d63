"""Makes a checkpoint with static scales out of a BF16 one, by hand: FP8 weights with one scale each, a scale for the input
of every linear layer, and scales of keys and values. Scales follow from the largest magnitudes that decoder.Decoder saw."""

import json
import shutil

import torch
from safetensors.torch import save_file

ROUTERS = (".block_sparse_moe.gate", ".ffn.router.layer")


def fp8(x, scale):
    return (x.float() / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)


def is_linear(name, tensor):
    in_layer = ".layers." in name or ".attn." in name
    return in_layer and tensor.ndim == 2 and not name.removesuffix(".weight").endswith(ROUTERS)


def write(source, target, tensors, seen, clip):
    """`tensors`: all of `source`. `clip`: the part of a static range that is kept; what lies outside saturates."""
    out, ignored = {}, ["lm_head"]
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if not is_linear(name, tensor):
            out[name] = tensor
            ignored += [module] if module.endswith(ROUTERS) else []
            continue
        scale = (tensor.float().abs().max() / 448).to(torch.bfloat16).reshape(1)
        out[name], out[name + "_scale"] = fp8(tensor, scale), scale
        out[module + ".input_scale"] = torch.tensor([clip * seen[module] / 448], dtype=torch.bfloat16)
    for name in seen:
        if name.endswith((".k_scale", ".v_scale")):
            out[name] = torch.tensor([clip * seen[name] / 448], dtype=torch.float32)
    target.mkdir()
    save_file(out, target / "model.safetensors", metadata={"format": "pt"})
    args = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "ignore": ignored, "kv_cache_scheme": args,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args, "input_activations": args}}}
    (target / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target)
