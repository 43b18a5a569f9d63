#!/usr/bin/env python3
"""--compat autofp8, quark-2024 and quark-0.13 on SmolLM2, against the arithmetic of the tools done by torch in BF16, and
against amd-quark 0.13 itself where the environment has it (install_peers.sh; AutoFP8 and the Quark of 2024 are on no index).

Weights: every code, every scale bit for bit. Static scales: what our observer makes of the activations that the tool saw
has the bits of the tool's scales. Whole runs on the same token ids: within 2^-7 for 95 % of the layers, all within 5 %; or,
as no two ways of multiplying BF16 matrices round alike and a real model's largest values come from a few tokens, ours are as
near as the tool's to what transformers in float32 makes of them: as many within 2^-7 but for one layer in fifty, and none
off by more than 5 % where the tool is nearer. AutoFP8 calibrates the quantized model, which is not imitated: its scales are
compared with those of the model as it is, and how far the tool's own pass is from ours is printed, no more.

usage: check_compat.py [MODE...] [--peers]     --peers: amd-quark has to be there
Environment: as smol.py.
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import transformers
from safetensors import safe_open

import smol

TOOL = smol.BIN.parent / "tests" / "scale_tool"
COMPAT = {"autofp8": 2, "quark-2024": 3, "quark-0.13": 4}  # octavo.v1.Compat
DTYPES = {torch.float32: 1, torch.bfloat16: 3}             # octavo.v1.DType
NEAR, FAR, SHARE, SLACK = 2.0**-7, 0.05, 0.95, 0.02
SAMPLES, LENGTH = 12, 192
FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max


def to_fp8(x):
    return x.clamp(-LARGEST, LARGEST).to(FP8)


class AutoFp8:
    """A factor of the tensor's type; products of that type; the scale is the factor's reciprocal in float32."""

    joint_cache = False

    @staticmethod
    def factor(x):
        return LARGEST / x.abs().max().clamp(min=1e-12)

    @classmethod
    def scale(cls, x):
        return cls.factor(x).float().reciprocal()

    @classmethod
    def codes(cls, x):
        return to_fp8(x * cls.factor(x))


class Quark2024:
    """A quotient of the tensor's type, kept as float32."""

    joint_cache = True

    @staticmethod
    def scale(x):
        return (x.abs().max() / LARGEST).float()

    @classmethod
    def codes(cls, x):
        return to_fp8(x / cls.scale(x))


class Quark013(Quark2024):
    """The same, kept in the tensor's type."""

    @staticmethod
    def scale(x):
        return x.abs().max() / LARGEST


TOOLS = {"autofp8": AutoFp8, "quark-2024": Quark2024, "quark-0.13": Quark013}


class AutoFp8Linear(torch.nn.Module):
    """The layer as AutoFP8 calibrates it: codes of inputs by the scale of this sequence, read with the largest so far."""

    def __init__(self, linear, is_cache):
        super().__init__()
        weight = AutoFp8.codes(linear.weight).to(linear.weight.dtype)
        self.weight = weight * AutoFp8.scale(linear.weight).to(weight.dtype)
        self.bias = linear.bias
        self.is_cache = is_cache
        self.inputs, self.outputs = [], []
        self.input_scale = self.output_scale = torch.tensor(0.0)

    def forward(self, x):
        self.inputs.append(x.flatten())
        self.input_scale = torch.maximum(self.input_scale, AutoFp8.scale(x))
        out = torch.nn.functional.linear(AutoFp8.codes(x).to(x.dtype) * self.input_scale, self.weight, self.bias)
        if not self.is_cache:
            return out
        self.outputs.append(out.flatten())
        scale = AutoFp8.scale(out)
        self.output_scale = torch.maximum(self.output_scale, scale)
        return AutoFp8.codes(out).to(out.dtype) * scale


def load(dtype=torch.bfloat16):
    return transformers.AutoModelForCausalLM.from_pretrained(smol.bf16(), dtype=dtype, attn_implementation="eager").eval()


def linears(model):
    return {name: module for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def is_cache(name):
    return name.endswith(("k_proj", "v_proj"))


@torch.inference_mode()
def run(model, samples):
    for ids in samples:
        model(torch.tensor([ids]))


def pass_of_autofp8(samples):
    """({point: everything that went by}, {tensor name: scale}) of the tool's own pass, one sequence after the other."""
    model = load()
    made = {}
    for name, linear in linears(model).items():
        made[name] = AutoFp8Linear(linear, is_cache(name))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[name])
    run(model, samples)
    seen, scales = {}, {}
    for name, module in made.items():
        seen[name + ".input"] = torch.cat(module.inputs)
        scales[name + ".input_scale"] = module.input_scale
        if module.is_cache:
            seen[name + ".output"] = torch.cat(module.outputs)
            scales[f"{name.rpartition('.')[0]}.{name[-6]}_scale"] = module.output_scale
    return seen, scales


