#!/usr/bin/env python3
"""How Octavo chooses tokens, against the logits processors of transformers.

Rows: on random logits, random requests and random texts, the row that is drawn from is bit for bit what the processors
of transformers make of it (bias, least length, repetition; frequency and presence, which transformers has not, are
written here by their definition), and what comes out of thousands of draws is exactly the support that the temperature,
min-p, top-k and top-p warpers leave, in their probabilities. Rows on which the last one that stays or the first that
goes is within rounding of the bound are drawn anew.

Texts: a tiny model is served by a real cluster and writes greedily under penalties, bias and a least length. After every
beginning of these texts transformers, with its own logits in float32 and the processors that generate() takes for these settings,
in its order, would have chosen the same token, but for near-ties. Without the setting the texts are others.

Environment: as smol.py. Takes less than a minute.
"""

import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from transformers.generation import logits_process as hf

import smol
import tiny_models

TOOL = smol.BIN.parent / "tests" / "sampler_tool"
ROUNDS, DRAWS = 150, 2500
LEAST = 0.0065  # probability of the least likely of a support: never drawn in DRAWS draws once in ten million
NEAR_TIE = 0.05  # of two scores of the tiny model, relative to the spread of its logits


class Failures:
    count = 0

    def expect(self, good, text):
        self.count += not good
        print(f"{'ok  ' if good else 'FAIL'} {text}", flush=True)


class OutputPenalties(hf.LogitsProcessor):
    """Frequency and presence, over what comes after the prompt."""

    def __init__(self, prompt_length, frequency, presence):
        self.prompt_length, self.frequency, self.presence = prompt_length, frequency, presence

    def __call__(self, input_ids, scores):
        times = torch.zeros_like(scores)
        output = input_ids[:, self.prompt_length:]
        times.scatter_add_(1, output, torch.ones_like(output, dtype=scores.dtype))
        return scores - self.frequency * times - self.presence * (times > 0)


# ---- rows ---------------------------------------------------------------------------------------------------


def random_case(draw):
    """(request, output, logits): every setting is on about half the time."""
    vocabulary = draw.randrange(30, 1500)
    some = lambda count: [draw.randrange(vocabulary) for _ in range(count)]
    maybe = lambda value, off: value if draw.random() < 0.5 else off
    prompt, output = some(draw.randrange(1, 40)), some(draw.randrange(0, 40))
    width = draw.choice([1.0, 2.0, 4.0])
    single = lambda x: torch.tensor(x, dtype=torch.float32).item()
    sampling = {
        "temperature": single(draw.uniform(0.4, 1.8)),
        "minP": maybe(single(draw.uniform(0.05, 0.9)), 0), "topK": maybe(draw.randrange(1, 60), 0),
        "topP": maybe(single(draw.uniform(0.1, 0.97)), 0),
        "repetitionPenalty": maybe(single(draw.uniform(0.6, 1.8)), 1.0),
        "frequencyPenalty": maybe(single(draw.uniform(-1.5, 2)), 0),
        "presencePenalty": maybe(single(draw.uniform(-1.5, 2)), 0),
        "logitBias": maybe({str(token): single(draw.uniform(-9, 5)) for token in some(8)}, {}),
        "seed": str(draw.getrandbits(64))}
    request = {"prompt": prompt, "sampling": sampling, "maxTokens": 64, "minTokens": maybe(draw.randrange(1, 60), 0),
               "stopIds": some(6)}
    return request, output, [single(draw.gauss(0, width)) for _ in range(vocabulary)]


def processed(request, output, logits):
    sampling, ids = request["sampling"], torch.tensor([request["prompt"] + output])
    length = len(request["prompt"])
    chain = []
    if sampling["logitBias"]:
        chain.append(hf.SequenceBiasLogitsProcessor({(int(token),): bias for token, bias in sampling["logitBias"].items()}))
    if request["minTokens"]:
        chain.append(hf.MinNewTokensLengthLogitsProcessor(length, request["minTokens"], request["stopIds"]))
    chain.append(hf.RepetitionPenaltyLogitsProcessor(sampling["repetitionPenalty"]))
    chain.append(OutputPenalties(length, sampling["frequencyPenalty"], sampling["presencePenalty"]))
    scores = torch.tensor([logits])
    for step in chain:
        scores = step(ids, scores)
    return scores


def warped(sampling, scores):
    """Probabilities after the warpers, in Octavo's order; None where rounding decides what stays."""
    chain = [hf.TemperatureLogitsWarper(sampling["temperature"])]
    if sampling["minP"]:
        chain.append(hf.MinPLogitsWarper(sampling["minP"]))
    if sampling["topK"]:
        chain.append(hf.TopKLogitsWarper(sampling["topK"]))
    left = []
    for step in chain:
        scores = step(None, scores.double())
        left.append(scores)
    if sampling["minP"]:
        share = torch.softmax(left[0], -1) / torch.softmax(left[0], -1).max()
        if (share / sampling["minP"] - 1).abs().min() < 1e-4:
            return None
    if sampling["topP"]:
        sums = torch.softmax(scores, -1).sort(descending=True).values.cumsum(-1)
        if (sums - sampling["topP"]).abs().min() < 1e-4:
            return None
        scores = hf.TopPLogitsWarper(sampling["topP"])(None, scores)
    return torch.softmax(scores, -1)[0]


