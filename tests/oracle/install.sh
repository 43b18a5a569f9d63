#!/bin/bash
# Makes the virtual environment of the live oracles: install.sh VENV_DIR
# Idempotent: does nothing when VENV_DIR already holds exactly what requirements.txt asks for.
# Needs python3 (3.11 or newer) with venv, the network, and about 6 GB (PyPI's torch brings its CUDA libraries).
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: $0 VENV_DIR" >&2
  exit 64
fi
venv=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
want=$(sha256sum "$here/requirements.txt" | cut -d' ' -f1)
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
  --requirement "$here/requirements.txt"
"$venv/bin/python" - <<'PY'
import compressed_tensors, gguf, jinja2, numpy, safetensors, tokenizers, torch, transformers
print("oracles: torch", torch.__version__, "transformers", transformers.__version__)
PY
echo "$want" >"$stamp"
