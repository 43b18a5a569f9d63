"""Tiny random models of every family, made and run by Hugging Face's transformers: odd sizes, wide weights.

Weights are wide enough that every part of a layer matters: experts, router, rotation, biases, clipping and norms of
heads. `ablations` lists, for each part a model has, how to take it away; check_families.py asks that each moves the NLL.
"""

import dataclasses

import torch
import transformers

VOCAB = 311
LENGTH = 96


@dataclasses.dataclass
class Case:
    name: str
    config: transformers.PretrainedConfig
    shard: str = "10GB"
    tensor_parallel: int = 1  # the most: the number of KV heads
    recipes: tuple = ("fp8-weight-only", "fp8-dynamic", "int8-dynamic")


def llama(name="llama", config=transformers.LlamaConfig, **changes):
    sizes = dict(vocab_size=VOCAB, hidden_size=72, intermediate_size=100, num_hidden_layers=2, num_attention_heads=6,
                 num_key_value_heads=3, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False)
    sizes.update(changes)
    return Case(name, config(**sizes), "60KB", sizes["num_key_value_heads"])


def mixtral(name, experts, per_token, **changes):
    case = llama(name, transformers.MixtralConfig, num_local_experts=experts, num_experts_per_tok=per_token, **changes)
    case.recipes = ("fp8-dynamic", "int8-dynamic", "fp8-tensor.yaml")
    return case


def dbrx(name, experts, per_token, kv_heads=2, hidden=90, d_model=72, n_heads=6):
    config = transformers.DbrxConfig(
        d_model=d_model, n_heads=n_heads, n_layers=2, max_seq_len=256, vocab_size=VOCAB,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        attn_config={"clip_qkv": 1.5, "kv_n_heads": kv_heads, "rope_theta": 5e5},
        ffn_config={"ffn_hidden_size": hidden, "hidden_size": d_model, "moe_num_experts": experts,
                    "moe_top_k": per_token, "moe_jitter_eps": 0.0})
    return Case(name, config, "60KB", kv_heads, recipes=("kept-experts.yaml", "fp8-tensor.yaml"))


LLAMA31 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 32}


def cases():
    return [
        llama("llama-2", num_key_value_heads=6, intermediate_size=230),
        llama("llama-3.1", tie_word_embeddings=True, rope_parameters=LLAMA31),
        llama("llama-biases", attention_bias=True, mlp_bias=True),
        llama("mistral", transformers.MistralConfig, num_key_value_heads=1, head_dim=26),
        llama("qwen2", transformers.Qwen2Config, hidden_size=84, intermediate_size=300),
        llama("qwen2-tied", transformers.Qwen2Config, num_attention_heads=4, num_key_value_heads=2,
              tie_word_embeddings=True, rms_norm_eps=1e-6),
        mixtral("mixtral-8-top-2", 8, 2),
        mixtral("mixtral-5-top-4", 5, 4, num_key_value_heads=1, hidden_size=84),
        mixtral("mixtral-3-top-1", 3, 1, num_attention_heads=8, num_key_value_heads=8, hidden_size=80,
                intermediate_size=250),
        dbrx("dbrx-4-top-2", 4, 2),
        dbrx("dbrx-7-top-4", 7, 4, d_model=60, n_heads=6, kv_heads=1, hidden=44),
        dbrx("dbrx-2-top-1", 2, 1, kv_heads=8, n_heads=8, d_model=80, hidden=250),
        llama("qwen3", transformers.Qwen3Config, num_key_value_heads=3, head_dim=22),
        llama("qwen3-tied-biases", transformers.Qwen3Config, num_attention_heads=4, num_key_value_heads=2, head_dim=18,
              attention_bias=True, tie_word_embeddings=True),
        mixtral("mixtral-1-top-1", 1, 1, num_key_value_heads=2),
    ]


def fan_in(name, parameter, config):
    """DBRX stores the last matrix of an expert as [inputs, outputs]."""
    return config.ffn_config.ffn_hidden_size if name.endswith("mlp.w2") else parameter.shape[-1]


def gain(name):
    """Width of a matrix in units of 1 / sqrt(its inputs)."""
    if "lm_head" in name:
        return 2.0
    if ".gate.weight" in name or "router" in name:
        return 3.0
    if "Wqkv" in name:
        return 1.5
    return 1.3 if any(part in name for part in ("q_proj", "k_proj", "down_proj", "mlp.w2")) else 1.0


