"""Cases of `octavo doctor`: files, the model, and what quantization_config says. See doctor_folders.py."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from doctor_folders import (
    ATTENTION, FIRST, FP8, LAYER, O, Q, K, V, SECOND, after, case, cases, cast, drop, edit_header, edit_index, fill,
    put)


cases(
    "channel",
    good=lambda f: None,
    sharded=lambda f: f.shard(),
    config_missing=lambda f: after(f, lambda d: (d / "config.json").unlink()),
    config_cut=lambda f: after(f, lambda d: (d / "config.json").write_text((d / "config.json").read_text()[:200])),
    weights_missing=lambda f: after(f, lambda d: (d / "model.safetensors").unlink()),
    tokenizer_missing=lambda f: after(f, lambda d: [p.unlink() for p in d.glob("tokenizer*")]),
    generation_config_missing=lambda f: after(f, lambda d: (d / "generation_config.json").unlink()),
    truncated=lambda f: after(f, lambda d: (d / "model.safetensors").write_bytes(
        (d / "model.safetensors").read_bytes()[:-10])),
    shard_missing=lambda f: after(f, lambda d: (d / SECOND).unlink(), sharded=True),
    shard_truncated=lambda f: after(f, lambda d: (d / FIRST).write_bytes((d / FIRST).read_bytes()[:-1]), sharded=True),
    index_missing=lambda f: after(f, lambda d: (d / "model.safetensors.index.json").unlink(), sharded=True),
    index_cut=lambda f: after(f, lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {'),
                              sharded=True),
    index_names_nothing=lambda f: after(f, edit_index(lambda m: put(m, LAYER + "mlp.nothing.weight", FIRST)),
                                        sharded=True),
    index_lacks_tensor=lambda f: after(f, edit_index(lambda m: m.pop(Q + ".weight")), sharded=True),
    index_names_other_file=lambda f: after(f, edit_index(lambda m: put(m, Q + ".weight", SECOND)), sharded=True),
    shard_not_indexed=lambda f: after(f, lambda d: save_file(
        {"model.norm.weight": f.tensors["model.norm.weight"]}, d / "model-00003-of-00003.safetensors"), sharded=True),
)


@case("channel")
def tensor_twice(folder):
    folder.shard()
    folder.parts[1].append(Q + ".weight")


@case("channel")
def tensor_twice_differs(folder):
    folder.shard()

    def finish(target):
        path = target / SECOND
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        tensors[Q + ".weight"] = torch.zeros_like(folder.tensors[Q + ".weight"])
        save_file(tensors, path, metadata={"format": "pt"})
    folder.finish = finish


def overlap(header):
    begin, end = header[Q + ".weight"]["data_offsets"]
    header[Q + ".weight"]["data_offsets"] = [begin - 8, end - 8]


def respell(header):
    header[Q + ".weight"]["dtype"] = "F8_E9M9"


def other_format(header):
    header["__metadata__"] = {"format": "tf"}


cases(
    "channel",
    ranges_overlap=lambda f: after(f, edit_header(overlap)),
    bytes_behind=lambda f: after(f, edit_header(lambda h: 16)),
    dtype_unknown=lambda f: after(f, edit_header(respell)),
    no_metadata=lambda f: after(f, edit_header(lambda h: h.pop("__metadata__") and 0)),
    metadata_tf=lambda f: after(f, edit_header(other_format)),
)

# ---- The model.

cases(
    "channel",
    norm_missing=lambda f: drop(f, "model.norm.weight"),
    head_missing=lambda f: drop(f, "lm_head.weight"),
    embedding_missing=lambda f: drop(f, "model.embed_tokens.weight"),
    weight_missing=lambda f: drop(f, O + ".weight"),
    weight_and_scale_missing=lambda f: drop(f, O + ".weight", O + ".weight_scale"),
    name_unknown=lambda f: put(f.tensors, LAYER + "mlp.sinks.weight", torch.ones(4, 4)),
    parameter_unknown=lambda f: put(f.tensors, ATTENTION + ".sinks", torch.ones(4)),
    bias_unknown=lambda f: put(f.tensors, O + ".bias", torch.ones(256, dtype=torch.bfloat16)),
    hidden_smaller=lambda f: f.config.update(hidden_size=128),
    hidden_larger=lambda f: f.config.update(hidden_size=512),
    heads_fewer=lambda f: f.config.update(num_attention_heads=2),
    heads_more=lambda f: f.config.update(num_attention_heads=8),
    kv_heads_fewer=lambda f: f.config.update(num_key_value_heads=1),
    vocabulary_smaller=lambda f: f.config.update(vocab_size=256),
    vocabulary_larger=lambda f: f.config.update(vocab_size=1024),
    mlp_smaller=lambda f: f.config.update(intermediate_size=256),
    mlp_larger=lambda f: f.config.update(intermediate_size=1024),
    layers_fewer=lambda f: f.config.update(num_hidden_layers=1),
    layers_more=lambda f: f.config.update(num_hidden_layers=3),
    tied_with_other_head=lambda f: f.config.update(tie_word_embeddings=True),
    norm_nan=lambda f: fill(f, "model.norm.weight", float("nan")),
)
cases(
    "tied",
    good=lambda f: None,
    stray_head=lambda f: put(f.tensors, "lm_head.weight", f.tensors["model.embed_tokens.weight"].clone()),
    untied=lambda f: f.config.update(tie_word_embeddings=False),
)
cases(
    "plain",
    good=lambda f: None,
    norm_missing=lambda f: drop(f, "model.norm.weight"),
    weight_missing=lambda f: drop(f, O + ".weight"),
    weight_fp8=lambda f: cast(f, O + ".weight", FP8),
    scale_unknown=lambda f: put(f.tensors, O + ".weight_scale", torch.ones(256, 1)),
    mlp_smaller=lambda f: f.config.update(intermediate_size=256),
)

# ---- What quantization_config says.

SPARSITY = {"format": "dense", "global_sparsity": 0.5, "sparsity_structure": "2:4", "targets": ["Linear"],
            "ignore": ["lm_head"], "registry_requires_subclass": False}


@case("channel")
def old_key(folder):
    folder.config["compression_config"] = folder.config.pop("quantization_config")


@case("channel")
def weight_kept_in_group(folder):
    """q stays BF16 and is ignored, k and v do not."""
    folder.tensors[Q + ".weight"] = folder.real(Q).to(torch.bfloat16)
    drop(folder, Q + ".weight_scale")
    folder.quantization["ignore"].append(Q)


@case("channel")
def weight_kept_alone(folder):
    folder.tensors[O + ".weight"] = folder.real(O).to(torch.bfloat16)
    drop(folder, O + ".weight_scale")
    folder.quantization["ignore"].append(O)


@case("channel")
def ignored_yet_quantized_group(folder):
    folder.quantization["ignore"] += [Q, K, V]


@case("channel")
def two_schemes_in_group(folder):
    """q in INT8, everything else in FP8, each named by its group."""
    real = folder.real(Q)
    scale = (real.abs().amax(1, keepdim=True) / 127).to(torch.bfloat16)
    folder.tensors[Q + ".weight"] = (real / scale.float()).round().clamp(-127, 127).to(torch.int8)
    folder.tensors[Q + ".weight_scale"] = scale
    group = folder.quantization["config_groups"]["group_0"]
    other = json.loads(json.dumps(group))
    for args in (other["weights"], other["input_activations"]):
        args["type"] = "int"
    other["targets"], other["format"] = [Q], "int-quantized"
    group["format"] = "float-quantized"
    group["targets"] = [name.removesuffix(".weight_scale") for name in folder.tensors
                        if name.endswith(".weight_scale") and not name.startswith(Q)]
    folder.quantization["config_groups"]["group_1"] = other
    folder.quantization["format"] = "mixed-precision"


cases(
    "channel",
    quantization_gone=lambda f: f.config.pop("quantization_config"),
    method_unknown=lambda f: f.quantization.update(quant_method="eight-bits"),
    method_missing=lambda f: f.quantization.pop("quant_method"),
    status_frozen=lambda f: f.quantization.update(quantization_status="frozen"),
    status_missing=lambda f: f.quantization.pop("quantization_status"),
    version_unknown=lambda f: f.quantization.update(version="99.1.0"),
    format_unknown=lambda f: f.quantization.update(format="octavo-quantized"),
    format_dense=lambda f: f.quantization.update(format="dense"),
    format_packed=lambda f: f.quantization.update(format="pack-quantized"),
    format_naive=lambda f: f.quantization.update(format="naive-quantized"),
    format_int=lambda f: f.quantization.update(format="int-quantized"),
    groups_missing=lambda f: f.quantization.pop("config_groups"),
    sparsity=lambda f: f.quantization.update(sparsity_config=SPARSITY),
    sparsity_empty=lambda f: f.quantization.update(sparsity_config={}),
    args_unknown_key=lambda f: f.weights.update(flavour=1),
    args_newer_keys=lambda f: f.weights.update(scale_dtype=None, zp_dtype=None),
    actorder_group=lambda f: f.weights.update(actorder="group"),
    actorder_weight=lambda f: f.weights.update(actorder="weight"),
    asymmetric=lambda f: f.weights.update(symmetric=False),
    four_bits=lambda f: f.weights.update(num_bits=4),
    says_int=lambda f: (f.weights.update(type="int"), f.inputs.update(type="int")),
    says_tensor=lambda f: f.weights.update(strategy="tensor"),
    says_group=lambda f: f.weights.update(strategy="group", group_size=128),
    says_static_input=lambda f: f.inputs.update(strategy="tensor", dynamic=False),
    inputs_per_tensor=lambda f: f.inputs.update(strategy="tensor"),
    ignore_regex=lambda f: f.quantization.update(ignore=["re:.*lm_head"]),
    ignore_nothing=lambda f: f.quantization.update(ignore=[]),
    ignored_yet_quantized=lambda f: f.quantization["ignore"].append(O),
    target_regex=lambda f: f.quantization["config_groups"]["group_0"].update(targets=["re:.*_proj$"]),
    target_nothing=lambda f: f.quantization["config_groups"]["group_0"].update(targets=["Convolution"]),
)


@case("sparse")
def bitmask(folder):
    """Stored as sparse-24-bitmask, as compressed-tensors did up to 0.14.0.1."""
    for name in [name for name in folder.tensors if name.endswith("_proj.weight")]:
        weight = folder.tensors.pop(name)
        codes = weight.view(torch.uint8)
        rows, columns = codes.shape
        # Those that are not zero; of groups with fewer than two also the first of the others.
        order = torch.sort(codes.reshape(rows, -1, 4) != 0, dim=-1, descending=True, stable=True).indices[..., :2]
        mask = torch.zeros(rows, columns // 4, 4, dtype=torch.bool).scatter_(-1, order, True).reshape(rows, columns)
        module = name.removesuffix("weight")
        folder.tensors[module + "compressed"] = codes[mask].reshape(rows, columns // 2).view(weight.dtype)
        folder.tensors[module + "bitmask"] = (mask.reshape(rows, -1, 8) * (1 << torch.arange(8))).sum(-1).to(torch.uint8)
        folder.tensors[module + "shape"] = torch.tensor([[rows], [columns]])
    folder.quantization.update(sparsity_config=dict(SPARSITY, format="sparse-24-bitmask"))


cases(
    "sparse",
    good=lambda f: None,
    says_bitmask=lambda f: f.quantization.update(sparsity_config=dict(SPARSITY, format="sparse-24-bitmask")),
)
