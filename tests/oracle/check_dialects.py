"""The dialects fp8, quark and compressed-tensors with static scales: what we write others take, and the other way round.

- What `octavo quantize` writes in the dialect fp8 follows vLLM's rules for such folders (VllmFp8 below: which tensors each
  layer needs, their names, types and shapes), and the values are those of the source; so does what calibration writes in all
  three. transformers loads the block form.
- A folder written here as AutoFP8 would, with static inputs and a calibrated cache, is taken by `octavo doctor`; as Quark
  and as compressed-tensors (`octavo convert-dialect`) it holds the same numbers, follows vLLM's rules for quark, and loads
  in transformers with compressed-tensors, which then has our scales; and back again it is what it was.
"""

import json
import os
import re
import shutil

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import FineGrainedFP8Config

import smol
from recipe_texts import BLOCKS, PER_TENSOR, STATIC

FP8 = torch.float8_e4m3fn
F32 = torch.float32
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
SHAPE = ["--layers", 2, "--hidden", 256, "--intermediate", 640, "--heads", 4, "--kv-heads", 2, "--vocab", 512, "--seed", 5]



def tensors(folder):
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            out.update({name: file.get_tensor(name) for name in file.keys()})
    return out


def config(folder):
    return json.loads((folder / "config.json").read_text())


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8) if a.dim() else a,
                                                                     b.view(torch.uint8) if b.dim() else b)


class Vllm:
    """What vLLM does with a folder, tensor by tensor: every parameter of a quantized layer is looked up and put away."""

    def __init__(self, folder):
        self.config, self.held = config(folder), tensors(folder)
        self.rest = dict(self.held)
        self.quantization = self.config["quantization_config"]

    def take(self, name, dtype, *shapes):
        assert name in self.rest, f"{name} is missing"
        tensor = self.rest.pop(name)
        assert tensor.dtype == dtype, f"{name}: {tensor.dtype}"
        assert tuple(tensor.shape) in shapes, f"{name}: {tuple(tensor.shape)}"
        if dtype == F32:
            assert torch.isfinite(tensor).all() and (tensor > 0).all(), f"{name} = {tensor}"
        return tensor

    def linears(self):
        """(module, [outputs, inputs]) of every linear layer inside the model's layers."""
        for name, tensor in self.held.items():
            if re.search(r"\.(?:[qkvo]_proj|gate_proj|up_proj|down_proj|w[123])\.weight$", name):
                yield name.removesuffix(".weight"), tuple(tensor.shape)

    def scalar(self, name):
        return self.take(name, F32, (), (1,)).item()

    def check_shared(self, scales):
        """What vLLM fuses it would quantize again under the largest scale, so they must be equal."""
        groups = {}
        for module, scale in scales.items():
            parent, _, last = module.rpartition(".")
            for group in FUSED:
                if last in group:
                    groups.setdefault((parent, group), set()).add(scale)
        assert groups and all(len(values) == 1 for values in groups.values()), groups

    def check_rest(self):
        left = [name for name, tensor in self.rest.items() if tensor.dtype != torch.bfloat16 or "scale" in name]
        assert not left, f"nothing takes {left}"
        for kept in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
            assert kept in self.rest or self.config["tie_word_embeddings"], kept


