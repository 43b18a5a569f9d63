"""Ids and texts of core/text, from files tokenizer.model, against SentencePiece itself: 100,000 lines for each kind that a
family of models uses, 10,000 for other settings, and every code point. Environment: as smol.py.
usage: check_sentencepiece.py [--lines N]"""

import argparse
import pathlib
import sys
import tempfile

import check_tokenizer
import text_lines
import train_sentencepiece

OF_FAMILIES = {"spm_llama", "spm_user"}


def differences(what, inputs, expected, got):
    failures = 0
    for value, want, have in zip(inputs, expected, got, strict=True):
        if want != have:
            failures += 1
            if failures <= 3:
                check_tokenizer.show_difference(what, str(value), want, have)
    return failures


def check_ids(style, path, oracle, texts):
    got = check_tokenizer.run_tool(["encode", path, "no-added", "no-special"], texts)
    return differences(f"{style} ids", texts, oracle.encode(texts), got)


def check_texts(style, path, oracle, texts):
    """Of real ids and of ids cut anywhere; control and unknown pieces, which give no text, are left out."""
    left_out = {i for i in range(oracle.get_piece_size()) if oracle.is_control(i) or oracle.is_unknown(i)}
    ids = [[i for i in one[n % 3:] if i not in left_out] for n, one in enumerate(oracle.encode(texts))]
    got = check_tokenizer.run_tool(["decode", path, "skip-special"], ids)
    expected = [oracle.decode(one) if one else "" for one in ids]
    return (differences(f"{style} text", ids, expected, [have["text"] for have in got]) +
            differences(f"{style} pieces", ids, expected, ["".join(have["pieces"]) for have in got]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=check_tokenizer.LINES)
    flags = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed, style in enumerate(train_sentencepiece.STYLES, 40):
            model = train_sentencepiece.train(style, 4000, text_lines.lines(3000, seed))
            path = pathlib.Path(folder) / f"{style}.model"
            path.write_bytes(model)
            oracle = train_sentencepiece.processor(model)
            count = flags.lines if style in OF_FAMILIES else flags.lines // 10
            texts = text_lines.lines(count, seed, train_sentencepiece.TRAPS)
            found = check_ids(style, path, oracle, texts) + check_texts(style, path, oracle, texts)
            found += check_ids(style, path, oracle, text_lines.every_character())
            print(f"{style}: {len(texts)} lines and every character, {found} differences", flush=True)
            failures += found
            if style in OF_FAMILIES:
                failures += check_tokenizer.check_linear(style, path, folder)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
