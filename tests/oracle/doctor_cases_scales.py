"""Cases of `octavo doctor`: scales and codes of compressed-tensors. See doctor_folders.py."""

import torch

from doctor_folders import (
    ATTENTION, CACHE, FP8, I, O, Q, S, case, cases, cast, code, drop, fill, put, reshape, split_group)

cases(
    "channel",
    scale_missing=lambda f: drop(f, S),
    scale_missing_in_group=lambda f: drop(f, Q + ".weight_scale"),
    scale_of_nothing=lambda f: put(f.tensors, "lm_head.weight_scale", torch.ones(512, 1)),
    input_scale_too_many=lambda f: put(f.tensors, O + ".input_scale", torch.ones(1)),
    zero_point_too_many=lambda f: put(f.tensors, O + ".weight_zero_point", torch.zeros(256, 1, dtype=torch.int8)),
    cache_scales_unannounced=lambda f: (put(f.tensors, ATTENTION + ".k_scale", torch.ones(1)),
                                        put(f.tensors, ATTENTION + ".v_scale", torch.ones(1))),
    scale_without_last_axis=lambda f: reshape(f, S, 256),
    scale_as_row=lambda f: reshape(f, S, 1, 256),
    scale_too_short=lambda f: put(f.tensors, S, f.tensors[S][:128]),
    scale_too_long=lambda f: put(f.tensors, S, torch.cat([f.tensors[S], f.tensors[S]])),
    scale_one=lambda f: put(f.tensors, S, f.tensors[S][:1]),
    scale_f32=lambda f: cast(f, S, torch.float32),
    scale_f64=lambda f: cast(f, S, torch.float64),
    scale_i32=lambda f: cast(f, S, torch.int32),
    scale_zero=lambda f: put(f.tensors, S, torch.zeros_like(f.tensors[S])),
    scale_negative=lambda f: put(f.tensors, S, -f.tensors[S]),
    scale_nan=lambda f: fill(f, S, float("nan")),
    scale_infinite=lambda f: fill(f, S, float("inf")),
    scale_tiny=lambda f: put(f.tensors, S, torch.full_like(f.tensors[S], 1e-30)),
    code_nan=lambda f: code(f, O + ".weight", 0x7f),
    weight_bf16=lambda f: (put(f.tensors, O + ".weight", f.real(O).to(torch.bfloat16)), drop(f, S)),
    weight_bf16_beside_scale=lambda f: put(f.tensors, O + ".weight", f.real(O).to(torch.bfloat16)),
    weight_e5m2=lambda f: cast(f, O + ".weight", torch.float8_e5m2),
    weight_int8=lambda f: put(f.tensors, O + ".weight", f.tensors[O + ".weight"].view(torch.int8)),
    weight_short=lambda f: put(f.tensors, O + ".weight", f.tensors[O + ".weight"][:128]),
    weight_narrow=lambda f: put(f.tensors, O + ".weight", f.tensors[O + ".weight"][:, :128]),
    weight_flat=lambda f: reshape(f, O + ".weight", 256 * 256),
)
cases(
    "int8",
    good=lambda f: None,
    code_lowest=lambda f: code(f, O + ".weight", 0x80),
    scale_missing=lambda f: drop(f, S),
    scale_zero=lambda f: put(f.tensors, S, torch.zeros_like(f.tensors[S])),
    scale_nan=lambda f: fill(f, S, float("nan")),
    scale_without_last_axis=lambda f: reshape(f, S, 256),
    weight_fp8=lambda f: put(f.tensors, O + ".weight", f.tensors[O + ".weight"].view(FP8)),
    weight_bf16=lambda f: (put(f.tensors, O + ".weight", f.real(O).to(torch.bfloat16)), drop(f, S)),
    no_inputs=lambda f: f.quantization["config_groups"]["group_0"].update(input_activations=None),
    asymmetric_inputs=lambda f: f.inputs.update(symmetric=False),
    asymmetric=lambda f: f.weights.update(symmetric=False),
    zero_point_too_many=lambda f: put(f.tensors, O + ".weight_zero_point", torch.zeros(256, 1, dtype=torch.int8)),
    says_float=lambda f: (f.weights.update(type="float"), f.inputs.update(type="float")),
    format_float=lambda f: f.quantization.update(format="float-quantized"),
    ignored_yet_quantized=lambda f: f.quantization["ignore"].append(O),
    ignore_nothing=lambda f: f.quantization.update(ignore=[]),
    weight_missing=lambda f: drop(f, O + ".weight"),
)


