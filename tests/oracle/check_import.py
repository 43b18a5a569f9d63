#!/usr/bin/env python3
"""Live oracle of `octavo import`: check_import.py [GGUF IMPORTED_DIR] [--lines N]

Without arguments: SmolLM2, imported by the octavo program (smol.py).

Compares the imported folder with what Hugging Face libraries make of the same GGUF file:
1. every weight, bit for bit, with transformers' own import;
2. the model facts that decide its arithmetic, with that import's config;
3. token ids on N lines of text, code, digits and Unicode, with a tokenizer built here from the
   file's vocabulary and merges, and through AutoTokenizer; decoding gives the line back;
4. the safetensors library reads the file, and its header is byte for byte what the library writes.
"""

import argparse
import json
import os
import pathlib
import random
import sys
import sysconfig

import gguf
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def check_weights(path: pathlib.Path, out: pathlib.Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    want = model.state_dict()
    if model.config.tie_word_embeddings:
        want.pop("lm_head.weight", None)
    names = set()
    with safe_open(out / "model.safetensors", framework="pt") as file:
        for name in file.keys():
            names.add(name)
            ours, theirs = file.get_tensor(name), want[name]
            assert ours.dtype == theirs.dtype == torch.bfloat16, name
            assert ours.shape == theirs.shape, name
            same = torch.equal(ours.view(torch.int16), theirs.view(torch.int16))
            assert same, f"{name}: {(ours != theirs).sum().item()} values differ"
    assert names == set(want), names ^ set(want)
    print(f"weights: {len(names)} tensors equal bit for bit")

    ours = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).config
    theirs = model.config
    for key in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
                "tie_word_embeddings", "hidden_act", "bos_token_id", "eos_token_id"]:
        assert getattr(ours, key) == getattr(theirs, key), key
    f32 = lambda x: torch.tensor(x, dtype=torch.float32).item()
    assert f32(ours.rms_norm_eps) == f32(theirs.rms_norm_eps)
    assert f32(ours.rope_parameters["rope_theta"]) == f32(theirs.rope_parameters["rope_theta"])
    print("config: equal")


def check_header(out: pathlib.Path, scratch: pathlib.Path) -> None:
    tensors = {}
    with safe_open(out / "model.safetensors", framework="pt") as file:
        for name in file.keys():
            tensors[name] = file.get_tensor(name)
    save_file(tensors, scratch, metadata={"format": "pt"})
    ours, theirs = (out / "model.safetensors").read_bytes(), scratch.read_bytes()
    scratch.unlink()
    assert ours == theirs, "the library writes other bytes"
    print("safetensors: the file is what the library writes, byte for byte")


def independent_tokenizer(path: pathlib.Path) -> Tokenizer:
    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields[key].contents() if key in fields else None
    tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in get("tokenizer.ggml.merges")]
    assert get("tokenizer.ggml.model") == "gpt2" and get("tokenizer.ggml.pre") == "smollm"
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)
                                  for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def lines_of_all_kinds(count: int, seed: int = 7) -> list[str]:
    rng = random.Random(seed)
    lines = []
    for folder in ["/usr/share/doc", sysconfig.get_paths()["stdlib"]]:
        files = sorted(p for p in pathlib.Path(folder).rglob("*")
                       if p.suffix in {".py", ".txt", ".md", ""} and p.is_file())
        rng.shuffle(files)
        room = len(lines) + count * 3 // 10
        for file in files:
            if len(lines) >= room:
                break
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            lines += [line for line in text.splitlines()[:60] if line]
    while len(lines) < count * 7 // 10:
        digits = "".join(rng.choice("0123456789.,-+ eE²٣Ⅷ") for _ in range(rng.randrange(1, 60)))
        lines.append(digits)
    alphabets = ["abc XYZ'sdtll've ", "äöüßéñç ", "привет мир ", "你好世界。 ", "مرحبا ", "🙂👩‍👩‍👧🇩🇪 ",
                 "\t\n\r \u00a0\u2003\u3000", "<|im_start|> <|im_end|> ", "e\u0301a\u0308 ",
                 "{}[]();=>!&|/*#\"' ", "\u0000\u0001\u007f\u200b\ufeff "]
    while len(lines) < count:
        pool = "".join(rng.sample(alphabets, rng.randrange(1, 4)))
        line = "".join(rng.choice(pool) for _ in range(rng.randrange(1, 80)))
        lines.append(line + rng.choice(["", "<|im_end|>", "<|endoftext|>\n", "  "]))
    while len(lines) > count:
        lines.pop(rng.randrange(len(lines)))
    return lines


def check_tokenizer(path: pathlib.Path, out: pathlib.Path, count: int) -> None:
    ours = Tokenizer.from_file(str(out / "tokenizer.json"))
    theirs = independent_tokenizer(path)
    auto = AutoTokenizer.from_pretrained(out)
    lines = lines_of_all_kinds(count)
    assert len(lines) == count
    tokens = 0
    for line in lines:
        want = theirs.encode(line, add_special_tokens=False).ids
        got = ours.encode(line, add_special_tokens=False).ids
        assert got == want, (line, got, want)
        assert auto(line, add_special_tokens=False)["input_ids"] == want, line
        assert ours.decode(got, skip_special_tokens=False) == line, line
        tokens += len(want)
    print(f"tokenizer: {count} lines, {tokens} ids equal, decoding restores each line")
    fields = gguf.GGUFReader(path).fields
    template = fields["tokenizer.chat_template"].contents()
    assert auto.chat_template == template
    chat = auto.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False,
                                    add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), chat
    named = json.loads((out / "tokenizer_config.json").read_text())
    assert (named["bos_token"], named["eos_token"]) == (auto.bos_token, auto.eos_token)
    print("chat template: equal")


def main() -> int:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=pathlib.Path, nargs="?")
    parser.add_argument("imported", type=pathlib.Path, nargs="?")
    parser.add_argument("--lines", type=int, default=10_000)
    args = parser.parse_args()
    if args.imported is None:
        import smol
        args.gguf, args.imported = smol.gguf(), smol.bf16()
    check_tokenizer(args.gguf, args.imported, args.lines)
    check_header(args.imported, args.imported.parent / f".header-{os.getpid()}.safetensors")
    check_weights(args.gguf, args.imported)
    print("check_import: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
