#!/usr/bin/env python3
"""Readers of quantized folders, each in its own environment: readers.py READER, jobs as JSON lines on standard input.

A job is {"folder", "source" (the BF16 folder), "ids" (windows), "kv" (the cache is FP8)}; the answer, one JSON line beginning
with "@", is {"folder", "verdict", "nll" (per window), "note"}. Verdicts: "runs" (it computed nll), "maps" (no kernel here,
but its loader filled every element of every parameter from the file), "fails".

transformers: missing, unexpected and misshapen tensors are failures. vllm: where LLM() refuses, vLLM's own model and loader
are made with the choice of a kernel left out, every parameter is filled with NaN first, and none may be left.
"""

import contextlib
import json
import math
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import torch


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def read_safetensors(job):
    """Every file opens, every tensor of every file is read, and an index names them all."""
    from safetensors import safe_open
    names = {}
    for path in sorted(pathlib.Path(job["folder"]).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}, file.metadata()
            for name in file.keys():
                tensor = file.get_tensor(name)
                assert tensor.numel() and torch.isfinite(tensor.float()).all(), name
                names[name] = path.name
    index = pathlib.Path(job["folder"]) / "model.safetensors.index.json"
    assert names and (not index.exists() or json.loads(index.read_text())["weight_map"] == names)
    return {"verdict": "runs", "note": f"{len(names)} tensors"}


@torch.inference_mode()
def nll_of(model, windows):
    rows = torch.tensor(windows)
    return [torch.nn.functional.cross_entropy(model(row[None], use_cache=False).logits[0, :-1].double(), row[1:]).item()
            for row in rows]


def read_transformers(job):
    import transformers
    config = transformers.AutoConfig.from_pretrained(job["folder"])
    # It decompresses merged experts to BF16, whatever is asked for, and multiplies them with inputs of the asked type.
    dtype = torch.bfloat16 if config.model_type == "mixtral" else torch.float32
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=dtype, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True)
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
             if info.get(key)}
    nll = nll_of(model.eval(), job["ids"])
    return {"verdict": "fails" if wrong else "runs", "nll": nll,
            "note": "; ".join(f"{len(names)} {key}, {names[0]}" for key, names in wrong.items())}


def read_quark(job):
    """import_model_from_safetensors into the BF16 model's skeleton, its experts prepared as Quark asks."""
    import transformers
    from quark.torch import import_model_from_safetensors
    from quark.torch.utils.llm.model_preparation import preprocess_for_quantization
    config = transformers.AutoConfig.from_pretrained(job["source"])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager").eval()
    preprocess_for_quantization(model, reload=True)
    model = import_model_from_safetensors(model, job["folder"])
    return {"verdict": "runs", "nll": nll_of(model, job["ids"])}


def vllm_options(job):
    return dict(model=job["folder"], skip_tokenizer_init=True, enforce_eager=True, max_model_len=128, max_num_seqs=1,
                dtype="bfloat16", enable_prefix_caching=False, kv_cache_dtype="fp8" if job["kv"] else "auto")


def end_vllm():
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    with contextlib.suppress(Exception):
        cleanup_dist_env_and_memory()


def run_vllm(job):
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    llm = LLM(**vllm_options(job))
    nll = []
    for ids in job["ids"]:
        output = llm.generate(TokensPrompt(prompt_token_ids=ids),
                              SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False),
                              use_tqdm=False)[0]
        logprobs = [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
        nll.append(-sum(logprobs) / len(logprobs))
    kernels = {type(module.quant_method.fp8_linear).__name__ for module in model_of(llm).modules()
               if hasattr(getattr(module, "quant_method", None), "fp8_linear")}
    kernels |= {type(module.scheme).__name__ for module in model_of(llm).modules() if hasattr(module, "scheme")}
    return {"verdict": "runs", "nll": nll, "note": ", ".join(sorted(kernels))}


def model_of(llm):
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner.model


def any_kernel():
    """Experts choose their kernel when they are made: any will do where only the loader is asked."""
    import importlib
    from vllm.model_executor.layers.fused_moe.experts.triton_moe import TritonExperts
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
    for name in ("fp8", "quark.quark_moe", "compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_w8a8_fp8"):
        module = importlib.import_module("vllm.model_executor.layers.quantization." + name)
        module.select_fp8_moe_backend = lambda **_: (Fp8MoeBackend.TRITON, TritonExperts)


def find_dbrx_experts():
    """vLLM 0.32 looks for DBRX's experts under the names they had before they moved into `routed_experts`; its pull request
    49362 changes that one line."""
    from vllm.model_executor.models.dbrx import DbrxModel
    if hasattr(DbrxModel, "octavo_load"):
        return
    DbrxModel.octavo_load = load = DbrxModel.load_weights

    def load_weights(self, weights):
        named, moved = self.named_parameters, {}

        def old_names(**options):
            for name, parameter in named(**options):
                old = name.replace(".routed_experts.", ".")
                moved[old] = name
                yield old, parameter
        self.named_parameters = old_names
        loaded = load(self, weights)
        del self.named_parameters
        return {moved.get(name, name) for name in loaded}
    DbrxModel.load_weights = load_weights


def poison(tensor):
    if tensor.dtype == torch.float8_e4m3fn:
        tensor.view(torch.uint8).fill_(0x7F)
    elif tensor.dtype == torch.int8:
        tensor.fill_(-128)
    else:
        tensor.fill_(math.nan)


def poisoned(tensor):
    if tensor.dtype == torch.int8:
        return tensor == -128
    return torch.isnan(tensor.float())


def map_vllm(job, reason):
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype
    any_kernel()
    find_dbrx_experts()
    config = EngineArgs(**vllm_options(job)).create_engine_config()
    with set_current_vllm_config(config), tempfile.NamedTemporaryFile() as meeting:
        init_distributed_environment(1, 0, f"file://{meeting.name}", 0, "gloo")
        initialize_model_parallel(1, 1)
        with set_default_torch_dtype(torch.bfloat16):
            model = initialize_model(config)
        held = dict(model.named_parameters())
        for parameter in held.values():
            poison(parameter.data)
        DefaultModelLoader(config.load_config).load_weights(model, config.model_config)
    # A cache has four scales in vLLM; files hold two, if any. The others start at 1, and zero points at 0.
    spare = ("q_scale", "prob_scale", "_zero_point") + (() if job["kv"] else ("k_scale", "v_scale"))
    left = [name for name, parameter in held.items()
            if not name.endswith(spare) and poisoned(parameter.data).any()]
    if left:
        return {"verdict": "fails", "note": f"{reason}; not filled: {len(left)}, {left[0]}"}
    return {"verdict": "maps", "note": f"{len(held)} parameters; {reason}"}


def read_vllm(job):
    try:
        return run_vllm(job)
    except Exception as error:  # noqa: BLE001: whatever it says is the finding
        reason = first_line(error)
    end_vllm()
    return map_vllm(job, reason)


READERS = {"safetensors": read_safetensors, "transformers": read_transformers, "quark": read_quark, "vllm": read_vllm}


def main():
    reader = READERS[sys.argv[1]]
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = reader(job)
        except Exception as error:  # noqa: BLE001
            answer = {"verdict": "fails", "note": first_line(error)}
        if sys.argv[1] == "vllm":
            end_vllm()
        print("@" + json.dumps({"folder": job["folder"], **answer}), flush=True)


if __name__ == "__main__":
    main()