@case("int8")
def weight_kept_in_group_int8(folder):
    folder.tensors[Q + ".weight"] = folder.real(Q).to(torch.bfloat16)
    drop(folder, Q + ".weight_scale")
    folder.quantization["ignore"].append(Q)


cases(
    "static",
    good=lambda f: None,
    scale_missing=lambda f: drop(f, S),
    scale_missing_in_group=lambda f: drop(f, Q + ".weight_scale"),
    scale_scalar=lambda f: reshape(f, S),
    scale_in_group_scalar=lambda f: reshape(f, Q + ".weight_scale"),
    scale_two_axes=lambda f: reshape(f, S, 1, 1),
    scale_two=lambda f: put(f.tensors, S, f.tensors[S].repeat(2)),
    scale_zero=lambda f: put(f.tensors, S, torch.zeros_like(f.tensors[S])),
    scale_nan=lambda f: fill(f, S, float("nan")),
    scale_negative=lambda f: put(f.tensors, S, -f.tensors[S]),
    scale_of_group_zero=lambda f: fill(f, Q + ".weight_scale", 0.0),
    scales_differ_in_group=split_group,
    input_scale_missing=lambda f: drop(f, I),
    input_scale_missing_in_group=lambda f: drop(f, Q + ".input_scale"),
    input_scale_zero=lambda f: fill(f, I, 0.0),
    input_scale_nan=lambda f: fill(f, I, float("nan")),
    input_scale_negative=lambda f: put(f.tensors, I, -f.tensors[I]),
    input_scale_tiny=lambda f: put(f.tensors, I, torch.full_like(f.tensors[I], 1e-30)),
    input_scale_scalar=lambda f: reshape(f, I),
    input_scale_two=lambda f: put(f.tensors, I, f.tensors[I].repeat(2)),
    cache_scales_missing=lambda f: drop(f, *CACHE),
    cache_scale_missing=lambda f: drop(f, CACHE[0]),
    cache_scale_scalar=lambda f: [reshape(f, name) for name in CACHE],
    cache_scale_per_head=lambda f: [put(f.tensors, n, f.tensors[n].repeat(2).reshape(2, 1, 1)) for n in CACHE],
    cache_scale_zero=lambda f: fill(f, CACHE[0], 0.0),
    cache_scale_negative=lambda f: put(f.tensors, CACHE[0], -f.tensors[CACHE[0]]),
    cache_scale_nan=lambda f: fill(f, CACHE[0], float("nan")),
    cache_as_outputs=lambda f: [put(f.tensors, ATTENTION + f".{p}_proj.output_scale",
                                    f.tensors.pop(ATTENTION + f".{p}_scale")) for p in "kv"],
    cache_unannounced=lambda f: f.quantization.update(kv_cache_scheme=None),
    cache_in_int8=lambda f: f.quantization["kv_cache_scheme"].update(type="int"),
)
cases(
    "weight-only",
    good=lambda f: None,
    format_float=lambda f: f.quantization.update(format="float-quantized"),
)
cases(
    "block",
    good=lambda f: None,
    scale_missing=lambda f: drop(f, S),
    scale_of_other_grid=lambda f: put(f.tensors, S, f.tensors[S].repeat(1, 2)),
    says_other_block=lambda f: f.weights.update(block_structure=[64, 64]),
)
cases("block-ragged", good=lambda f: None)
