"""Writes tests/golden/text: small tokenizers trained with Hugging Face `tokenizers` and SentencePiece, the ids that they
give, and prompts rendered by Jinja as `transformers` does. Run with the environment of install.sh. The lines come from
text_lines.WORDS and the like only, and the training text from common-licenses, so that the files change only with the
libraries."""

import glob
import json
import pathlib
import random

from transformers.utils.chat_template_utils import render_jinja_template

import build_sentencepiece
import build_tokenizer
import chat_inputs
import chat_texts
import expression_texts
import text_lines
import train_sentencepiece

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "text"
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"


def training_lines():
    paths = sorted(set(pathlib.Path(path).resolve() for path in glob.glob("/usr/share/common-licenses/*")))
    return [line for path in paths for line in path.read_text("utf-8", "replace").split("\n")]


def write_lines(path, values):
    path.write_text("".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values))


def tokenizer_golden(style):
    size = 800 if style in build_sentencepiece.STYLES else 500  # 256 of the 800 are bytes
    tokenizer = build_tokenizer.STYLES[style](size, training_lines())
    tokenizer.save(str(GOLDEN / f"{style}.tokenizer.json"), pretty=False)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()] + build_tokenizer.traps(style)
    decoding = build_tokenizer.for_decoding(tokenizer)
    rng = random.Random(style)
    cases = []
    for _ in range(25):
        text = text_lines.generated_line(rng, added)
        with_added = tokenizer.encode(text).ids
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = True
        as_text = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        cases.append({"text": text, "with_added": with_added, "ids": ids, "special_as_text": as_text,
                      "decoded": decoding.decode(ids, skip_special_tokens=False),
                      "without_special": decoding.decode(ids, skip_special_tokens=True)})
    write_lines(GOLDEN / f"{style}.cases.jsonl", cases)


def sentencepiece_golden(style):
    model = train_sentencepiece.train(style, 800, training_lines())
    (GOLDEN / f"{style}.model").write_bytes(model)
    oracle = train_sentencepiece.processor(model)
    rng = random.Random(style)
    cases = []
    for _ in range(40):
        text = text_lines.generated_line(rng, train_sentencepiece.TRAPS)
        ids = oracle.encode(text)
        cases.append({"text": text, "ids": ids, "decoded": oracle.decode(ids)})
    write_lines(GOLDEN / f"{style}.cases.jsonl", cases)


def chat_golden():
    cases = []
    for seed, (name, text) in enumerate(chat_texts.all_templates()):
        for case in chat_texts.conversations(5, seed + 100):
            if not case["messages"]:
                continue
            rendered, _ = render_jinja_template([case["messages"]], chat_template=text, bos_token=BOS, eos_token=EOS,
                                                add_generation_prompt=case["add_generation_prompt"])
            cases.append({"name": name, "template": text, **case, "prompt": rendered[0]})
    write_lines(GOLDEN / "chat.jsonl", cases)


def answer(template, variables):
    kind, text = chat_inputs.render(template, variables)
    return {kind: text if kind != "error" else True}


def family_golden():
    """Conversations for each family, half of them with tools; one line a family."""
    lines = []
    for number, path in enumerate(sorted((pathlib.Path(__file__).parent / "chat_families").glob("*.jinja"))):
        template = path.read_text("utf-8")
        cases = [{"variables": case, **answer(template, case)} for case in chat_inputs.conversations(8, number + 500)]
        lines.append({"name": path.stem, "template": template, "now_ns": chat_inputs.NOW_NS, "cases": cases})
    write_lines(GOLDEN / "chat_families.jsonl", lines)


def jinja_golden():
    """The expression language; one line a group."""
    lines = []
    for name, group in expression_texts.groups(250, 1):
        cases = [{"template": case["template"], **answer(case["template"], case["variables"])} for case in group]
        lines.append({"name": name, "variables": expression_texts.VARIABLES, "now_ns": chat_inputs.NOW_NS, "cases": cases})
    write_lines(GOLDEN / "jinja.jsonl", lines)


def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for style in build_tokenizer.STYLES:
        tokenizer_golden(style)
    for style in ("spm_llama", "spm_user"):  # the others hold a charsmap of 240 KB
        sentencepiece_golden(style)
    chat_golden()
    family_golden()
    jinja_golden()


if __name__ == "__main__":
    main()
