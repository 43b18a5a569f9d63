#!/bin/bash
# Makes a virtual environment: install.sh VENV_DIR [REQUIREMENTS MODULE...], that of the live oracles where no other file of
# this folder is named; the modules are imported to see that they work.
# Idempotent: does nothing when VENV_DIR already holds exactly what the file asks for.
# Needs python3 (3.11 or newer) with venv, the network, and about 6 GB (PyPI's torch brings its CUDA libraries).
set -euo pipefail

if (($# == 1)); then
  set -- "$1" requirements.txt compressed_tensors gguf jinja2 numpy safetensors tokenizers torch transformers
elif (($# < 3)); then
  echo "usage: $0 VENV_DIR [REQUIREMENTS MODULE...]" >&2
  exit 64
fi
venv=$1
requirements=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$2
shift 2
want=$(sha256sum "$requirements" | cut -d' ' -f1)
stamp="$venv/.octavo-oracles"

if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
  echo "oracles: $venv is up to date"
  exit 0
fi
mkdir -p "$venv"
exec 9>"$venv/.lock"
flock 9
if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
  echo "oracles: $venv is up to date"
  exit 0
fi
[[ -x $venv/bin/python ]] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-input --no-compile --disable-pip-version-check \
  --requirement "$requirements"
"$venv/bin/python" - "$@" <<'PY'
import importlib, sys
modules = [importlib.import_module(name) for name in sys.argv[1:]]
print("oracles:", *(f"{module.__name__} {getattr(module, '__version__', '')}" for module in modules))
PY
echo "$want" >"$stamp"
