"""docs/numerics.md's forward pass in a hundred lines of torch, for every family, straight from a checkpoint's files.

With `rounding` it rounds to BF16 where Octavo does (sums run in another order, so single bits differ); without, nothing
is rounded and the result is the model's own function in double precision. Quantized folders (compressed-tensors or fp8, one
scale per tensor, channel or stacked expert) are read too: weights are what codes and scales stand for, inputs are quantized as config.json
says, or by their static scale; keys and values too, where they have scales. `seen` holds the largest magnitude of all that
static scales are made for.
"""

import json

import torch
from safetensors import safe_open


def to_bf16(x):
    return x.to(torch.bfloat16).to(x.dtype)


def quantize_fp8(x):
    scale = (x.abs().amax(-1, keepdim=True) / 448).clamp_min(1 / (448 * 512))
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * scale


def quantize_int8(x):
    amax = x.abs().amax(-1, keepdim=True).clamp_min(127 * 2.0**-126)
    return torch.round(x * (torch.full_like(amax, 127) / amax)) * (amax / 127)  # 127 / amax would round twice


def quantize_static(x, units):
    """`units`: x in units of its scale."""
    return units.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype)


def input_quantizer(config):
    section = config.get("quantization_config", {})
    if section.get("quant_method") == "fp8":
        return quantize_fp8  # one with a static scale has it beside its weight
    groups = section.get("config_groups", {})
    args = groups["group_0"]["input_activations"] if groups else None
    return (lambda x: x) if args is None else quantize_int8 if args["type"] == "int" else quantize_fp8


