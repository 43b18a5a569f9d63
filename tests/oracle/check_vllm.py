"""vLLM on this CPU loads our INT8 and FP8 files unchanged and agrees with our serving of them.

Run with the environment of install_vllm.sh. vLLM quantizes activations and sums in its own order, so the bar is on the
mean NLL over the same windows, not on bits.
"""

import json
import os
import sys

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import smol

WINDOW = 2048
BAR = 0.01  # relative


def vllm_nll(folder, count):
    """Mean NLL of the first `count` windows, and how many of the model's linears vLLM runs quantized."""
    from vllm import LLM, SamplingParams
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    from vllm.inputs import TokensPrompt
    llm = LLM(str(folder), enforce_eager=True, max_model_len=WINDOW + 8, max_num_seqs=1, dtype="bfloat16",
              enable_prefix_caching=False)
    ids = llm.get_tokenizer()(smol.handbook().read_text(encoding="utf-8"))["input_ids"][:count * WINDOW]
    total = 0.0
    for start in range(0, count * WINDOW, WINDOW):
        window = ids[start:start + WINDOW]
        output = llm.generate(TokensPrompt(prompt_token_ids=window),
                              SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0), use_tqdm=False)[0]
        logprobs = [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], window[1:])]
        total -= sum(logprobs) / len(logprobs)
    del llm
    cleanup_dist_env_and_memory()
    return total / count


def main():
    recipe, count = sys.argv[1], 2
    folder = smol.quantized(recipe)
    done = smol.octavo("eval", "ppl", folder, "--text", smol.handbook(), "--windows", count, "--json",
                       capture_output=True)
    mine = json.loads(done.stdout.strip().splitlines()[-1])["nll"]
    theirs = vllm_nll(folder, count)
    ok = abs(mine - theirs) <= BAR * theirs
    print(f"{recipe}: octavo {mine:.5f}  vllm {theirs:.5f}  ratio {mine / theirs:.4f}  {'ok' if ok else 'FAIL'}")
    smol.leave(0 if ok else 1)


if __name__ == "__main__":
    main()
