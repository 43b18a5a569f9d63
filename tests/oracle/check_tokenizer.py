"""Ids and texts of core/text against Hugging Face `tokenizers`: 100,000 lines for each kind that a family of models
uses (10,000 for other settings of the same) and every code point, for the tokenizer that `octavo import` writes and for
tokenizers trained here. usage: check_tokenizer.py [--tokenizer-json FILE] [--lines N] [STYLE...]
(FILE instead of what `octavo import` writes; STYLE: only these, see build_tokenizer.py.) Environment: as smol.py."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import build_sentencepiece
import build_tokenizer
import text_lines

TOOL = pathlib.Path(os.environ["OCTAVO_BIN_DIR"]).parent / "tests" / "text_tool"
LINES = 100_000
# CPU time of the fastest round, for ten times the text. Linear time is 10; quadratic time would be 100. Both lines are larger than
# the nearest caches: of 100 KB most stays there, which makes ten times the text look up to 17 times as slow.
TIME_RATIO_MAX = 16.0
SIZES = (1_000_000, 10_000_000)
OF_FAMILIES = {"SmolLM2", "smollm2", "llama3", "qwen2", "dbrx", "llama2", "mixtral"}  # others get a tenth of the lines
# The styles that differ in classes of characters or in normalization; Hugging Face is slow at this.
EVERY_CHARACTER = {"SmolLM2", "llama3", "gpt2", "qwen2", "llama2", "never"}


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
    over_characters = oracle.decoder.__class__.__name__ == "Sequence"
    ids = [encoding.ids[i % 3:] for i, encoding in enumerate(oracle.encode_batch(texts))]
    oracle = build_tokenizer.for_decoding(oracle)
    failures = 0
    for flags, skip in ([], False), (["skip-special"], True):
        expected = oracle.decode_batch(ids, skip_special_tokens=skip)
        for one, want, have in zip(ids, expected, run_tool(["decode", path, *flags], ids), strict=True):
            if over_characters and "\ufffd" in want:
                broken = build_sentencepiece.text_of_broken_bytes(oracle, one, skip)
                want = want if broken is None else broken
            if want != have["text"] or want != "".join(have["pieces"]):
                failures += 1
                if failures <= 3:
                    show_difference(f"{name} text", str(one), want, have)
    return failures


def one_line(size):
    """Text, code and digits of `size` characters, without a line feed."""
    lines = text_lines.file_lines(20_000, 5)
    return " ".join(lines * (1 + size // sum(map(len, lines)))).replace("\n", " ")[:size]


def time_ratio(path, folder, make):
    """Milliseconds for a line of 1 MB, and how many times that a line of 10 MB takes."""
    times = []
    for size in SIZES:
        file = pathlib.Path(folder) / "line.txt"
        file.write_text(make(size))
        times.append(run_tool(["time", path, file], [])[0][0])
    return times[0], times[1] / times[0]


def check_linear(name, path, folder):
    """A line of 10 MB takes at most TIME_RATIO_MAX times as long as one of 1 MB: of text, and without any space. What
    neighbours take of the shared cache differs from try to try: one of three must hold."""
    failures = 0
    for kind, make in ("text", one_line), ("letters", lambda size: "a" * size), ("spaces", lambda size: " " * size):
        for _ in range(3):
            milliseconds, ratio = time_ratio(path, folder, make)
            if ratio <= TIME_RATIO_MAX:
                break
        failures += ratio > TIME_RATIO_MAX
        print(f"{name}: a line of 1 MB of {kind} in {milliseconds:.0f} ms, ten times as long a one in {ratio:.1f} times that", flush=True)
    return failures


def check(name, path, oracle, seed, count):
    added = [token.content for token in oracle.get_added_tokens_decoder().values()]
    texts = text_lines.lines(count if name in OF_FAMILIES else count // 10, seed, added + build_tokenizer.traps(name))
    failures = check_ids(name, path, oracle, texts, ALL_WAYS) + check_texts(name, path, oracle, texts)
    note = ""
    if name in EVERY_CHARACTER:
        failures += check_ids(name, path, oracle, text_lines.every_character(), [AS_USERS_CALL_IT])
        note = " and every character"
    print(f"{name}: {len(texts)} lines{note}, {failures} differences", flush=True)
    return failures + (check_linear(name, path, path.parent) if name in OF_FAMILIES - {"SmolLM2"} else 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer-json", type=pathlib.Path)
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("styles", nargs="*")
    flags = parser.parse_args()
    failures = 0
    if not flags.styles:
        import smol
        path = flags.tokenizer_json or smol.bf16() / "tokenizer.json"
        failures += check("SmolLM2", path, build_tokenizer.from_gguf(smol.gguf()), seed=1, count=flags.lines)
    with tempfile.TemporaryDirectory() as folder:
        for seed, style in enumerate(build_tokenizer.STYLES, 2):
            if flags.styles and style not in flags.styles:
                continue
            oracle = build_tokenizer.build(style)
            path = pathlib.Path(folder) / f"{style}.json"
            oracle.save(str(path))
            failures += check(style, path, oracle, seed, flags.lines)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
