"""lm-eval over Octavo's `Score` (lm_eval_octavo.py) gives what lm-eval's own `hf` backend gives, on tasks with local data.

SmolLM2, BF16, against transformers in float32, on Debian's handbook: which of four continuations of some words is the true one
(accuracy, and every choice's log likelihood), and the perplexity of passages. Accuracies agree within the standard error that lm-eval
states; log likelihoods of choices and bits per byte agree as far as BF16 goes.

Run with the environment of `install.sh VENV requirements_lm_eval.txt ...`. Environment: as smol.py; takes some minutes.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

import json
import pathlib
import random
import statistics
import sys
import tempfile

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import smol
from lm_eval_octavo import Octavo

QUESTIONS, CONTEXT, CONTINUATION = 120, 16, 6  # words
PASSAGES, PASSAGE = 8, 250
PER_TOKEN = 0.03  # nats, mean over questions; BF16 rounds every residual
BITS = 0.002  # relative
TASKS = {"octavo_continuations": """output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
""", "octavo_passages": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""}


def write_tasks(folder):
    words, draw = smol.handbook().read_text(encoding="utf-8").split(), random.Random(7)

    def run_of(count):
        begin = draw.randrange(len(words) - 400)
        return words[begin:begin + count]
    questions = []
    for _ in range(QUESTIONS):
        true = run_of(CONTEXT + CONTINUATION)
        choices = [" ".join(run_of(CONTINUATION)) for _ in range(3)]
        label = draw.randrange(4)
        choices.insert(label, " ".join(true[CONTEXT:]))
        questions.append({"context": " ".join(true[:CONTEXT]), "choices": choices, "label": label})
    rows = {"octavo_continuations": questions,
            "octavo_passages": [{"text": " ".join(run_of(PASSAGE))} for _ in range(PASSAGES)]}
    for name, text in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        (folder / f"{name}.yaml").write_text(f"task: {name}\ndataset_path: json\ntest_split: test\n"
                                             f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n{text}")


def evaluate(tasks, model):
    found = lm_eval.simple_evaluate(tasks=list(TASKS), task_manager=TaskManager(include_path=str(tasks)), log_samples=True,
                                    bootstrap_iters=100, model=model)
    accuracy = found["results"]["octavo_continuations"]
    samples = sorted(found["samples"]["octavo_continuations"], key=lambda sample: sample["doc_id"])
    return {"accuracy": accuracy["acc,none"], "error": accuracy["acc_stderr,none"],
            "bits": found["results"]["octavo_passages"]["bits_per_byte,none"],
            "choices": [[choice[0] for choice in sample["filtered_resps"]] for sample in samples]}


def main():
    with tempfile.TemporaryDirectory() as scratch:
        tasks = pathlib.Path(scratch)
        write_tasks(tasks)
        octavo = Octavo(smol.bf16())
        try:
            ours = evaluate(tasks, octavo)
        finally:
            octavo.close()
        theirs = evaluate(tasks, HFLM(pretrained=str(smol.bf16()), dtype="float32", device="cpu", batch_size=8))
    tokens = CONTINUATION * 1.5  # of a continuation, about
    off = [abs(a - b) / tokens for mine, other in zip(ours["choices"], theirs["choices"], strict=True)
           for a, b in zip(mine, other, strict=True)]
    other_choice = sum(max(range(4), key=a.__getitem__) != max(range(4), key=b.__getitem__)
                       for a, b in zip(ours["choices"], theirs["choices"]))
    bits = ours["bits"] / theirs["bits"] - 1
    print(f"accuracy {ours['accuracy']:.4f}, hf {theirs['accuracy']:.4f} +- {theirs['error']:.4f}; another choice in {other_choice} of "
          f"{QUESTIONS}; log likelihoods off by {statistics.mean(off):.4f} nats a token on average, {max(off):.4f} at most; "
          f"bits per byte {ours['bits']:.5f}, hf {theirs['bits']:.5f} ({bits:+.5%})")
    good = (abs(ours["accuracy"] - theirs["accuracy"]) <= theirs["error"] and 0.3 < theirs["accuracy"] < 1
            and statistics.mean(off) < PER_TOKEN and abs(bits) < BITS)
    print("ok" if good else "FAILED")
    sys.exit(not good)


if __name__ == "__main__":
    main()
