"""core/text/chat_template.cc against Jinja, called as `transformers` calls it: 200 conversations per template.
Environment: as smol.py."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import gguf
import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

import chat_texts
import smol

TOOL = pathlib.Path(os.environ["OCTAVO_BIN_DIR"]).parent / "tests" / "text_tool"
CONVERSATIONS = 200
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"


def expected(text, case):
    try:
        rendered, _ = render_jinja_template([case["messages"]], chat_template=text, bos_token=BOS, eos_token=EOS,
                                            add_generation_prompt=case["add_generation_prompt"])
    except jinja2.exceptions.TemplateError:
        return "an error"
    return rendered[0]


def answers(path, cases):
    done = subprocess.run([str(TOOL), "render", str(path), BOS, EOS], text=True, capture_output=True,
                          input="".join(json.dumps(case) + "\n" for case in cases))
    if done.returncode != 0:
        return done.stderr.strip()
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def main():
    failures = 0
    real = gguf.GGUFReader(smol.gguf()).fields["tokenizer.chat_template"].contents()
    templates = [("smollm2, from the GGUF file", real), *chat_texts.all_templates()]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "template"
        for seed, (name, text) in enumerate(templates):
            path.write_bytes(text.encode())
            cases = chat_texts.conversations(CONVERSATIONS, seed)
            got = answers(path, cases)
            if isinstance(got, str):
                print(f"FAILED {name}: {got}", file=sys.stderr)
                failures += 1
                continue
            wrong = 0
            for case, have in zip(cases, got, strict=True):
                want = expected(text, case)
                have = "an error" if isinstance(have, dict) else have
                if want != have:
                    wrong += 1
                    print(f"FAILED {name}: {case}\n  expected {want!r}\n  got      {have!r}", file=sys.stderr)
            print(f"{name}: {len(cases)} conversations, {wrong} differences")
            failures += wrong
        path.write_bytes((real + " ").encode())
        refused = answers(path, [])
        if not isinstance(refused, str) or "digest" not in refused:
            print(f"FAILED: a changed template is not refused: {refused}", file=sys.stderr)
            failures += 1
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
