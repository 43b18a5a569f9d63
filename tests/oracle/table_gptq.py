#!/usr/bin/env python3
"""GPTQ on SmolLM2, by Octavo and by llm-compressor from the same ids, turn by turn: time, and what it costs in quality.

Time: Octavo's from the job's submission to the published folder; llm-compressor's the call of oneshot() alone, on a model that
is loaded already and saved afterwards. Quality: `octavo eval compare` against the BF16 model on windows of Debian's handbook,
paired by window, for both and for rounding to nearest. Calibration takes another text, Debian's linux-doc-6.1.

Held to: mean KL of FP8 weights alone at most 0.6 of rounding's; the NLL increase of INT8 W8A8 at most llm-compressor's plus two
standard errors of their difference.

usage: table_gptq.py [--samples N] [--length TOKENS] [--windows N] [--keep]
Run with the environment of install_peers.sh. --keep: folders that are there are not made again. Environment: as smol.py; about
twenty minutes.
"""

import argparse
import gzip
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

import transformers

import peers
import smol
from table_peer_quality import ids_of_handbook, write_ids

WINDOW = 512
KL_BAR, NLL_ERRORS = 0.6, 2

RECIPE = """name: NAME
rules:
  - {weight: {type: TYPE, scale: channel}, input: INPUT, solver: SOLVER}
calibration: {samples: 512, sample_length: 2048}
"""
PLAIN = {"fp8-weight-only": "fp8-weight-only", "int8": "int8-dynamic", "fp8": "fp8-dynamic"}
SOLVED = {
    "fp8-weight-only-gptq": ("fp8", "none"),
    "int8-gptq": ("int8", "{type: int8, scale: token}"),
    "fp8-gptq": ("fp8", "{type: fp8, scale: token}"),
}
PEERS = {"llm-compressor-int8-gptq": "W8A8"}


def linux_text():
    """Debian's documentation of Linux as text."""
    path = smol.CACHE / "linux-doc.txt"
    if path.exists():
        return path
    folder = smol.CACHE / "linux-doc"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["apt-get", "download", "linux-doc-6.1"], cwd=folder, check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), "x"], cwd=folder, check=True)
    pages = sorted(page for page in folder.rglob("*.rst*") if "translations" not in page.parts)
    assert pages, "linux-doc-6.1 has no pages"
    # Every eighth page: all parts of the kernel, a few megabytes.
    texts = [gzip.decompress(page.read_bytes()) if page.suffix == ".gz" else page.read_bytes() for page in pages[::8]]
    path.write_bytes(b"\n\n".join(texts))
    shutil.rmtree(folder)
    return path


def calibration_ids(samples, length):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol.bf16())
    ids = tokenizer(linux_text().read_text(encoding="utf-8", errors="ignore")[:samples * length * 8])["input_ids"]
    assert len(ids) >= samples * length, len(ids)
    return [ids[i * length:(i + 1) * length] for i in range(samples)]


def folder_of(name):
    return smol.CACHE / f"gptq-{name}"


def make(name, samples, keep):
    """Makes a folder; seconds, or nothing if it was kept."""
    out = folder_of(name)
    if keep and out.exists():
        return None
    shutil.rmtree(out, ignore_errors=True)
    if name in PEERS:
        return peers.llm_compressor_gptq(smol.bf16(), out, samples, PEERS[name])["oneshot"]
    if name in PLAIN:
        smol.octavo("quantize", smol.bf16(), "--recipe", PLAIN[name], "--out", out, capture_output=True)
        return None
    kind, inputs = SOLVED[name]
    recipe = smol.CACHE / f"gptq-{name}.yaml"
    recipe.write_text(RECIPE.replace("NAME", name).replace("TYPE", kind).replace("INPUT", inputs).replace("SOLVER", "{type: gptq}"))
    smol.octavo("quantize", smol.bf16(), "--recipe", recipe, "--out", out, "--workers", 2, "--calibration",
                write_ids(smol.CACHE / "gptq-samples.jsonl", samples), "--packing", "each", capture_output=True)
    report = json.loads(pathlib.Path(f"{out}.report.json").read_text())
    assert report["units"]["reused"] == 0, report["units"]
    return report["seconds"]["total"]


def compare(name, windows):
    ids = write_ids(smol.CACHE / "gptq-windows.jsonl", windows)
    done = smol.octavo("eval", "compare", smol.bf16(), folder_of(name), "--ids", ids, "--window", WINDOW, "--json",
                       capture_output=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def increases(result):
    return [a - b for a, b in zip(result["model"]["window_nll"], result["reference"]["window_nll"], strict=True)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=26)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    samples = calibration_ids(args.samples, args.length)
    _, windows = ids_of_handbook(args.windows, WINDOW)
    seconds, results = {}, {}
    names = [*PLAIN, "llm-compressor-int8-gptq", *SOLVED]
    for name in names:
        seconds[name] = make(name, samples, args.keep)
        print(f"{name}: {seconds[name]} s", file=sys.stderr, flush=True)
    print(f"{args.samples} x {args.length} tokens of calibration, {args.windows} windows of {WINDOW}\n"
          "| folder | seconds | KL to BF16 | NLL increase |\n|---|---|---|---|")
    for name in names:
        results[name] = compare(name, windows)
        kl, nll = results[name]["kl_divergence"], results[name]["nll_difference"]
        took = f"{seconds[name]:.1f}" if seconds[name] else ""
        print(f"| {name} | {took} | {kl['mean']:.6f} ± {kl['standard_error']:.6f} | {nll['mean']:+.5f} ± "
              f"{nll['standard_error']:.5f} |", flush=True)
    ratio = results["fp8-weight-only-gptq"]["kl_divergence"]["mean"] / results["fp8-weight-only"]["kl_divergence"]["mean"]
    more = [a - b for a, b in zip(increases(results["int8-gptq"]), increases(results["llm-compressor-int8-gptq"]), strict=True)]
    mean, error = statistics.mean(more), statistics.stdev(more) / len(more)**0.5
    broken = (ratio > KL_BAR) + (mean > NLL_ERRORS * error)
    print(f"FP8 weights alone: {ratio:.3f} of rounding's KL, bar {KL_BAR}; INT8: {mean:+.5f} ± {error:.5f} over "
          f"llm-compressor's NLL increase, bar {NLL_ERRORS} standard errors: {'FAIL' if broken else 'ok'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
