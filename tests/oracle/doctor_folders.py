"""Folders for the oracles of `octavo doctor`: small models quantized by Octavo, and copies of them with one thing wrong each.

A case is a name, the good folder it is made of and what is done to the copy. Nothing here says what should come of it:
check_doctor.py and doctor_vllm.py look at what the readers do and compare that with what doctor foretold.
"""

import dataclasses
import json
import pathlib
import shutil
import struct
import subprocess
from typing import Callable

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

import smol
import tiny_models
from recipe_texts import BLOCKS, PER_TENSOR, STATIC

FP8 = torch.float8_e4m3fn
LAYER = "model.layers.0."
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
Q, K, V, O = (LAYER + f"self_attn.{part}_proj" for part in "qkvo")
GATE, UP, DOWN = (LAYER + f"mlp.{part}_proj" for part in ("gate", "up", "down"))
ATTENTION = LAYER + "self_attn"
S, I = O + ".weight_scale", O + ".input_scale"
CACHE = (ATTENTION + ".k_scale", ATTENTION + ".v_scale")
SIZES = dict(vocab_size=512, hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256)
# 576 and 320 are no multiples of 128.
RAGGED = dict(SIZES, hidden_size=320, intermediate_size=576, num_attention_heads=5, num_key_value_heads=1)
LENGTH = 48



class Folder:
    """A checkpoint in memory: change `config` and `tensors`, then `save`."""

    def __init__(self, source):
        self.source = source
        self.config = json.loads((source / "config.json").read_text())
        self.tensors = {}
        for path in sorted(source.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                self.tensors.update({name: file.get_tensor(name) for name in file.keys()})
        self.parts = None  # sharded: lists of names
        self.finish = lambda folder: None  # what is done to the written files

    @property
    def quantization(self):
        return self.config["quantization_config"]

    @property
    def weights(self):
        return self.quantization["config_groups"]["group_0"]["weights"]

    @property
    def inputs(self):
        return self.quantization["config_groups"]["group_0"]["input_activations"]

    def shard(self):
        """Into two files, the first layer in the first."""
        first = [name for name in self.tensors if name.startswith(LAYER)]
        self.parts = [first, [name for name in self.tensors if name not in first]]

    def real(self, module):
        """The matrix that codes and scales (one or one for each row) stand for."""
        scale = self.tensors[module + ".weight_scale"].float()
        return self.tensors[module + ".weight"].float() * (scale.reshape(-1, 1) if scale.numel() > 1 else scale)

    def save(self, target):
        target.mkdir()
        for path in self.source.iterdir():
            if path.suffix != ".safetensors" and path.name not in ("config.json", "manifest.json",
                                                                   "model.safetensors.index.json", "README.md"):
                shutil.copy(path, target)
        (target / "config.json").write_text(json.dumps(self.config, indent=2))
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        if self.parts is None:
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        else:
            weight_map = {}
            for number, names in enumerate(self.parts, 1):
                file = f"model-{number:05d}-of-{len(self.parts):05d}.safetensors"
                save_file({name: tensors[name] for name in names}, target / file, metadata={"format": "pt"})
                weight_map.update({name: file for name in names})
            write_index(target, weight_map)
        self.finish(target)


def index_of(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2))


def edit_index(change):
    def finish(folder):
        weight_map = index_of(folder)
        change(weight_map)
        write_index(folder, weight_map)
    return finish


def header_of(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + size]), raw[8 + size:]


