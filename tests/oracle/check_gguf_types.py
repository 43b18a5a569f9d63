#!/usr/bin/env python3
"""Live oracle of `octavo import`: small models that gguf-py writes in each tensor type, imported and compared bit for
bit with gguf-py's own dequantizing; and the tokenizer.json of each pre-tokenizer we know loads in Hugging Face
tokenizers and splits as its regular expression says."""

import pathlib
import sys
import tempfile

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

import smol

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
TEXT = "It's 12345 tests, WE'LL see:  two  spaces\n\n\tand e\u0301 \u4f60\u597d \U0001f642!?"


def byte_alphabet():
    keep = [b for b in range(256) if 0x21 <= b <= 0x7e or 0xa1 <= b <= 0xac or b >= 0xae]
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) if b in keep else chr(256 + rest.index(b)) for b in range(256)]


TOKENS = ["<|end|>"] + byte_alphabet() + ["th", "he", "12", "123", "\u0120t"]
MERGES = ["t h", "h e", "1 2", "12 3", "\u0120 t"]


def write_model(path, kind, pre, rng):
    """Returns the F32 values of every tensor, by GGUF name."""
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(LAYERS)
    out.add_context_length(128)
    out.add_embedding_length(HIDDEN)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(50000.0)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(TOKENS)
    out.add_token_types([3] + [1] * (len(TOKENS) - 1))
    out.add_token_merges(MERGES)
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    out.add_add_bos_token(False)
    head = HIDDEN // HEADS
    shapes = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,),
              "output.weight": (len(TOKENS), HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in {
            "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (KV_HEADS * head, HIDDEN), "attn_v": (KV_HEADS * head, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER)}.items()}
    values = {}
    for name, shape in shapes.items():
        data = rng.standard_normal(shape, dtype=numpy.float32) * rng.choice([1e-3, 1.0, 30.0])
        this = kind if len(shape) == 2 else Type.F32
        raw = gguf.quants.quantize(data, this)
        values[name] = gguf.quants.dequantize(raw, this).reshape(shape)
        out.add_tensor(name, raw, raw_dtype=this)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return values


def hugging_face(values):
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    parts = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    result = {}
    for name, data in values.items():
        pieces = name.split(".")
        if pieces[0] == "blk":
            if pieces[2] in ("attn_q", "attn_k"):
                heads = HEADS if pieces[2] == "attn_q" else KV_HEADS
                data = data.reshape(heads, -1, 2, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
            target = f"model.layers.{pieces[1]}.{parts[pieces[2]]}.weight"
        else:
            target = f"{names[pieces[0]]}.weight"
        result[target] = torch.from_numpy(numpy.ascontiguousarray(data)).to(torch.bfloat16)
    return result


def check_weights(scratch, kind, rng):
    path, out = scratch / f"{kind.name}.gguf", scratch / kind.name
    want = hugging_face(write_model(path, kind, "smollm", rng))
    smol.octavo("import", path, "--out", out)
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(want)
        for name, tensor in want.items():
            assert torch.equal(file.get_tensor(name).view(torch.int16), tensor.view(torch.int16)), (kind, name)
    print(f"{kind.name}: {len(want)} tensors equal bit for bit")


def check_pre_tokenizer(scratch, pre, splitter, normalizer, ignore_merges, rng):
    path, out = scratch / f"pre-{pre}.gguf", scratch / f"pre-{pre}"
    write_model(path, Type.F16, pre, rng)
    smol.octavo("import", path, "--out", out)
    ours = Tokenizer.from_file(str(out / "tokenizer.json"))
    theirs = Tokenizer(models.BPE({token: i for i, token in enumerate(TOKENS)}, [tuple(m.split()) for m in MERGES],
                                  ignore_merges=ignore_merges))
    theirs.pre_tokenizer = splitter
    if normalizer is not None:
        theirs.normalizer = normalizer
    assert ours.encode(TEXT).ids == theirs.encode(TEXT).ids, pre
    pieces = [piece for piece, _ in theirs.pre_tokenizer.pre_tokenize_str(TEXT)]
    assert [piece for piece, _ in ours.pre_tokenizer.pre_tokenize_str(TEXT)] == pieces
    print(f"pre-tokenizer {pre}: {len(pieces)} pieces equal")


def main():
    rng = numpy.random.default_rng(5)
    split = lambda regex: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        for kind in TYPES:
            check_weights(scratch, kind, rng)
        check_pre_tokenizer(scratch, "default", gpt2, None, False, rng)
        check_pre_tokenizer(scratch, "smollm", pre_tokenizers.Sequence([pre_tokenizers.Digits(True), gpt2]), None,
                            False, rng)
        check_pre_tokenizer(scratch, "llama-bpe", split(LLAMA3), None, True, rng)
        check_pre_tokenizer(scratch, "qwen2", split(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), normalizers.NFC(),
                            False, rng)
    print("check_gguf_types: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
