"""Checkpoints of the published shapes without their weights: headers, and holes where the numbers would be.

usage: header_only.py mixtral-8x22b | dbrx | llama-3.1-8b | qwq-32b FOLDER

What `octavo plan` reads of a model of 280 GB fits a few blocks: the tensor files are sparse.
"""

import json
import pathlib
import struct
import sys

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 6144, "intermediate_size": 16384,
    "num_hidden_layers": 56, "num_attention_heads": 48, "num_key_value_heads": 8, "num_local_experts": 8,
    "num_experts_per_tok": 2, "vocab_size": 32768, "max_position_embeddings": 65536, "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-05, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2}
DBRX = {
    "architectures": ["DbrxForCausalLM"], "model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40,
    "max_seq_len": 32768, "vocab_size": 100352, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "model_type": "", "rope_theta": 500000},
    "ffn_config": {"ffn_hidden_size": 10752, "model_type": "", "moe_jitter_eps": 0.01, "moe_loss_weight": 0.05,
                   "moe_num_experts": 16, "moe_top_k": 4, "ffn_act_fn": {"name": "silu"}}}

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 131072, "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "hidden_act": "silu",
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
                     "rope_type": "llama3"},
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 128000, "eos_token_id": 128001}
QWQ_32B = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648,
    "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064,
    "max_position_embeddings": 40960, "rope_theta": 1000000.0, "rms_norm_eps": 1e-05, "hidden_act": "silu",
    "use_sliding_window": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 151643,
    "eos_token_id": 151645}


def dense_tensors(config, biases):
    """Llama and Qwen2, which differ in biases of q, k and v."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    cache = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", [hidden]
        yield at + "post_attention_layernorm.weight", [hidden]
        for name, rows in (("q", hidden), ("k", cache), ("v", cache)):
            yield f"{at}self_attn.{name}_proj.weight", [rows, hidden]
            if biases:
                yield f"{at}self_attn.{name}_proj.bias", [rows]
        yield at + "self_attn.o_proj.weight", [hidden, hidden]
        for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            yield f"{at}mlp.{name}_proj.weight", [rows, columns]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [vocabulary, hidden]


def mixtral_tensors():
    hidden, inner, heads = 6144, 16384, 128
    yield "model.embed_tokens.weight", [32768, hidden]
    for layer in range(56):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", [hidden]
        yield at + "post_attention_layernorm.weight", [hidden]
        for name, rows, columns in (("q", 48 * heads, hidden), ("k", 8 * heads, hidden), ("v", 8 * heads, hidden),
                                    ("o", hidden, 48 * heads)):
            yield f"{at}self_attn.{name}_proj.weight", [rows, columns]
        yield at + "block_sparse_moe.gate.weight", [8, hidden]
        for expert in range(8):
            for name, rows, columns in (("w1", inner, hidden), ("w2", hidden, inner), ("w3", inner, hidden)):
                yield f"{at}block_sparse_moe.experts.{expert}.{name}.weight", [rows, columns]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [32768, hidden]


def dbrx_tensors():
    hidden, inner = 6144, 10752
    yield "transformer.wte.weight", [100352, hidden]
    for layer in range(40):
        at = f"transformer.blocks.{layer}."
        yield at + "norm_attn_norm.attn.Wqkv.weight", [hidden + 2 * 8 * 128, hidden]
        yield at + "norm_attn_norm.attn.out_proj.weight", [hidden, hidden]
        yield at + "norm_attn_norm.norm_1.weight", [hidden]
        yield at + "norm_attn_norm.norm_2.weight", [hidden]
        yield at + "ffn.router.layer.weight", [16, hidden]
        for name in ("w1", "v1", "w2"):
            yield f"{at}ffn.experts.mlp.{name}", [16 * inner, hidden]
    yield "transformer.norm_f.weight", [hidden]
    yield "lm_head.weight", [100352, hidden]


def write(folder, config, tensors, shard_bytes=4_900_000_000):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shards, size = [[]], 0
    for name, shape in tensors:
        count = 2
        for dimension in shape:
            count *= dimension
        if size + count > shard_bytes and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((name, shape, count))
        size += count
    weight_map = {}
    for index, shard in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, shape, count in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + count]}
            at += count
            weight_map[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + at)
    total = sum(count for shard in shards for _, _, count in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def main():
    name, folder = sys.argv[1:]
    config, tensors = {"mixtral-8x22b": (MIXTRAL, mixtral_tensors()), "dbrx": (DBRX, dbrx_tensors()),
                       "llama-3.1-8b": (LLAMA_8B, dense_tensors(LLAMA_8B, False)),
                       "qwq-32b": (QWQ_32B, dense_tensors(QWQ_32B, True))}[name]
    write(pathlib.Path(folder), config, tensors)


if __name__ == "__main__":
    main()
