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


def llama(name="llama", config=transformers.LlamaConfig, **changes):
    sizes = dict(vocab_size=VOCAB, hidden_size=72, intermediate_size=100, num_hidden_layers=2, num_attention_heads=6,
                 num_key_value_heads=3, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False)
    sizes.update(changes)
    return Case(name, config(**sizes), "60KB", sizes["num_key_value_heads"])


def mixtral(name, experts, per_token, **changes):
    return llama(name, transformers.MixtralConfig, num_local_experts=experts, num_experts_per_tok=per_token, **changes)


LLAMA31 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 32}


def cases():
    return [
        llama("llama-2", num_key_value_heads=6),
        llama("llama-3.1", tie_word_embeddings=True, rope_parameters=LLAMA31),
        llama("llama-biases", attention_bias=True, mlp_bias=True),
        llama("mistral", transformers.MistralConfig, num_key_value_heads=1, head_dim=26),
        llama("qwen2", transformers.Qwen2Config, hidden_size=84, intermediate_size=300),
        llama("qwen2-tied", transformers.Qwen2Config, num_attention_heads=4, num_key_value_heads=2,
              tie_word_embeddings=True, rms_norm_eps=1e-6),
        mixtral("mixtral-8-top-2", 8, 2),
        mixtral("mixtral-5-top-4", 5, 4, num_key_value_heads=1, hidden_size=66),
        mixtral("mixtral-3-top-1", 3, 1, num_attention_heads=8, num_key_value_heads=8),
        mixtral("mixtral-1-top-1", 1, 1, num_key_value_heads=2),
    ]


def fan_in(name, parameter):
    return parameter.shape[-1]


def gain(name):
    """Width of a matrix in units of 1 / sqrt(its inputs)."""
    if "lm_head" in name:
        return 2.0
    if ".gate.weight" in name or "router" in name:
        return 3.0
    return 1.3 if any(part in name for part in ("q_proj", "k_proj", "down_proj")) else 1.0


@torch.no_grad()
def make(case, seed):
    """The model in float32, its weights rounded to BF16."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(case.config, dtype=torch.float32,
                                                          attn_implementation="eager",
                                                          experts_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
        elif parameter.dim() == 1:
            parameter.normal_(1.0, 0.2)
        elif "embed_tokens" in name or "wte" in name:
            parameter.normal_(0.0, 2.0 / case.config.hidden_size**0.5 if case.config.tie_word_embeddings else 1.0)
        else:
            parameter.normal_(0.0, gain(name) / fan_in(name, parameter)**0.5)
        parameter.copy_(parameter.to(torch.bfloat16).float())
    return model


@torch.no_grad()
def logits_of(model, sequences):
    return torch.stack([model(ids[None], use_cache=False).logits[0].float() for ids in sequences])


@torch.no_grad()
def sample(model, count=2):
    """Token sequences that the model itself would write: their NLL is low, and any change of the model raises it."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(VOCAB, (count, 1), generator=generator)
    while ids.shape[1] < LENGTH:
        p = torch.softmax(model(ids, use_cache=False).logits[:, -1], -1)
        ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)], 1)
    return ids


def nll(logits, sequences):
    return torch.nn.functional.cross_entropy(logits[:, :-1].double().flatten(0, 1), sequences[:, 1:].flatten()).item()


def modules_named(model, *endings):
    return [module for name, module in model.named_modules() if name.endswith(endings)]


def zero(parameters):
    for parameter in parameters:
        parameter.data.zero_()


def ablations(model):
    """Names and functions that take one part out of a model, in place."""
    found = {"attention": lambda m: zero(x.weight for x in modules_named(m, "o_proj", "out_proj")),
             "rope": lambda m: zero(x.inv_freq for x in modules_named(m, "rotary_emb"))}
    names = [name for name, _ in model.named_parameters()]
    if any(name.endswith("bias") for name in names):
        found["bias"] = lambda m: zero(p for n, p in m.named_parameters() if n.endswith("bias"))
    if any("down_proj" in name for name in names):
        found["mlp"] = lambda m: zero(p for n, p in m.named_parameters() if "down_proj" in n)
    routers = [p for n, p in model.named_parameters() if ".gate.weight" in n or "router" in n]
    if routers and routers[0].shape[0] > 1:
        found["router"] = lambda m: zero(p for n, p in m.named_parameters() if ".gate.weight" in n or "router" in n)
    return found
