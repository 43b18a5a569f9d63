#!/bin/bash
# Makes a virtual environment: install.sh VENV_DIR [REQUIREMENTS MODULE...], that of the live oracles where no other file of
# this folder is named; the modules are imported to see that they work. OVERRIDES, a file of this folder, may be set in the
# environment: versions taken whatever the packages themselves ask for.
# Idempotent: does nothing when VENV_DIR already holds exactly what the files ask for.
# Needs python3 (3.11 or newer) with venv, the network, and about 6 GB (PyPI's torch brings its CUDA libraries); uv links
# packages from its cache where it can, so that a second environment with the same torch takes little more.
set -euo pipefail

if (($# == 1)); then
  set -- "$1" requirements.txt compressed_tensors gguf jinja2 numpy safetensors tokenizers torch transformers
elif (($# < 3)); then
  echo "usage: $0 VENV_DIR [REQUIREMENTS MODULE...]" >&2
  exit 64
fi
venv=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wanted=(--requirement "$here/$2")
files=("$here/$2")
if [[ -n ${OVERRIDES:-} ]]; then
  wanted+=(--override "$here/$OVERRIDES")
  files+=("$here/$OVERRIDES")
fi
shift 2
want=$(cat "${files[@]}" | sha256sum | cut -d' ' -f1)
stamp="$venv/.octavo-oracles"

up_to_date() {
  [[ -f $stamp && $(<"$stamp") == "$want" ]] || return 1
  echo "oracles: $venv is up to date"
}

up_to_date && exit 0
mkdir -p "$venv"
exec 9>"$venv/.octavo-lock"  # .lock is what uv waits for
flock 9
up_to_date && exit 0
[[ -x $venv/bin/python ]] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check uv==0.13.9
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" "${wanted[@]}"
"$venv/bin/python" - "$@" <<'PY'
import importlib, sys
modules = [importlib.import_module(name) for name in sys.argv[1:]]
print("oracles:", *(f"{module.__name__} {getattr(module, '__version__', '')}" for module in modules))
PY
echo "$want" >"$stamp"
