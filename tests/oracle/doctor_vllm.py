#!/usr/bin/env python3
"""What `octavo doctor` foretells is what vLLM does: check_doctor.py with vLLM on the CPU as the reader.

Run with the environment of install_vllm.sh. vLLM is imported once; every folder is loaded and run in a process forked from
there, because an engine is not taken down again. vllm_kernels.py puts in what the build for CPUs lacks; what there is no
kernel for even so is a refusal of the machine and not of the folder: such cases are counted and not compared.

usage: doctor_vllm.py [NAME...]     only the cases whose names contain one of these
"""

import os
import pathlib
import pickle
import re
import shutil
import sys
import tempfile

os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1",
                  VLLM_ENABLE_V1_MULTIPROCESSING="0", TQDM_DISABLE="1", VLLM_CPU_OMP_THREADS_BIND="nobind",
                  OMP_NUM_THREADS="1", VLLM_CPU_NUM_OF_RESERVED_CPU="0")

import torch

import doctor_cases_dialects  # noqa: F401  they enter their cases
import doctor_cases_files  # noqa: F401
import doctor_cases_scales  # noqa: F401
import doctor_folders
import vllm_kernels

# How vLLM says that it has no kernel for this machine.
NO_KERNEL = re.compile(r"Failed to find a kernel|No FP8 MoE backend|No (supported|suitable).*(kernel|backend)|"
                       r"does not support the current (device|platform)", re.I)


def load_and_run(folder, ids):
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    llm = LLM(str(folder), enforce_eager=True, max_model_len=64, max_num_seqs=1, dtype="bfloat16",
              enable_prefix_caching=False, distributed_executor_backend="uni", disable_log_stats=True)
    rows = []
    for row in ids.tolist():
        output = llm.generate(TokensPrompt(prompt_token_ids=row), SamplingParams(max_tokens=1, prompt_logprobs=0),
                              use_tqdm=False)[0]
        rows.append([entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], row[1:])])
    return torch.tensor(rows)


def in_a_fork(folder, ids):
    """What vLLM says of `ids`, or None and the error."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if not os.environ.get("DOCTOR_VLLM_STDERR"):
            os.dup2(null, 2)
        try:
            answer = load_and_run(folder, ids), ""
        except BaseException as error:
            answer = None, f"{type(error).__name__}: {error}"[:600]
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(raw) if raw else (None, "the process died")


class Checker:
    def __init__(self, scratch):
        self.scratch, self.maker, self.good = scratch, doctor_folders.Maker(scratch), {}

    def check(self, case):
        source, ids, truth = self.maker.good(case.base)
        if case.base not in self.good:
            self.good[case.base] = in_a_fork(source, ids)
        good, why = self.good[case.base]
        folder = self.scratch / "case"
        self.maker.make(case, folder)
        foretold = doctor_folders.doctor(folder)
        result, error = in_a_fork(folder, ids)
        shutil.rmtree(folder)
        if NO_KERNEL.search(error):
            return None
        seen = "refused" if error else doctor_folders.verdict(result, good, truth)
        return (case.name, foretold["verdicts"], {"vllm": seen}, [one["code"] for one in foretold["findings"]], error)


def main():
    import vllm  # noqa: F401  before any fork
    import vllm.entrypoints.llm  # noqa: F401
    import vllm.model_executor.models.llama  # noqa: F401
    vllm_kernels.install()
    torch.set_num_threads(1)  # a pool of threads would not come along into a fork
    failures, compared, skipped = 0, 0, []
    with tempfile.TemporaryDirectory() as scratch:
        checker = Checker(pathlib.Path(scratch))
        for case in doctor_folders.chosen(sys.argv[1:]):
            row = checker.check(case)
            if row is None:
                skipped.append(case.name)
                continue
            failures += doctor_folders.table([row], ("vllm",))
            compared += 1
    print(f"no kernel on this CPU, not compared: {len(skipped)} {' '.join(skipped)}")
    print(f"doctor_vllm: {compared} folders,", "ok" if failures == 0 else f"{failures} verdicts differ")
    return 1 if failures or compared == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