class VllmFp8(Vllm):
    """Fp8Config and Fp8LinearMethod: activation_scheme, ignored_layers by exact name, weight_block_size."""

    def check(self):
        q = self.quantization
        assert q["quant_method"] == "fp8" and q["activation_scheme"] in ("static", "dynamic")
        block, weights, inputs = q.get("weight_block_size"), {}, {}
        modules = list(self.linears())
        known = {module for module, _ in modules} | {"lm_head"}
        known |= {name.removesuffix(".weight") for name in self.held if name.endswith("block_sparse_moe.gate.weight")}
        assert set(q["ignored_layers"]) <= known, "a name that is no module"
        for module, (rows, columns) in modules:
            if module in q["ignored_layers"]:
                continue
            self.take(module + ".weight", FP8, (rows, columns))
            if block:
                assert block == [128, 128] and q["activation_scheme"] == "dynamic" and rows % 128 == columns % 128 == 0
                self.take(module + ".weight_scale_inv", F32, (rows // 128, columns // 128))
                continue
            weights[module] = self.scalar(module + ".weight_scale")
            if q["activation_scheme"] == "static":
                inputs[module] = self.scalar(module + ".input_scale")
        if not block:
            self.check_shared(weights)
        if inputs:
            self.check_shared(inputs)
        if q.get("kv_cache_scheme"):
            for layer in range(self.config["num_hidden_layers"]):
                for name in ("k_scale", "v_scale"):
                    self.scalar(f"model.layers.{layer}.self_attn.{name}")
        self.check_rest()
        return len(modules)


class VllmDbrx(Vllm):
    """The same for DBRX: experts stacked under names with an underscore, one scale each, inputs tied over all of them."""

    def check(self):
        q, experts = self.quantization, self.config["ffn_config"]["moe_num_experts"]
        assert q["quant_method"] == "fp8" and q["export"]["kv_cache_group"] == ["*Wqkv"]
        inner, hidden = self.config["ffn_config"]["ffn_hidden_size"], self.config["d_model"]
        for layer in range(self.config["n_layers"]):
            at = f"transformer.blocks.{layer}."
            assert at + "ffn.router.layer" in q["ignored_layers"]
            for module in ("Wqkv", "out_proj"):
                self.rest.pop(f"{at}norm_attn_norm.attn.{module}.weight")
                self.scalar(f"{at}norm_attn_norm.attn.{module}.weight_scale")
                self.scalar(f"{at}norm_attn_norm.attn.{module}.input_scale")
            for name in ("k_scale", "v_scale"):
                self.scalar(f"{at}norm_attn_norm.attn.{name}")
            scales = {}
            for part in ("w1", "v1", "w2"):
                stack = f"{at}ffn.experts.mlp.{part}"
                self.take(stack + "_weight", FP8, (experts * inner, hidden))
                scales[part] = [self.take(f"{stack}_{kind}_scale", F32, (experts,)) for kind in ("weight", "input")]
                assert (scales[part][1] == scales[part][1][0]).all(), "experts' inputs are not tied"
            assert all(torch.equal(a, b) for a, b in zip(scales["w1"], scales["v1"])), "w1 and v1 differ"
        left = [name for name, tensor in self.rest.items() if tensor.dtype != torch.bfloat16 or "scale" in name]
        assert not left, f"nothing takes {left}"


class VllmQuark(Vllm):
    """QuarkConfig: the keys that it indexes without asking, its FP8 scheme, its cache."""

    def check(self):
        q = self.quantization
        assert q["quant_method"] == "quark"
        group = q["export"]["kv_cache_group"]
        assert isinstance(group, list) and q["export"]["pack_method"] == "reorder"
        assert q["layer_type_quant_config"] == {} and isinstance(q["exclude"], list)
        for name in group:
            spec = q["layer_quant_config"][name]["output_tensors"]
            assert spec["dtype"] == "fp8_e4m3" and spec["qscheme"] == "per_tensor", spec
        one = q["global_quant_config"]
        assert one["output_tensors"] is None and one["bias"] is None
        for part in ("weight", "input_tensors"):
            assert one[part]["dtype"] == "fp8_e4m3" and one[part]["qscheme"] == "per_tensor"
            assert one[part]["is_dynamic"] is False
        weights, inputs = {}, {}
        for module, shape in self.linears():
            if module in q["exclude"]:
                continue
            self.take(module + ".weight", FP8, shape)
            weights[module] = self.scalar(module + ".weight_scale")
            inputs[module] = self.scalar(module + ".input_scale")
            if group and module.endswith((".k_proj", ".v_proj")):
                self.scalar(module + ".output_scale")
        self.check_shared(weights)
        self.check_shared(inputs)
        self.check_rest()
        return len(weights)


def synth(name, *flags):
    folder = smol.CACHE / f"dialects-{name}"
    if not folder.exists():
        smol.octavo("synth", *SHAPE, *flags, "--out", folder)
    return folder


def quantized(source, recipe, *flags):
    name = recipe.split()[1]
    folder, file = smol.CACHE / f"{source.name}-{name}", smol.CACHE / f"{name}.yaml"
    shutil.rmtree(folder, ignore_errors=True)
    file.write_text(recipe)
    smol.octavo("quantize", source, "--recipe", file, "--out", folder, *flags)
    return folder


def calibrated(source, dialect):
    """With static inputs and a cache, out of random ids."""
    return quantized(source, STATIC.replace("DIALECT", dialect), "--calibration", "random", "--seed", 3)


def check_values(source, folder):
    """Every code times its scale is the source's number, as near as eight bits allow."""
    before, after = tensors(source), tensors(folder)
    for name, weight in before.items():
        codes = after[name]
        if codes.dtype != FP8:
            assert same(weight, codes), f"{name} changed"
            continue
        if name + "_scale_inv" in after:
            scale = after[name + "_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
        else:
            scale = after[name + "_scale"]
        error = (codes.float() * scale - weight.float()).abs()
        assert (error <= weight.float().abs() * 2.0**-4 + scale * 2.0**-10 * 1.001).all(), name


def check_ours():
    dense, experts = synth("llama"), synth("mixtral", "--family", "mixtral", "--experts", 4)
    for source in (dense, experts):
        for recipe in (PER_TENSOR, BLOCKS):
            folder = quantized(source, recipe)
            check_values(source, folder)
            layers = VllmFp8(folder).check()
            print(json.dumps({"folder": folder.name, "layers": layers}), flush=True)
    folder = quantized(dense, BLOCKS)
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=F32,
                                                 quantization_config=FineGrainedFP8Config(dequantize=True))
    held, checked = tensors(folder), 0
    for name, parameter in model.named_parameters():
        if name + "_scale_inv" in held:
            scale = held[name + "_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
            wanted = (held[name].float() * scale)
            assert torch.allclose(parameter.float(), wanted, rtol=2.0**-8, atol=0), name
            checked += 1
    assert checked == 14, checked


def check_calibrated():
    dense, experts = synth("llama"), synth("mixtral", "--family", "mixtral", "--experts", 4)
    for source in (dense, experts):
        folder = calibrated(source, "fp8")
        check_values(source, folder)
        layers = VllmFp8(folder).check()
        assert VllmQuark(calibrated(source, "quark")).check() == layers
        print(json.dumps({"folder": folder.name, "layers": layers}), flush=True)
    compressed = calibrated(dense, "compressed-tensors")
    held = {name: tensor.float().reshape(()) if tensor.numel() == 1 else tensor
            for name, tensor in tensors(compressed).items()}
    assert check_compressed(compressed, held) == 14 + 2
    VllmDbrx(calibrated(synth("dbrx", "--family", "dbrx", "--experts", 4), "fp8")).check()


def autofp8(source, folder):
    """A folder with static inputs and a cache, as AutoFP8 writes it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    held, random = tensors(source), torch.Generator().manual_seed(3)
    amax = {}

    def key(name):
        for group in FUSED:
            if name.split(".")[-2] in group:
                return name.rsplit(".", 2)[0] + "/" + group[0]
        return name

    quantize = [name for name in held if re.search(r"(?:proj|w[123])\.weight$", name)]
    for name in quantize:
        amax[key(name)] = max(amax.get(key(name), 0.0), held[name].float().abs().max().item())
    inputs = {}
    for name in quantize:
        scale = torch.tensor(amax[key(name)] / 448, dtype=F32)
        codes = (held[name].float() / scale).clamp(-448, 448).to(FP8)
        held[name], held[name + "_scale"] = codes, scale
        module = name.removesuffix(".weight")
        inputs.setdefault(key(name), torch.rand((), generator=random) + 0.01)
        held[module + ".input_scale"] = inputs[key(name)].clone()
        if module.endswith(".k_proj"):
            held[module.removesuffix(".k_proj") + ".k_scale"] = torch.rand((), generator=random) + 0.01
            held[module.removesuffix(".k_proj") + ".v_scale"] = torch.rand((), generator=random) + 0.01
    for path in folder.glob("*.safetensors"):
        path.unlink()
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    text = config(folder)
    text["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"],
                                   "kv_cache_scheme": "static"}
    (folder / "config.json").write_text(json.dumps(text))
    return held


def check_compressed(folder, held):
    """transformers with compressed-tensors has the scales of `held`, where it uses them."""
    scheme = config(folder)["quantization_config"]
    assert scheme["kv_cache_scheme"]["dynamic"] is False and scheme["kv_cache_scheme"]["strategy"] == "tensor"
    model, info = AutoModelForCausalLM.from_pretrained(str(folder), dtype=F32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), f"{key}: {info[key]}"
    checked = 0
    for name, module in model.named_modules():
        if name + ".input_scale" not in held:
            continue
        args = module.quantization_scheme.input_activations
        assert args.dynamic is False and str(args.strategy) == "tensor" and args.num_bits == 8, args
        assert module.input_scale.item() == held[name + ".input_scale"].item(), name
        weight = module.weight.detach()
        if weight.dtype == FP8:
            weight = weight.float() * module.weight_scale.float()
        wanted = held[name + ".weight"].float() * held[name + ".weight_scale"]
        assert torch.allclose(weight.float(), wanted, rtol=2.0**-8, atol=0), name
        checked += 1
    for name, module in model.named_modules():
        if name + ".k_scale" in held:
            for part in ("k_scale", "v_scale"):
                assert getattr(module, part).item() == held[f"{name}.{part}"].item(), f"{name}.{part}"
            checked += 1
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(64)[None]).logits).all()
    return checked


def convert(source, dialect):
    folder = source.with_name(f"{source.name}-{dialect}")
    shutil.rmtree(folder, ignore_errors=True)
    smol.octavo("convert-dialect", source, folder, "--dialect", dialect)
    smol.octavo("doctor", folder)
    return folder


def check_foreign():
    source = synth("llama")
    folder = smol.CACHE / "dialects-autofp8"
    held = autofp8(source, folder)
    VllmFp8(folder).check()
    smol.octavo("doctor", folder)
    quark = convert(folder, "quark")
    assert VllmQuark(quark).check() == 14
    compressed = convert(quark, "compressed-tensors")
    assert check_compressed(compressed, held) == 14 + 2
    back = tensors(convert(compressed, "fp8"))
    assert back.keys() == held.keys()
    assert all(same(held[name], back[name]) for name in held)
    print(json.dumps({"folder": "autofp8", "tensors": len(held)}), flush=True)


if __name__ == "__main__":
    check_ours()
    check_calibrated()
    check_foreign()
    print("ok: the dialects are read by the rules of their readers")
