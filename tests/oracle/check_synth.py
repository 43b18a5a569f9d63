#!/usr/bin/env python3
"""Live oracle of `octavo synth`: folders of several shapes and dtypes load in safetensors, tokenizers and
transformers unchanged, shards and index agree, and the weights are distributed as promised."""

import json
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer

import smol

CASES = [
    ["--dtype", "bf16", "--shard-size", "200KB"],
    ["--dtype", "f16", "--tied", "--head-dim", "64"],
    ["--dtype", "f32", "--kv-heads", "1", "--seed", "9"],
]
SHAPE = ["--layers", "3", "--hidden", "128", "--intermediate", "256", "--heads", "4", "--vocab", "320"]
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def read_all(folder):
    tensors, holders = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():
                assert name not in tensors, name
                tensors[name], holders[name] = file.get_tensor(name), path.name
    index = folder / "model.safetensors.index.json"
    if index.exists():
        text = json.loads(index.read_text())
        assert text["weight_map"] == holders
        assert text["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    else:
        assert set(holders.values()) == {"model.safetensors"}
    return tensors


def check(folder, flags):
    smol.octavo("synth", *SHAPE, *flags, "--out", folder)
    tensors = read_all(folder)
    dtype = DTYPES[flags[1]]
    for name, tensor in tensors.items():
        assert tensor.dtype == dtype, name
        values = tensor.double()
        want = (1.0, 0.1) if tensor.dim() == 1 else (0.0, 1.0 if "embed" in name else tensor.shape[1] ** -0.5)
        slack = 5 * want[1] / tensor.numel() ** 0.5
        assert abs(values.mean() - want[0]) < slack and abs(values.std() - want[1]) < slack, name

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    loaded = model.state_dict()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
    assert torch.isfinite(model(torch.arange(64)[None]).logits).all()

    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Any byte: \u00e9\u4f60\U0001f642\t\n\x00\x7f 123"
    ids = plain.encode(text).ids
    assert len(ids) == len(text.encode()) and max(ids) < 256
    assert auto(text)["input_ids"] == ids and plain.decode(ids) == text
    assert plain.encode("<|im_start|>").ids == [257] and model.config.eos_token_id == 258
    chat = auto.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    print(f"synth {' '.join(flags)}: {len(tensors)} tensors, ok")


def main():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        for number, flags in enumerate(CASES):
            check(pathlib.Path(scratch) / str(number), flags)
    print("check_synth: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
