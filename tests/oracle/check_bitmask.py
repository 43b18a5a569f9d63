#!/usr/bin/env python3
"""Weights stored as sparse-24-bitmask are read by compressed-tensors 0.14.0.1, the last version that knows the format.

SmolLM2 and small random models are pruned 2:4 and quantized twice by the same recipe, once in full and once with `storage:
sparse-24-bitmask`. For each pair:
- config.json makes a compressor of that format in compressed-tensors, which decompresses every tensor of the one folder to
  bits and type of the other's; with one bit of one mask moved it does not;
- where two of four codes differ from zero, kept codes and mask are the bytes that compressed-tensors writes itself;
- transformers of that time loads both folders whole, with no key missing or left over, and gives the same logits.

usage: check_bitmask.py
Run with the environment of `install.sh VENV requirements_bitmask.txt ...`. Environment: as smol.py.
"""

import os

os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

import json
import pathlib
import sys
import tempfile

import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.sparse_compressors.sparse_24_bitmask import (Sparse24BitMaskCompressor,
                                                                                 sparse24_bitmask_compress)
from safetensors.torch import load_file, save_file

import smol

SHAPE = ["--layers", 2, "--hidden", 96, "--intermediate", 172, "--heads", 6, "--kv-heads", 2, "--vocab", 320, "--seed", 7]
FP8 = ("{type: fp8, scale: channel}", "{type: fp8, scale: token}")
INT8 = ("{type: int8, scale: channel}", "{type: int8, scale: token}")
WHOLE = ("{type: fp8, scale: tensor}", "{type: fp8, scale: token}")


def recipe(path, weight, token, storage):
    path.write_text(f"""name: pruned
rules:
  - weight: {weight}
    input: {token}
    solver: {{type: sparsegpt}}
storage: {storage}
calibration: {{samples: 8, sample_length: 128}}
""")
    return path


def pair(scratch, source, schemes):
    """The folders of one recipe: in full, and packed."""
    folders = []
    for storage in ("dense", "sparse-24-bitmask"):
        folder = scratch / storage
        smol.octavo("quantize", source, "--recipe", recipe(scratch / f"{storage}.yaml", *schemes, storage), "--calibration",
                    "random", "--samples", 8, "--sample-length", 128, "--seed", 3, "--workers", 2, "--out", folder,
                    capture_output=True)
        folders.append(folder)
    return folders


def bits_of(tensor):
    return tensor.contiguous().view(torch.uint8)


def decompressed(folder):
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    compressor = ModelCompressor.from_compression_config(config)
    assert isinstance(compressor.sparsity_compressor, Sparse24BitMaskCompressor), compressor.sparsity_compressor
    assert compressor.quantization_compressor, "no compressor of quantized weights"
    return dict(compressor.sparsity_compressor.decompress(str(folder)))


def differing(ours, full):
    assert ours.keys() == full.keys(), ours.keys() ^ full.keys()
    return [name for name in full if ours[name].dtype != full[name].dtype or ours[name].shape != full[name].shape
            or not torch.equal(bits_of(ours[name]), bits_of(full[name]))]


def moved_bit(folder, scratch):
    """A copy in which one mask keeps another column."""
    copy = scratch / "moved"
    copy.mkdir()
    (copy / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith(".bitmask"))
    kept = tensors[name.removesuffix("bitmask") + "compressed"]
    assert bits_of(kept)[0, 0] or bits_of(kept)[0, 1]
    low = int(tensors[name][0, 0]) & 15
    other = next(mask for mask in (3, 5, 6, 9, 10, 12) if mask != low)
    tensors[name][0, 0] = int(tensors[name][0, 0]) & 0xF0 | other
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy, name.removesuffix("bitmask") + "weight"


def check_written_alike(packed, full):
    """Groups with two codes that differ from zero leave no choice."""
    stored, count = load_file(packed / "model.safetensors"), 0
    for name in stored:
        if not name.endswith(".bitmask"):
            continue
        module = name.removesuffix(".bitmask")
        weight = full[module + ".weight"]
        rows, columns = weight.shape
        assert stored[module + ".shape"].tolist() == [[rows], [columns]]
        theirs_kept, theirs_bits = sparse24_bitmask_compress(weight)
        assert theirs_kept.shape == stored[module + ".compressed"].shape and theirs_kept.dtype == weight.dtype
        assert theirs_bits.shape == stored[name].shape and theirs_bits.dtype == stored[name].dtype
        # A negative zero counts below a positive one there; here it is kept where there is room.
        numbers = bits_of(weight) & (0x7F if weight.dtype == torch.float8_e4m3fn else 0xFF)
        settled = (numbers != 0).reshape(rows, -1, 4).sum(-1) == 2
        kept_alike = (bits_of(theirs_kept) == bits_of(stored[module + ".compressed"])).reshape(rows, -1, 2).all(-1)
        nibbles = lambda bits: torch.stack((bits & 15, bits >> 4), -1).reshape(rows, -1)[:, :columns // 4]
        bits_alike = nibbles(theirs_bits) == nibbles(stored[name])
        assert (kept_alike & bits_alike)[settled].all(), module
        count += int(settled.sum())
    return count


def logits(folder, ids):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    left = {key: value for key, value in info.items() if value and key != "unexpected_keys"}
    assert not left, left
    unexpected = [key for key in info["unexpected_keys"]]
    assert not unexpected, unexpected[:3]
    with torch.no_grad():
        return model.eval()(ids, use_cache=False).logits


def check(title, source, schemes, scratch):
    scratch.mkdir()
    full_folder, packed_folder = pair(scratch, source, schemes)
    full = load_file(full_folder / "model.safetensors")
    wrong = differing(decompressed(packed_folder), full)
    copy, moved = moved_bit(packed_folder, scratch)
    noticed = differing(decompressed(copy), full)
    count = check_written_alike(packed_folder, full)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (full_folder, packed_folder)]
    ids = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(1))
    apart = (logits(full_folder, ids) - logits(packed_folder, ids)).abs().max().item()
    good = not wrong and noticed == [moved] and count > 0 and apart == 0
    print(f"{'ok  ' if good else 'FAIL'} {title}: {len(full)} tensors, {len(wrong)} differ {wrong[:2]}; one bit moved: "
          f"{noticed}; {count} groups written alike; {sizes[1]} of {sizes[0]} bytes; logits apart by {apart}")
    return good


def main():
    good = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for family, schemes in (("llama", FP8), ("llama", INT8), ("qwen2", WHOLE), ("mixtral", FP8)):
            title = f"{family}-{schemes[0].split(':')[1].split(',')[0].strip()}-{schemes[0].split()[-1][:-1]}"
            source = scratch / f"{title}-source"
            experts = ["--experts", 4, "--experts-per-token", 2] if family == "mixtral" else []
            smol.octavo("synth", "--family", family, *experts, *SHAPE, "--out", source, capture_output=True)
            good.append(check(title, source, schemes, scratch / title))
        good.append(check("SmolLM2", smol.bf16(), FP8, scratch / "smol"))
    print(f"{sum(good)} of {len(good)} pairs are the same to compressed-tensors")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