def seen_by(model, samples, keep_of=torch.flatten):
    """{layer.input or projection.output: what `keep_of` keeps of everything that went by, in BF16} of the whole model."""
    seen = {}

    def keep(name, x):
        seen.setdefault(name, []).append(keep_of(x.detach()).bfloat16())

    for name, linear in linears(model).items():
        linear.register_forward_pre_hook(lambda _, inputs, name=name: keep(name + ".input", inputs[0]))
        if is_cache(name):
            linear.register_forward_hook(lambda _, __, out, name=name: keep(name + ".output", out))
    run(model, samples)
    return {name: torch.cat(values) for name, values in seen.items()}


def scales_of_activations(tool, seen):
    """{tensor name: scale} that a tool without a pass of its own makes of them."""
    scales = {}
    for name, values in seen.items():
        layer, _, what = name.rpartition(".")
        attention = layer.rpartition(".")[0]
        if what == "input":
            scales[layer + ".input_scale"] = tool.scale(values)
        else:
            both = [seen[f"{attention}.{part}_proj.output"] for part in "kv"]
            scales[f"{attention}.{layer[-6]}_scale"] = tool.scale(torch.cat(both) if tool.joint_cache else values)
    return scales


def our_scales(mode, seen):
    """{point: scale} by our observer."""
    tool = TOOLS[mode]
    stored = DTYPES[tool.scale(torch.ones(1, dtype=torch.bfloat16)).dtype]
    with tempfile.TemporaryFile() as points:
        for name, values in seen.items():
            if name.endswith(".output") and tool.joint_cache:
                attention = name.rpartition(".")[0].rpartition(".")[0]
                values = torch.cat([seen[f"{attention}.{part}_proj.output"] for part in "kv"])
            points.write(struct.pack("<IIQ", COMPAT[mode], stored, values.numel()))
            points.write(values.view(torch.int16).numpy().tobytes())
        points.seek(0)
        lines = subprocess.run([str(TOOL)], stdin=points, capture_output=True, check=True).stdout.split()
    return {name: struct.unpack(">f", bytes.fromhex(line.decode()))[0] for name, line in zip(seen, lines, strict=True)}


def read(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})
    return tensors


class Checks:
    def __init__(self):
        self.failures = 0

    def check(self, what, good, detail=""):
        print(f"{'ok' if good else 'FAILED'}: {what}{': ' * bool(detail)}{detail}", flush=True)
        self.failures += not good

    def weights(self, what, ours, expected):
        """`expected`: {layer: (codes, scale)}"""
        codes = different = scales = 0
        for name, (theirs, scale) in expected.items():
            mine = ours[name + ".weight"]
            codes += mine.numel()
            different += (mine.view(torch.uint8) != theirs.view(torch.uint8)).sum().item()
            stored = ours[name + ".weight_scale"]
            scales += stored.dtype == scale.dtype and stored.shape == scale.shape and torch.equal(stored, scale)
        self.check(f"{what}, weights", different <= 1e-4 * codes and scales == len(expected),
                   f"{codes - different} of {codes} codes and {scales} of {len(expected)} scales equal")

    def bits(self, what, found, expected):
        same = sum(found[name] == expected[name].float().item() for name in expected)
        self.check(what, same == len(expected) > 0, f"{same} of {len(expected)} scales bit-equal")

    def whole(self, what, ours, expected, exact=None):
        """`exact`: of the model in float32; where there is none, no bar is held."""
        def off(scales, others):
            return {name: abs(scales[name].item() / others[name].item() - 1) for name in expected}

        def near(differences):
            return sum(difference <= NEAR for difference in differences.values())

        apart = off(ours, expected)
        kinds = all(ours[name].dtype == scale.dtype and ours[name].shape == scale.shape for name, scale in expected.items())
        worst = max(apart, key=apart.get)
        text = f"{near(apart)} of {len(apart)} scales within 2^-7, worst {apart[worst]:.2%} ({worst})"
        if exact is None:
            self.check(what + " (no bar)", kinds, text)
            return
        mine, theirs = off(ours, exact), off(expected, exact)
        far = [name for name in expected if apart[name] > FAR and mine[name] >= theirs[name]]
        many = near(apart) >= SHARE * len(apart) or near(mine) >= near(theirs) - SLACK * len(apart)
        self.check(what, kinds and not far and many,
                   f"{text}; of float32's, {near(mine)} of ours and {near(theirs)} of the tool's, worst "
                   f"{max(mine.values()):.2%} and {max(theirs.values()):.2%}")


def by_tensor(found):
    """The names of scales for those of points."""
    names = {}
    for name, value in found.items():
        layer, _, what = name.rpartition(".")
        names[layer + ".input_scale" if what == "input" else f"{layer.rpartition('.')[0]}.{layer[-6]}_scale"] = value
    return names


def quantized(mode, ids, scratch, dialect="fp8"):
    out = scratch / f"{mode}-{dialect}"
    recipe = scratch / f"{dialect}.yaml"
    text = smol.octavo("recipe", "show", "fp8-static-kv", capture_output=True).stdout
    recipe.write_text(text.replace("dialect: fp8", f"dialect: {dialect}"))
    smol.octavo("quantize", smol.bf16(), "--recipe", recipe, "--compat", mode, "--out", out, "--workers", "2",
                "--calibration", ids, "--packing", "each", "--samples", SAMPLES, "--sample-length", LENGTH,
                capture_output=True)
    return read(out), json.loads((out / "config.json").read_text())["quantization_config"]


