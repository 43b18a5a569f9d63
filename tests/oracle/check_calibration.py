#!/usr/bin/env python3
"""Samples of calibration (core/text/calibration_text.h) against what transformers makes of the same files with SmolLM2's
tokenizer and chat template: plain text, JSON lines with texts, conversations and ids, packed and line by line.
Environment: as smol.py."""

import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import transformers

import smol
import text_lines

TOOL = pathlib.Path(os.environ["OCTAVO_BIN_DIR"]).parent / "tests" / "text_tool"
ROLES = ["user", "assistant"]


def calibrate(path, samples, length, packing=None, seed=None, vocabulary=None, as_text_padded=False):
    settings = {"vocabulary": vocabulary, "samples": samples, "sample_length": length, "packing": packing, "seed": seed,
                "as_text_padded": as_text_padded}
    done = subprocess.run([str(TOOL), "calibrate", str(smol.bf16()), str(path), json.dumps(settings)], text=True,
                          capture_output=True, check=True)
    return json.loads(done.stdout)


def cut(stream, samples, length):
    return [stream[i * length:(i + 1) * length] for i in range(min(samples, len(stream) // length))]


def conversations(count, rng):
    lines = text_lines.lines(2000, 11, ["<|im_start|>", "<|im_end|>"])
    for number in range(count):
        turns = [{"role": ROLES[i % 2], "content": " ".join(rng.choices(lines, k=rng.randint(1, 4)))}
                 for i in range(rng.randint(1, 6))]
        if number % 3 == 0:
            turns.insert(0, {"role": "system", "content": rng.choice(lines)})
        yield turns


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=number % 2 == 0) + "\n" for number, row in enumerate(rows)))
    return path


class Checks:
    def __init__(self):
        self.failures = 0

    def equal(self, what, got, expected):
        if got == expected and expected:
            print(f"{what}: {len(expected)} samples, {sum(map(len, expected))} tokens equal", flush=True)
            return
        self.failures += 1
        if isinstance(got, dict):
            print(f"FAILED {what}: {got}", file=sys.stderr)
            return
        first = next((i for i, pair in enumerate(zip(got, expected)) if pair[0] != pair[1]), min(len(got), len(expected)))
        print(f"FAILED {what}: {len(got)} samples, {len(expected)} expected; sample {first} differs", file=sys.stderr)


def main():
    transformers.utils.logging.set_verbosity_error()
    folder = smol.bf16()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    rng = random.Random(5)
    checks = Checks()

    def ours(path, *args, **options):
        return calibrate(path, *args, vocabulary=vocabulary, **options)

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        book = smol.handbook()
        stream = tokenizer(book.read_bytes().decode())["input_ids"]
        checks.equal("text, packed", ours(book, 128, 512), cut(stream, 128, 512))
        checks.equal("text, all of it", ours(book, 65536, 100), cut(stream, 65536, 100))
        lines = [line for line in book.read_text().split("\n") if line.strip()]
        checks.equal("text, line by line", ours(book, 500, 16, "each"),
                     [tokenizer(line)["input_ids"][:16] for line in lines[:500]])

        texts = text_lines.lines(3000, 7, ["<|im_start|>"])
        path = write_lines(scratch / "texts.jsonl", ({"id": i, "text": text} for i, text in enumerate(texts)))
        checks.equal("JSON texts, packed", ours(path, 1000, 64), cut(tokenizer("\n\n".join(texts))["input_ids"], 1000, 64))
        full = [text for text in texts if text]
        path = write_lines(scratch / "full.jsonl", ({"text": text} for text in full))
        checks.equal("JSON texts, line by line", ours(path, 3000, 32, "each"),
                     [tokenizer(text)["input_ids"][:32] for text in full])

        chats = list(conversations(300, rng))
        path = write_lines(scratch / "chats.jsonl", ({"prompt": "x", "messages": chat} for chat in chats))
        # Rendered and tokenized in one go by the tokenizer itself.
        ids = [tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False) for chat in chats]
        checks.equal("conversations", ours(path, 300, 4096), [one[:4096] for one in ids])
        checks.equal("conversations, cut", ours(path, 200, 50), [one[:50] for one in ids[:200]])
        # As the scripts around AutoFP8 do it: the text tokenized like any other, padded on the right with EOS.
        tokenizer.pad_token = tokenizer.eos_token
        rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats[:100]]
        for length in (4096, 60):
            padded = tokenizer(rendered, padding=True, padding_side="right", truncation=True, max_length=length)["input_ids"]
            checks.equal(f"conversations as padded text, at most {length}",
                         ours(path, 100, length, as_text_padded=True), padded)
        joined = list(itertools.chain.from_iterable(ids))
        checks.equal("conversations, packed", ours(path, 100, 128, "pack"), cut(joined, 100, 128))
        chosen = ours(path, 100, 4096, None, 3)
        checks.equal("conversations, chosen by seed", chosen, [one for one in ids if one in chosen] if len(chosen) == 100 else [])

        path = write_lines(scratch / "ids.jsonl", ({"ids": one} for one in ids))
        checks.equal("ids", ours(path, 300, 4096), [one[:4096] for one in ids])
    sys.exit(checks.failures > 0)


if __name__ == "__main__":
    main()