def check_rows(failures):
    draw = random.Random(7)
    cases, supports = [], 0
    while len(cases) < ROUNDS:
        request, output, logits = random_case(draw)
        scores = processed(request, output, logits)
        probabilities = warped(request["sampling"], scores)
        if probabilities is None:
            continue
        cases.append((request, output, logits, scores, probabilities))
    questions = "".join(json.dumps({"request": request, "output": output, "logits": logits, "draws": DRAWS}) + "\n"
                        for request, output, logits, _, _ in cases)
    done = subprocess.run([TOOL], input=questions, text=True, check=True, stdout=subprocess.PIPE)
    wrong_rows = wrong_supports = 0
    worst = 0.0
    for (request, _, _, scores, probabilities), line in zip(cases, done.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        row = torch.tensor([float("-inf") if x is None else x for x in answer["row"]])
        wrong_rows += not torch.equal(row, scores[0])
        counts = torch.zeros_like(probabilities)
        for token, count in answer["counts"].items():
            counts[int(token)] = count
        support = probabilities > 0
        wrong_supports += bool((counts[~support] > 0).any())
        likely = probabilities > LEAST
        if bool((likely == support).all()):
            supports += 1
            wrong_supports += bool((counts[support] == 0).any())
        deviation = (counts / DRAWS - probabilities).abs() / (probabilities * (1 - probabilities) / DRAWS).sqrt().clamp_min(1e-9)
        worst = max(worst, deviation[likely & (probabilities < 1 - 1e-9)].max().item() if likely.sum() > 1 else 0.0)
    failures.expect(wrong_rows == 0, f"{ROUNDS} rows as transformers makes them, to the bit ({wrong_rows} differ)")
    failures.expect(wrong_supports == 0, f"{ROUNDS} supports, {supports} of them drawn in full ({wrong_supports} differ)")
    failures.expect(supports > ROUNDS / 3, "enough supports are small enough to be drawn in full")
    failures.expect(worst < 5.5, f"probabilities: the worst of all tokens is {worst:.1f} standard errors off")


# ---- texts --------------------------------------------------------------------------------------------------

TOKENS, PROMPTS, LENGTH = 40, 20, 24
BIAS = {5: 1.5, 17: -2.0, 100: 1.0}
STOPS = list(range(200, 240))
SETTINGS = {
    "repetition 1.3": ({"repetition_penalty": 1.3}, [hf.RepetitionPenaltyLogitsProcessor(1.3)]),
    "bias, least length, repetition 1.15": (
        {"repetition_penalty": 1.15, "logit_bias": BIAS, "min_tokens": 15, "stop_token_ids": STOPS},
        [hf.SequenceBiasLogitsProcessor({(token,): bias for token, bias in BIAS.items()}),
         hf.RepetitionPenaltyLogitsProcessor(1.15), hf.MinNewTokensLengthLogitsProcessor(LENGTH, 15, STOPS)]),
    "frequency 0.7, presence 0.4": ({"frequency_penalty": 0.7, "presence_penalty": 0.4}, [OutputPenalties(LENGTH, 0.7, 0.4)]),
}


def serve(folder, prompts):
    jobs = [{"folder": str(folder), "prompts": prompts, "tokens": TOKENS, "tp": 1, "settings": settings}
            for settings in [{}] + [ours for ours, _ in SETTINGS.values()]]
    done = subprocess.run(["/usr/bin/python3", str(pathlib.Path(__file__).with_name("served_texts.py"))], text=True, check=True,
                          input="".join(json.dumps(job) + "\n" for job in jobs), stdout=subprocess.PIPE)
    return [json.loads(line)["ids"] for line in done.stdout.splitlines()]


@torch.no_grad()
def regrets(model, prompt, text, chain):
    """For every token of the text: how far its score is below the best, as transformers sees it."""
    ids = torch.tensor([prompt + text])
    logits = model(ids, use_cache=False).logits[0].float()
    found = []
    for at, token in enumerate(text, len(prompt)):
        scores = logits[at - 1:at]
        for step in chain:
            scores = step(ids[:, :at], scores)
        found.append((scores.max() - scores[0, token]).item())
    return found


def check_texts(failures, scratch):
    case = tiny_models.cases()[0]
    model = tiny_models.make(case, 3)
    smol.octavo("synth", "--vocab", tiny_models.VOCAB, "--layers", 1, "--hidden", 32, "--heads", 2, "--out",
                scratch / "synth", stdout=subprocess.DEVNULL)
    folder = scratch / "tiny"
    kept = {name: p.clone() for name, p in model.state_dict().items()}
    model.to(torch.bfloat16).save_pretrained(folder)
    model.float().load_state_dict(kept)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(scratch / "synth" / name, folder)
    draw = random.Random(9)
    prompts = [[draw.randrange(3, tiny_models.VOCAB) for _ in range(LENGTH)] for _ in range(PROMPTS)]
    plain, *answers = serve(folder, prompts)
    spread = tiny_models.logits_of(model, torch.tensor(prompts)).std().item()
    for (name, (settings, chain)), texts in zip(SETTINGS.items(), answers, strict=True):
        found = [regret / spread for prompt, text in zip(prompts, texts, strict=True)
                 for regret in regrets(model, prompt, text, chain)]
        same = sum(regret == 0 for regret in found)
        moved = sum(a[:len(b)] != b for a, b in zip(plain, texts))
        whole = all((len(text) == TOKENS or text[-1] in STOPS) and not set(text[:-1]) & set(STOPS)
                    for text in texts) if "stop_token_ids" in settings else all(len(text) == TOKENS for text in texts)
        failures.expect(max(found) < NEAR_TIE and same >= 0.95 * len(found) and moved >= PROMPTS * 0.8 and whole,
                        f"{name}: {same} of {len(found)} tokens are transformers', the others at near-ties (the worst "
                        f"{max(found):.3f} of the spread); {moved} of {PROMPTS} texts are not those without it")


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    failures = Failures()
    check_rows(failures)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="octavo-sampling-"))
    try:
        check_texts(failures, scratch)
    finally:
        shutil.rmtree(scratch)
    sys.exit(1 if failures.count else 0)


if __name__ == "__main__":
    main()