def quark(samples, scratch, custom_mode):
    """What amd-quark 0.13 makes: (tensors, quantization_config)."""
    from quark.torch import LLMTemplate, ModelQuantizer, export_safetensors
    from quark.torch.utils.llm.model_preparation import preprocess_for_quantization
    out = scratch / f"quark-{custom_mode}"
    model = load()
    preprocess_for_quantization(model)
    config = LLMTemplate.get("llama").get_config(scheme="fp8", kv_cache_scheme="fp8", exclude_layers=["lm_head"])
    quantizer = ModelQuantizer(config)
    model = quantizer.quantize_model(model, torch.utils.data.DataLoader([torch.tensor(ids) for ids in samples]))
    model = quantizer.freeze(model)
    with torch.no_grad():
        export_safetensors(model, str(out), custom_mode=custom_mode)
    return read(out), json.loads((out / "config.json").read_text())["quantization_config"]


def check_quark(checks, samples, ids, seen, exact, scratch):
    for dialect in ("fp8", "quark"):
        theirs, config = quark(samples, scratch, dialect)
        ours, our_config = quantized("quark-0.13", ids, scratch, dialect)
        what = f"amd-quark 0.13, {dialect}"
        names = {name for name in theirs if name != "lm_head.weight"}
        checks.check(f"{what}, tensors", names == set(ours),
                     f"{len(names)} names; {sorted(names ^ set(ours))[:4]}" if names != set(ours) else f"{len(names)} names")
        layers = [name.removesuffix(".weight_scale") for name in theirs if name.endswith(".weight_scale")]
        checks.weights(what, ours, {name: (theirs[name + ".weight"], theirs[name + ".weight_scale"]) for name in layers})
        static = {name: scale for name, scale in theirs.items()
                  if name.endswith(("input_scale", "k_scale", "v_scale", "output_scale"))}
        ours_of_seen = by_tensor(our_scales("quark-0.13", seen))
        for part in "kv":
            ours_of_seen |= {name.replace(f".{part}_scale", f".{part}_proj.output_scale"): value
                             for name, value in ours_of_seen.items() if name.endswith(f".{part}_scale")}
        checks.bits(f"{what}, our observer on recorded activations", ours_of_seen, static)
        scales = scales_of_activations(Quark013, exact)
        for part in "kv":
            scales |= {name.replace(f".{part}_scale", f".{part}_proj.output_scale"): scale
                       for name, scale in scales.items() if name.endswith(f".{part}_scale")}
        checks.whole(f"{what}, whole run", ours, static, scales)
        lacking = sorted(set(config) - set(our_config))
        differing = sorted(key for key in set(config) & set(our_config) if config[key] != our_config[key])
        print(f"{what}: config lacks {lacking}, differs in {differing}")


def main():
    transformers.utils.logging.set_verbosity_error()
    wanted = [word for word in sys.argv[1:] if not word.startswith("--")] or list(TOOLS)
    checks = Checks()
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol.bf16())
    stream = tokenizer(smol.handbook().read_text(encoding="utf-8")[:40000])["input_ids"]
    samples = [stream[i * LENGTH:(i + 1) * LENGTH - i] for i in range(SAMPLES)]
    seen = seen_by(load(), samples)
    exact = seen_by(load(torch.float32), samples, lambda x: x.abs().max().reshape(1))
    weights = {name: module.weight.detach() for name, module in linears(load()).items()}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        ids = scratch / "ids.jsonl"
        ids.write_text("".join(json.dumps({"ids": one}) + "\n" for one in samples))
        for mode in wanted:
            tool = TOOLS[mode]
            ours, _ = quantized(mode, ids, scratch)
            checks.weights(mode, ours, {name: (tool.codes(weight), tool.scale(weight)) for name, weight in weights.items()})
            static = scales_of_activations(tool, seen)
            checks.bits(f"{mode}, our observer on recorded activations", by_tensor(our_scales(mode, seen)), static)
            checks.whole(f"{mode}, whole run", ours, static, scales_of_activations(tool, exact))
            if mode == "autofp8":
                own_seen, own = pass_of_autofp8(samples)
                checks.bits(f"{mode}, our observer on the tool's own pass", by_tensor(our_scales(mode, own_seen)), own)
                checks.whole(f"{mode}, whole run against the tool's own pass", ours, own)
        try:
            import quark.torch  # noqa: F401
            has_quark = True
        except ImportError:
            has_quark = False
        if has_quark and "quark-0.13" in wanted:
            check_quark(checks, samples, ids, seen, exact, scratch)
        else:
            checks.check("amd-quark", "--peers" not in sys.argv, "not run" if not has_quark else "not asked for")
    sys.exit(checks.failures > 0)


if __name__ == "__main__":
    main()
