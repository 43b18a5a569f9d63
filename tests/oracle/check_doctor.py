#!/usr/bin/env python3
"""What `octavo doctor` foretells is what happens: in Octavo, and in transformers with compressed-tensors.

Small models quantized by Octavo are copied with one thing wrong each (doctor_folders.py). Every copy is loaded by
transformers and by Octavo's runner, and run over tokens that the model itself wrote. It "loads" if the probabilities are
those of the good folder, it "loads-wrong" if they are others, and it is "refused" if the reader raises an error. doctor must
have said so. doctor_vllm.py does the same with vLLM.

usage: check_doctor.py [NAME...]     only the cases whose names contain one of these
"""

import gc
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import doctor_cases_dialects  # noqa: F401  they enter their cases
import doctor_cases_files  # noqa: F401
import doctor_cases_scales  # noqa: F401
import doctor_folders
import smol

TOOL = smol.BIN.parent / "tests" / "logits_tool"
READERS = ("octavo", "transformers")


def by_transformers(folder, ids):
    """What transformers says of `ids`; raises where it refuses the folder."""
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    # Merged experts are decompressed to the dtype of the folder, whatever is asked for.
    dtype = torch.bfloat16 if config.model_type == "mixtral" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
    with torch.no_grad():
        return doctor_folders.next_logprobs(model(ids, use_cache=True).logits, ids)


def by_octavo(folder, ids, scratch):
    """Raises where Octavo refuses it. A folder without a tokenizer is refused by the gateway, not by the runner."""
    if not (folder / "tokenizer.json").exists():
        # `ids` need no tokenizer, only a model that is served.
        path = scratch / "ids.jsonl"
        path.write_text('{"ids": [1, 2, 3, 4]}\n')
        smol.octavo("eval", "ppl", folder, "--ids", path, "--window", 4, capture_output=True)
    rows, out = scratch / "ids.txt", scratch / "logits.bin"
    rows.write_text("".join(" ".join(map(str, row)) + "\n" for row in ids.tolist()))
    subprocess.run([TOOL, folder, rows, out, "1", "0", "auto", "auto"], check=True, capture_output=True, text=True)
    logits = torch.frombuffer(bytearray(out.read_bytes()), dtype=torch.float32).view(*ids.shape, -1)
    return doctor_folders.next_logprobs(logits, ids)


def attempt(run, *args):
    """The result, and the error where there is none."""
    try:
        return run(*args), ""
    except subprocess.CalledProcessError as error:
        return None, (error.stderr or "").strip()[-300:]
    except Exception as error:  # whatever a reader raises is a refusal
        return None, f"{type(error).__name__}: {error}"[:300]


class Checker:
    def __init__(self, scratch):
        self.scratch, self.maker, self.good = scratch, doctor_folders.Maker(scratch), {}

    def look(self, folder, ids):
        seen = {"octavo": attempt(by_octavo, folder, ids, self.scratch)}
        seen["transformers"] = attempt(by_transformers, folder, ids)
        gc.collect()
        return seen

    def check(self, case):
        source, ids, truth = self.maker.good(case.base)
        if case.base not in self.good:
            self.good[case.base] = {reader: result for reader, (result, _) in self.look(source, ids).items()}
        folder = self.scratch / "case"
        self.maker.make(case, folder)
        foretold = doctor_folders.doctor(folder)
        seen, notes = {}, []
        for reader, (result, error) in self.look(folder, ids).items():
            seen[reader] = "refused" if error else doctor_folders.verdict(result, self.good[case.base][reader], truth)
            notes += [f"{reader}: {error}"] if error else []
        shutil.rmtree(folder)
        return (case.name, foretold["verdicts"], seen, [one["code"] for one in foretold["findings"]], "; ".join(notes))


def main():
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    # What a reader leaves uninitialised is NaN instead of whatever the memory held, so that every run sees the same.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    failures, count = 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        checker = Checker(pathlib.Path(scratch))
        for case in doctor_folders.chosen(sys.argv[1:]):
            failures += doctor_folders.table([checker.check(case)], READERS)
            count += 1
    print(f"check_doctor: {count} folders,", "ok" if failures == 0 else f"{failures} verdicts differ")
    return 1 if failures or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