def write_raw(path, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_header(change):
    """`change(header)` returns how many bytes of data more there are."""
    def finish(folder):
        path = folder / "model.safetensors"
        header, data = header_of(path)
        more = change(header) or 0
        write_raw(path, header, data[:len(data) + more] if more < 0 else data + b"\0" * more)
    return finish


def split_group(folder):
    """q with twice the scale of k and v and codes of half the size: the same numbers but for the smallest."""
    name = Q + ".weight"
    folder.tensors[name] = (folder.tensors[name].float() / 2).to(FP8)
    folder.tensors[name + "_scale"] = folder.tensors[name + "_scale"] * 2


@dataclasses.dataclass
class Case:
    name: str
    base: str
    change: Callable[[Folder], None]


CASES = []


def case(base, name=None):
    def add(change):
        CASES.append(Case(f"{base}.{(name or change.__name__).replace('_', '-')}", base, change))
        return change
    return add


def cases(base, **changes):
    """One case for each keyword, whose value changes the folder and may return anything."""
    for name, change in changes.items():
        case(base, name)(change)


def put(tensors, name, value):
    tensors[name] = value


def fill(folder, name, value, where=0):
    """One element of a tensor of scales."""
    tensor = folder.tensors[name].clone()
    tensor.view(-1)[where] = value
    folder.tensors[name] = tensor


def drop(folder, *names):
    for name in names:
        del folder.tensors[name]


def reshape(folder, name, *shape):
    folder.tensors[name] = folder.tensors[name].reshape(shape)


def cast(folder, name, dtype):
    folder.tensors[name] = folder.tensors[name].to(dtype)


def code(folder, name, byte):
    raw = folder.tensors[name].view(torch.uint8).clone()
    raw.view(-1)[7] = byte
    folder.tensors[name] = raw.view(folder.tensors[name].dtype)


def after(folder, finish, sharded=False):
    if sharded:
        folder.shard()
    folder.finish = finish


def prune(model):
    """Of every four inputs of a layer's matrices the two with the smallest weights become zero."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("_proj.weight"):
                fours = weight.view(len(weight), -1, 4)
                fours.scatter_(-1, fours.abs().topk(2, dim=-1, largest=False).indices, 0)


# ---- The good folders.

def models():
    """By name: the model's case (tiny_models) and the recipe, a preset or YAML; none: the model itself."""
    llama = tiny_models.llama("doctor", **SIZES)
    ragged = tiny_models.llama("doctor-ragged", **RAGGED)
    sparse = tiny_models.llama("doctor-sparse", **SIZES)
    tied = tiny_models.llama("doctor-tied", tie_word_embeddings=True, **SIZES)
    dbrx = tiny_models.dbrx("doctor-dbrx", 2, 1, kv_heads=2, n_heads=4, d_model=128, hidden=64)
    dbrx.config.vocab_size = SIZES["vocab_size"]
    mixtral = tiny_models.mixtral("doctor-mixtral", 4, 2, **dict(SIZES, hidden_size=128, intermediate_size=128))
    return {
        "plain": (llama, None), "channel": (llama, "fp8-dynamic"), "int8": (llama, "int8-dynamic"),
        "static": (llama, STATIC.replace("DIALECT", "compressed-tensors")), "weight-only": (llama, "fp8-weight-only"),
        "block": (llama, "fp8-block"), "block-ragged": (ragged, "fp8-block"), "tied": (tied, "fp8-dynamic"),
        "autofp8": (llama, STATIC.replace("DIALECT", "fp8")), "autofp8-dynamic": (llama, PER_TENSOR),
        "fp8-block": (llama, BLOCKS), "quark": (llama, STATIC.replace("DIALECT", "quark")),
        "dbrx": (dbrx, PER_TENSOR), "mixtral": (mixtral, "fp8-dynamic"), "sparse": (sparse, "fp8-dynamic"),
    }


class Maker:
    """Makes the good folders in `scratch`, and knows what each model writes."""

    def __init__(self, scratch):
        self.scratch, self.sequences, self.truths = scratch, {}, {}
        smol.octavo("synth", "--vocab", SIZES["vocab_size"], "--layers", 1, "--hidden", 32, "--heads", 2, "--out",
                    scratch / "synth", stdout=subprocess.DEVNULL)

    def source(self, case):
        """The model in BF16."""
        folder = self.scratch / case.name
        if not folder.exists():
            torch.manual_seed(3)
            model = tiny_models.make(case, 31)
            if case.name == "doctor-sparse":
                prune(model)
            ids = self.write(model)
            self.sequences[case.name] = ids
            self.truths[case.name] = next_logprobs(tiny_models.logits_of(model, ids), ids)
            model.to(torch.bfloat16).save_pretrained(folder)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(self.scratch / "synth" / name, folder)
        return folder

    def write(self, model):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(5)
            ids = torch.randint(SIZES["vocab_size"], (2, 1), generator=generator)
            while ids.shape[1] < LENGTH:
                p = torch.softmax(model(ids, use_cache=False).logits[:, -1], -1)
                ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)], 1)
        return ids

    def good(self, name):
        """Folder, token sequences, and what the model in F32 says of them."""
        case, recipe = models()[name]
        source = self.source(case)
        folder = source if recipe is None else self.scratch / f"good-{name}"
        if not folder.exists():
            if "\n" in recipe:
                path = self.scratch / f"{name}.yaml"
                path.write_text(recipe)
                recipe = path
            calibration = ["--calibration", "random", "--seed", 3] if name in ("static", "autofp8", "quark") else []
            smol.octavo("quantize", source, "--recipe", recipe, "--out", folder, *calibration, capture_output=True)
        return folder, self.sequences[case.name], self.truths[case.name]

    def make(self, case, target):
        folder = Folder(self.good(case.base)[0])
        case.change(folder)
        folder.save(target)


def next_logprobs(logits, ids):
    """Of every token but the first of each sequence, the logarithm of its probability."""
    return torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1:, None])[..., 0]


def doctor(folder):
    """What doctor foretells: verdicts by reader, and the findings."""
    done = subprocess.run([str(smol.BIN / "octavo"), "doctor", str(folder), "--json"], capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if not lines:
        raise RuntimeError(f"doctor: {done.stderr}")
    return json.loads(lines[-1])


SAME = 0.05  # of log probabilities, root mean square: the same function
WORSE = 1.2  # a model that differs no more from the truth than the good folder does, quantized in another way
CLOSE = 0.6  # the model itself, quantized


def distance(a, b):
    return (a - b).square().mean().sqrt().item()


def verdict(seen, good, truth):
    """`seen` and `good`: what the reader says of this folder and of the good one; `truth`: of the model in F32."""
    if not torch.isfinite(seen).all():
        return "loads-wrong"
    bar = CLOSE
    if good is not None and distance(good, truth) <= CLOSE:
        if distance(seen, good) <= SAME:
            return "loads"
        bar = WORSE * distance(good, truth)
    return "loads" if distance(seen, truth) <= bar else "loads-wrong"


def chosen(names):
    return [one for one in CASES if not names or any(name in one.name for name in names)]


def table(rows, readers):
    """Prints what was foretold and seen, and counts where they differ."""
    failures = 0
    for name, foretold, seen, codes, note in rows:
        wrong = [reader for reader in readers if foretold[reader] != seen[reader]]
        failures += len(wrong)
        text = "  ".join(f"{reader} {seen[reader]}" + ("" if foretold[reader] == seen[reader] else
                                                        f" (doctor: {foretold[reader]})") for reader in readers)
        print(f"{'FAIL' if wrong else 'ok  '} {name}: {text}  [{', '.join(codes)}]"
              + (f"  {note}" if wrong and note else ""), flush=True)
    return failures