@torch.no_grad()
def make(case, seed):
    """The model in float32, its weights rounded to BF16."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(case.config, dtype=torch.float32,
                                                          attn_implementation="eager",
                                                          experts_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0.0, 0.5)
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.normal_(1.7, 0.3)
        elif parameter.dim() == 1:
            parameter.normal_(1.0, 0.2)
        elif "embed_tokens" in name or "wte" in name:
            parameter.normal_(0.0, 2.0 / case.config.hidden_size**0.5 if case.config.tie_word_embeddings else 1.0)
        else:
            parameter.normal_(0.0, gain(name) / fan_in(name, parameter, case.config)**0.5)
        parameter.copy_(parameter.to(torch.bfloat16).float())
    return model


@torch.no_grad()
def logits_of(model, sequences):
    return torch.stack([model(ids[None], use_cache=False).logits[0].float() for ids in sequences])


@torch.no_grad()
def write(model, count, length):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(VOCAB, (count, 1), generator=generator)
    while ids.shape[1] < length:
        p = torch.softmax(model(ids, use_cache=False).logits[:, -1], -1)
        ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)], 1)
    return ids


@torch.no_grad()
def router_margins(model, routers, per_token, ids):
    """For each sequence, the smallest distance in logits between an expert that was chosen and one that was not."""
    margins = []

    def look(module, inputs, output):
        logits = output[0] if isinstance(output, tuple) else output
        best = logits.float().topk(per_token + 1, -1).values
        margins.append((best[:, -2] - best[:, -1]).view(len(ids), -1).amin(1))
    hooks = [router.register_forward_hook(look) for router in routers]
    model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(margins).amin(0)


def sample(model):
    """Token sequences that the model itself would write: their NLL is low, and any change of the model raises it.

    Where a router hesitates between two experts, BF16 activations may take the other one, and nothing could be compared:
    of many shorter sequences those are taken in which no router hesitates.
    """
    config = getattr(model.config, "ffn_config", model.config)
    experts = getattr(config, "moe_num_experts", getattr(config, "num_local_experts", 1))
    per_token = getattr(config, "moe_top_k", getattr(config, "num_experts_per_tok", 1))
    if per_token >= experts:
        return write(model, 2, LENGTH)
    ids = write(model, 64, 40)
    routers = modules_named(model, ".mlp.gate", ".ffn.router")
    margins = router_margins(model, routers, per_token, ids)
    return ids[margins.topk(4).indices]


def respelled(tensors, spelling, experts):
    """DBRX's stacks `…experts.mlp.w1` under other names; with "{expert}" each becomes a linear layer of its own."""
    out = {}
    for name, tensor in tensors.items():
        base, _, part = name.rpartition(".")
        if not base.endswith("experts.mlp"):
            out[name] = tensor
        elif "{expert}" not in spelling:
            out[base + spelling.format(part=part)] = tensor
        else:
            for expert, slab in enumerate(tensor.chunk(experts)):
                out[base + spelling.format(part=part, expert=expert)] = (slab.T if part == "w2" else slab).contiguous()
    return out


def nll(logits, sequences):
    return torch.nn.functional.cross_entropy(logits[:, :-1].double().flatten(0, 1), sequences[:, 1:].flatten()).item()


def modules_named(model, *endings):
    return [module for name, module in model.named_modules() if name.endswith(endings)]


def zero(parameters):
    for parameter in parameters:
        parameter.data.zero_()


def remove_head_norms(model):
    for module in modules_named(model, "q_norm", "k_norm"):
        module.forward = lambda x: x


def remove_clip(model):
    for module in modules_named(model, ".attn"):
        module.clip_qkv = 1e9


def ablations(model):
    """Names and functions that take one part out of a model, in place."""
    found = {"attention": lambda m: zero(x.weight for x in modules_named(m, "o_proj", "out_proj")),
             "rope": lambda m: zero(x.inv_freq for x in modules_named(m, "rotary_emb"))}
    names = [name for name, _ in model.named_parameters()]
    if any(name.endswith("bias") for name in names):
        found["bias"] = lambda m: zero(p for n, p in m.named_parameters() if n.endswith("bias"))
    found["mlp"] = lambda m: zero(p for n, p in m.named_parameters() if "down_proj" in n or n.endswith("mlp.w2"))
    if any("q_norm" in name for name in names):
        found["head norms"] = remove_head_norms
    if hasattr(model.config, "attn_config"):
        found["clip"] = remove_clip
    routers = [p for n, p in model.named_parameters() if ".gate.weight" in n or "router" in n]
    if routers and routers[0].shape[0] > 1:
        found["router"] = lambda m: zero(p for n, p in m.named_parameters() if ".gate.weight" in n or "router" in n)
    return found
