"""Cases of `octavo doctor`: the dialects fp8 and quark, stacked and split experts. See doctor_folders.py."""

import torch

from doctor_folders import (
    ATTENTION, CACHE, I, LAYER, O, Q, S, cases, code, drop, fill, put, reshape, split_group)

cases(
    "autofp8",
    good=lambda f: None,
    scale_missing=lambda f: drop(f, S),
    scale_one=lambda f: reshape(f, S, 1),
    scale_named_inv=lambda f: put(f.tensors, S + "_inv", f.tensors.pop(S)),
    scale_nan=lambda f: put(f.tensors, S, torch.tensor(float("nan"))),
    scales_differ_in_group=split_group,
    input_scale_missing=lambda f: drop(f, I),
    activation_missing=lambda f: f.quantization.pop("activation_scheme"),
    activation_null=lambda f: f.quantization.update(activation_scheme=None),
    says_dynamic=lambda f: f.quantization.update(activation_scheme="dynamic"),
    ignored_glob=lambda f: f.quantization.update(ignored_layers=["*lm_head"]),
    ignored_nothing=lambda f: f.quantization.update(ignored_layers=[]),
    ignored_yet_quantized=lambda f: f.quantization["ignored_layers"].append(O),
    ignored_part_of_group=lambda f: f.quantization["ignored_layers"].append(Q),
    cache_scales_missing=lambda f: drop(f, *CACHE),
    cache_scale_for_both=lambda f: [(put(f.tensors, a + ".kv_scale", f.tensors.pop(a + ".k_scale")),
                                     drop(f, a + ".v_scale")) for a in (ATTENTION, ATTENTION.replace("0", "1"))],
    fmt_e5m2=lambda f: f.quantization.update(fmt="e5m2"),
    weight_bf16=lambda f: (put(f.tensors, O + ".weight", f.real(O).to(torch.bfloat16)), drop(f, S)),
    code_nan=lambda f: code(f, O + ".weight", 0xff),
    says_blocks=lambda f: f.quantization.update(weight_block_size=[128, 128], activation_scheme="dynamic"),
)
cases("autofp8-dynamic", good=lambda f: None)
cases(
    "fp8-block",
    good=lambda f: None,
    scale_missing=lambda f: drop(f, S + "_inv"),
    scale_zero=lambda f: put(f.tensors, S + "_inv", torch.zeros_like(f.tensors[S + "_inv"])),
    scale_nan=lambda f: fill(f, S + "_inv", float("nan")),
    scale_named_without_inv=lambda f: put(f.tensors, S, f.tensors.pop(S + "_inv")),
    scale_of_other_grid=lambda f: put(f.tensors, S + "_inv", f.tensors[S + "_inv"].repeat_interleave(2, 1)),
    code_nan=lambda f: code(f, O + ".weight", 0x7f),
    says_static=lambda f: f.quantization.update(activation_scheme="static"),
    kept_unnamed=lambda f: (f.quantization.update(ignored_layers=[]), f.quantization.pop("modules_to_not_convert")),
    says_other_block=lambda f: f.quantization.update(weight_block_size=[64, 64]),
)
cases(
    "quark",
    good=lambda f: None,
    scale_missing=lambda f: drop(f, S),
    input_scale_missing=lambda f: drop(f, I),
    export_missing=lambda f: f.quantization.pop("export"),
    exclude_missing=lambda f: f.quantization.pop("exclude"),
    exclude_regex=lambda f: f.quantization.update(exclude=["re:.*lm_head"]),
    layer_types_missing=lambda f: f.quantization.pop("layer_type_quant_config"),
    cache_group_unknown=lambda f: f.quantization["export"].update(kv_cache_group=["*Wqkv"]),
    not_exported=lambda f: f.quantization["export"].update(weight_format="fake_quantized"),
    cache_scales_missing=lambda f: drop(f, *(ATTENTION + f".{p}_proj.output_scale" for p in "kv")),
)
cases("dbrx", good=lambda f: None)
cases(
    "mixtral",
    good=lambda f: None,
    router_not_ignored=lambda f: f.quantization.update(ignore=["lm_head"]),
    expert_missing=lambda f: drop(f, LAYER + "block_sparse_moe.experts.1.w2.weight"),
    expert_scale_missing=lambda f: drop(f, LAYER + "block_sparse_moe.experts.1.w2.weight_scale"),
)