class Decoder:
    def __init__(self, folder, rounding, fp8_cache=True):
        self.fp8_cache, self.seen = fp8_cache, {}
        self.round = to_bf16 if rounding else lambda x: x
        self.dtype = torch.float32 if rounding else torch.float64
        self.tensors = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                self.tensors.update({name: file.get_tensor(name).to(self.dtype) for name in file.keys()})
        self.quantized = {name.removesuffix("_scale") for name in self.tensors if name.endswith("weight_scale")}
        for name in self.quantized:
            weight, scale = self.tensors[name], self.tensors.pop(name + "_scale")
            if name.endswith("_weight"):  # a stack, with a scale for each expert
                scale = scale.repeat_interleave(len(weight) // len(scale))[:, None]
            weight *= scale
        config = json.loads((folder / "config.json").read_text())
        self.quantize_input = input_quantizer(config)
        self.dbrx = config["model_type"] == "dbrx"
        attention, experts = config.get("attn_config", {}), config.get("ffn_config", config)
        self.hidden = config.get("d_model") or config["hidden_size"]
        self.heads = config.get("n_heads") or config["num_attention_heads"]
        self.kv_heads = attention.get("kv_n_heads") or config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or self.hidden // self.heads
        self.layers = config.get("n_layers") or config["num_hidden_layers"]
        self.eps = 1e-5 if self.dbrx else config["rms_norm_eps"]
        self.clip = attention.get("clip_qkv")
        self.experts = experts.get("moe_num_experts") or experts.get("num_local_experts") or 1
        self.per_token = experts.get("moe_top_k") or experts.get("num_experts_per_tok") or 1
        self.frequencies = self.rope_frequencies(config.get("rope_parameters") or attention)

    def rope_frequencies(self, rope):
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
        frequencies = rope["rope_theta"] ** -exponents
        if rope.get("rope_type") == "llama3":
            turns = rope["original_max_position_embeddings"] * frequencies / (2 * torch.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            smooth = ((turns - low) / (high - low)).clamp(0, 1)
            frequencies = (1 - smooth) * frequencies / rope["factor"] + smooth * frequencies
        return frequencies.to(self.dtype)

    def get(self, name):
        return self.tensors.get(name)

    def see(self, name, x):
        self.seen[name] = max(self.seen.get(name, 0.0), x.abs().max().item())

    def input(self, x, name):
        self.see(name, x)
        scale = self.get(name + ".input_scale")
        if scale is not None:
            return quantize_static(x, x * (1 / scale)) * scale
        return self.quantize_input(x) if name + ".weight" in self.quantized else x

    def stored(self, x, name):
        """Keys or values as the cache gives them back."""
        self.see(name, x)
        scale = self.get(name)
        return x if scale is None or not self.fp8_cache else quantize_static(x, x / scale) * scale

    def linear(self, x, name):
        """Not rounded yet."""
        y = self.input(x, name) @ self.tensors[name + ".weight"].T
        bias = self.get(name + ".bias")
        return y if bias is None else y + bias

    def norm(self, x, weight):
        if self.dbrx and len(weight) == self.hidden:
            centred = x - x.mean(-1, keepdim=True)
            return self.round(centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps) * weight)
        return self.round(self.round(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)) * weight)

    def rotate(self, x, cos, sin):
        low, high = x.chunk(2, -1)
        return torch.cat([self.round(self.round(low * cos) + self.round(-high * sin)),
                          self.round(self.round(high * cos) + self.round(low * sin))], -1)

    def attention(self, x, layer):
        """The output projection's sum, not rounded."""
        rows, width = len(x), self.head_dim
        sizes = [self.heads * width, self.kv_heads * width, self.kv_heads * width]
        if self.dbrx:
            at = f"transformer.blocks.{layer}.norm_attn_norm."
            h = self.norm(x, self.tensors[at + "norm_1.weight"])
            parts = self.round(self.linear(h, at + "attn.Wqkv")).split(sizes, -1)
            own, out = at + "attn.", at + "attn.out_proj"
        else:
            at = f"model.layers.{layer}."
            h = self.norm(x, self.tensors[at + "input_layernorm.weight"])
            parts = [self.round(self.linear(h, f"{at}self_attn.{part}_proj")) for part in "qkv"]
            own, out = at + "self_attn.", at + "self_attn.o_proj"
        if self.clip:
            parts = [part.clamp(-self.clip, self.clip) for part in parts]
        q, k, v = (part.view(rows, -1, width).transpose(0, 1) for part in parts)
        if self.get(at + "self_attn.q_norm.weight") is not None:
            q = self.norm(q, self.tensors[at + "self_attn.q_norm.weight"])
            k = self.norm(k, self.tensors[at + "self_attn.k_norm.weight"])
        angles = torch.arange(rows, dtype=self.dtype)[:, None] * self.frequencies
        cos, sin = self.round(angles.cos()), self.round(angles.sin())
        q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
        k, v = self.stored(k, own + "k_scale"), self.stored(v, own + "v_scale")
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, 0) for part in (k, v))
        scores = q @ k.transpose(1, 2) * width**-0.5
        scores = scores.masked_fill(torch.ones(rows, rows, dtype=torch.bool).triu(1), -torch.inf)
        p = (scores - scores.amax(-1, keepdim=True)).exp()
        attended = self.round((self.round(p) @ v) / p.sum(-1, keepdim=True))
        return self.linear(attended.transpose(0, 1).reshape(rows, -1), out)

    def expert(self, h, layer, expert):
        """One expert's output, not rounded."""
        if self.dbrx:
            at = f"transformer.blocks.{layer}.ffn.experts.mlp."
            gate, up, down = (self.stacked(at + part).chunk(self.experts)[expert] for part in ("w1", "v1", "w2"))
            h = self.stack_input(h, at + "w1", expert)
            return self.stack_input(self.gated(h @ gate.T, h @ up.T), at + "w2", expert) @ down
        at = f"model.layers.{layer}.block_sparse_moe.experts.{expert}."
        return self.linear(self.gated(self.linear(h, at + "w1"), self.linear(h, at + "w3")), at + "w2")

    def stacked(self, name):
        return self.tensors[name + "_weight" if name + "_weight" in self.quantized else name]

    def stack_input(self, x, name, expert):
        scales = self.get(name + "_input_scale")
        if scales is not None:
            return quantize_static(x, x * (1 / scales[expert])) * scales[expert]
        return self.quantize_input(x) if name + "_weight" in self.quantized else x

    def gated(self, gate, up):
        return self.round(self.round(torch.nn.functional.silu(self.round(gate))) * self.round(up))

    def mlp(self, x, layer):
        """The down projection's sum, or the experts' weighted sum, not rounded."""
        at = f"transformer.blocks.{layer}." if self.dbrx else f"model.layers.{layer}."
        norm = "norm_attn_norm.norm_2" if self.dbrx else "post_attention_layernorm"
        h = self.norm(x, self.tensors[f"{at}{norm}.weight"])
        router = at + ("ffn.router.layer" if self.dbrx else "block_sparse_moe.gate")
        if self.get(router + ".weight") is None:
            gate, up = self.linear(h, at + "mlp.gate_proj"), self.linear(h, at + "mlp.up_proj")
            return self.linear(self.gated(gate, up), at + "mlp.down_proj")
        p, chosen = torch.softmax(self.linear(h, router), -1).topk(self.per_token, -1)
        weights = torch.zeros(len(h), self.experts, dtype=self.dtype).scatter(1, chosen, p / p.sum(-1, keepdim=True))
        total = torch.zeros_like(h)
        for expert in range(self.experts):
            total += weights[:, expert, None] * self.expert(h, layer, expert)
        return total

    @torch.no_grad()
    def logits(self, ids):
        embedding = self.tensors["transformer.wte.weight" if self.dbrx else "model.embed_tokens.weight"]
        x = embedding[ids]
        for layer in range(self.layers):
            x = self.round(x + self.attention(x, layer))
            x = self.round(x + self.mlp(x, layer))
        x = self.norm(x, self.tensors["transformer.norm_f.weight" if self.dbrx else "model.norm.weight"])
        head = self.get("lm_head.weight")
        return x @ (embedding if head is None else head).T
