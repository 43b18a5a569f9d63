"""`octavo eval compare --layers` of SmolLM2 in BF16 and quantized, against transformers in float32 on the same windows.

Octavo computes in BF16 and the oracle in float32. What rounding does to a distribution comes on top of what quantizing
does, once for each of the two models; `rounding` is that divergence, measured with transformers alone: of the BF16 model run
in float32 from itself run in bfloat16. So Octavo's KL is to lie above the oracle's, by no more than three times `rounding`.

Distances of residual streams are taken after every layer but the last, behind which transformers shows the stream only after
the final norm. Each of Octavo's two streams is as far from the oracle's as rounding is, so their distance differs from the
oracle's by no more than twice that (the triangle inequality), and a tenth more because Octavo's rounding is not quite bfloat16's
of transformers. A few tokens carry values a thousand times larger than the rest and make up most of a distance, so it does not
grow by the squares of rounding, as errors of many values would. Over all layers the mean is to be within 10 %.
"""

import json
import os
import statistics
import sys

import torch
import transformers

import smol
from check_perplexity import load

WINDOW = 512
RECIPES = ["fp8-weight-only"]


def windows(count):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol.bf16())
    ids = tokenizer(smol.handbook().read_text(encoding="utf-8"))["input_ids"]
    return torch.tensor(ids[:count * WINDOW]).view(count, WINDOW)


@torch.no_grad()
def heard(model, window):
    """Of all positions but the last: log probabilities of what follows, and the streams after every layer but the last."""
    states = model(window[None], output_hidden_states=True, logits_to_keep=1).hidden_states
    # In float32, as Octavo's logits are, whatever the model runs in.
    logits = states[-1][0, :-1].float() @ model.lm_head.weight.float().T
    return torch.log_softmax(logits.double(), -1), torch.stack(states[1:-1])[:, 0, :-1]


def check_layers(recipe, mine, sums, rounding):
    theirs, noise = (sums[0] / sums[1])**0.5, (rounding[0] / rounding[1])**0.5
    mine = torch.tensor(mine[:-1], dtype=torch.float64)
    bad = int(((mine - theirs).abs() > 2.2 * noise).sum())
    for layer in range(len(mine)):
        print(f"{recipe:16s} after layer {layer:2d} octavo {mine[layer]:.5f}  oracle {theirs[layer]:.5f}  "
              f"rounding {noise[layer]:.5f}")
    print(f"{recipe:16s} layers         {len(mine) - bad} of {len(mine)} within {'FAIL' if bad else 'ok'}", flush=True)
    ratio = float(mine.mean() / theirs.mean())
    print(f"{recipe:16s} layers         mean {ratio:.3f} of the oracle's {'ok' if abs(ratio - 1) <= 0.1 else 'FAIL'}", flush=True)
    return bad + (abs(ratio - 1) > 0.1)


@torch.no_grad()
def compare(references, model, ids):
    """Per window: NLL of both, mean KL(reference || model), share of positions with the same top token. Per layer but the last, of
    all windows: sums of squared differences, and of squares. `references` is what was heard of the reference."""
    rows, sums = [], 0
    for window, (a, wanted) in zip(ids, references, strict=True):
        b, streams = heard(model, window)
        nll = [-t.gather(1, window[1:, None]).mean().item() for t in (a, b)]
        rows.append((*nll, (a.exp() * (a - b)).sum(-1).mean().item(),
                     (a.argmax(-1) == b.argmax(-1)).double().mean().item()))
        wanted = wanted.double()
        sums = sums + torch.stack([((streams.double() - wanted)**2).sum((1, 2)), (wanted**2).sum((1, 2))])
    return [list(column) for column in zip(*rows, strict=True)], sums


def ours(folder, count):
    done = smol.octavo("eval", "compare", smol.bf16(), folder, "--text", smol.handbook(), "--window", WINDOW,
                       "--windows", count, "--layers", "--json", capture_output=True)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return [result["reference"]["window_nll"], result["model"]["window_nll"], result["kl_divergence"]["windows"],
            result["top1_agreement"]["windows"]], result["layers"]


def main():
    transformers.utils.logging.disable_progress_bar()
    count = int(os.environ.get("OCTAVO_WINDOWS", "4"))
    ids = windows(count)
    reference = load(smol.bf16())
    references = [heard(reference, window) for window in ids]
    failures = 0
    coarse = transformers.AutoModelForCausalLM.from_pretrained(smol.bf16(), dtype=torch.bfloat16).eval()
    theirs, layer_rounding = compare(references, coarse, ids)
    rounding = statistics.mean(theirs[2])
    print(f"means over {count} windows of {WINDOW} tokens; KL of rounding to BF16: {rounding:.6f}")
    for recipe in RECIPES:
        folder = smol.quantized(recipe)
        mine, layers = ours(folder, count)
        theirs, sums = compare(references, load(folder), ids)
        failures += check_layers(recipe, layers, sums, layer_rounding)
        bars = {"NLL reference": 0.002, "NLL model": 0.004, "KL": 0.0, "same top": 0.01}
        for (name, bar), a, b in zip(bars.items(), mine, theirs, strict=True):
            differences = [x - y for x, y in zip(a, b, strict=True)]
            mean, error = statistics.mean(differences), statistics.stdev(differences) / count**0.5
            if name == "KL":
                bad = not -2 * error <= mean <= 3 * rounding + 2 * error
            else:
                bad = not abs(mean) <= max(bar, 2 * error)
            failures += bad
            print(f"{recipe:16s} {name:14s} octavo {statistics.mean(a):.6f}  oracle {statistics.mean(b):.6f}  difference "
                  f"{mean:+.6f} +- {error:.6f}  {'FAIL' if bad else 'ok'}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
