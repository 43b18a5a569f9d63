"""Ids and texts of core/text against Hugging Face `tokenizers`: 10,000 lines and every code point, for the tokenizer
that `octavo import` writes and for tokenizers trained here. usage: check_tokenizer.py [--tokenizer-json FILE]
(FILE instead of what `octavo import` writes.) Environment: as smol.py."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import build_tokenizer
import text_lines

TOOL = pathlib.Path(os.environ["OCTAVO_BIN_DIR"]).parent / "tests" / "text_tool"
LINES = 10_000
EVERY_CHARACTER = {"llama3", "gpt2"}  # the styles that use other classes than SmolLM2; Hugging Face is slow at this


def run_tool(args, values):
    done = subprocess.run([str(TOOL), *map(str, args)], input="".join(json.dumps(v) + "\n" for v in values), text=True,
                          capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def show_difference(what, text, expected, got):
    print(f"FAILED {what}: {text[:200]!r}\n  expected {expected!r:.600}\n  got      {got!r:.600}", file=sys.stderr)


# Flags of text_tool, add_special_tokens, and whether special tokens are looked for.
AS_USERS_CALL_IT = ([], True, True)
ALL_WAYS = [AS_USERS_CALL_IT, (["no-added"], False, True), (["no-added", "no-special"], False, False)]


def check_ids(name, path, oracle, texts, ways):
    """Number of texts with other ids."""
    failures = 0
    for flags, added, special in ways:
        oracle.encode_special_tokens = not special
        expected = [encoding.ids for encoding in oracle.encode_batch(texts, add_special_tokens=added)]
        oracle.encode_special_tokens = False
        got = run_tool(["encode", path, *flags], texts)
        for text, want, have in zip(texts, expected, got, strict=True):
            if want != have:
                failures += 1
                if failures <= 3:
                    show_difference(f"{name} ids {flags}", text, want, have)
    return failures


def check_texts(name, path, oracle, texts):
    """Differences in decoded text, whole and incremental, for real ids and for ids cut anywhere."""
    ids = [encoding.ids[i % 3:] for i, encoding in enumerate(oracle.encode_batch(texts))]
    failures = 0
    for flags, skip in ([], False), (["skip-special"], True):
        expected = oracle.decode_batch(ids, skip_special_tokens=skip)
        for one, want, have in zip(ids, expected, run_tool(["decode", path, *flags], ids), strict=True):
            if want != have["text"] or want != "".join(have["pieces"]):
                failures += 1
                if failures <= 3:
                    show_difference(f"{name} text", str(one), want, have)
    return failures


def check(name, path, oracle, seed, characters):
    added = [token.content for token in oracle.get_added_tokens_decoder().values()]
    texts = text_lines.lines(LINES, seed, added)
    failures = check_ids(name, path, oracle, texts, ALL_WAYS) + check_texts(name, path, oracle, texts)
    note = ""
    if characters:
        failures += check_ids(name, path, oracle, text_lines.every_character(), [AS_USERS_CALL_IT])
        note = " and every character"
    print(f"{name}: {len(texts)} lines{note}, {failures} differences", flush=True)
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer-json", type=pathlib.Path)
    flags = parser.parse_args()
    import smol
    path = flags.tokenizer_json or smol.bf16() / "tokenizer.json"
    failures = check("smollm2", path, build_tokenizer.from_gguf(smol.gguf()), seed=1, characters=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed, style in enumerate(build_tokenizer.STYLES, 2):
            oracle = build_tokenizer.build(style)
            path = pathlib.Path(folder) / f"{style}.json"
            oracle.save(str(path))
            failures += check(style, path, oracle, seed, style in EVERY_CHARACTER)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
