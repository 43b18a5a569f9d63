"""core/text/chat_template.cc and the Jinja beneath it against jinja2, called as `transformers` calls it: 200 conversations
for each template of chat_families/ and chat_texts.py, and the template of a real checkpoint; then the expression language
on the generated templates of expression_texts.py. Environment: as smol.py. OCTAVO_SEED draws other cases."""

import json
import os
import pathlib
import subprocess
import sys

import gguf

import chat_inputs
import chat_texts
import expression_texts
import smol

TOOL = pathlib.Path(os.environ["OCTAVO_BIN_DIR"]).parent / "tests" / "text_tool"
FAMILIES = pathlib.Path(__file__).resolve().parent / "chat_families"
CONVERSATIONS = 200
EXPRESSIONS = 1500
SEED = int(os.environ.get("OCTAVO_SEED", "0"))


def answers(lines):
    done = subprocess.run([str(TOOL), "render"], capture_output=True, input="".join(line + "\n" for line in lines).encode(),
                          env={**os.environ, "TZ": "UTC"}, check=True)
    return [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]


def differs(wanted, have):
    """What is wrong with an answer, or None."""
    kind, text = wanted
    if kind == "text":
        return None if have == text else "the text differs"
    if not isinstance(have, dict):
        return "an error is missing"
    if have["reason"] not in ("BAD_REQUEST", "UNSUPPORTED"):
        return "the reason of the error"
    if kind == "raise" and (have["reason"] != "BAD_REQUEST" or not have["error"].endswith(": " + text)):
        return "the text of the error"
    return None


def compare(name, pairs, lines):
    """pairs: (what is asked, what Jinja says)."""
    wrong = errors = 0
    for (asked, wanted), have in zip(pairs, answers(lines), strict=True):
        errors += wanted[0] != "text"
        what = differs(wanted, have)
        if what:
            wrong += 1
            if wrong <= 5:
                print(f"FAILED {name}: {what}: {asked!r}\n  expected {wanted!r}\n  got      {have!r}", file=sys.stderr)
    print(f"{name}: {len(pairs)} cases, {errors} of them errors, {wrong} differences")
    return wrong


def main():
    failures = 0
    real = gguf.GGUFReader(smol.gguf()).fields["tokenizer.chat_template"].contents()
    templates = [("smollm2, from the GGUF file", real), *chat_texts.all_templates()]
    templates += [(path.stem, path.read_text("utf-8")) for path in sorted(FAMILIES.glob("*.jinja"))]
    for number, (name, text) in enumerate(templates):
        cases = chat_inputs.conversations(CONVERSATIONS, SEED * 1000 + number)
        pairs = [(case, chat_inputs.render(text, case)) for case in cases]
        failures += compare(name, pairs, chat_inputs.jobs(text, cases))
    for group, cases in expression_texts.groups(EXPRESSIONS, SEED):
        pairs = [(case, chat_inputs.render(case["template"], case["variables"])) for case in cases]
        lines = [json.dumps({**case, "now_ns": chat_inputs.NOW_NS}) for case in cases]
        failures += compare(group, pairs, lines)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
