#!/bin/bash
# Makes the virtual environment of llm-compressor and amd-quark: install_peers.sh VENV_DIR. Idempotent.
# Needs python3 (3.11 or newer) with venv, the network, and about 7 GB.
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: $0 VENV_DIR" >&2
  exit 64
fi
venv=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
want=$(sha256sum "$here/requirements_peers.txt" | cut -d' ' -f1)
stamp="$venv/.octavo-oracles"
mkdir -p "$venv"
exec 9>"$venv/.lock"
flock 9
if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
  echo "peers: $venv is up to date"
  exit 0
fi
[[ -x $venv/bin/python ]] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-input --no-compile --disable-pip-version-check \
  --requirement "$here/requirements_peers.txt"
"$venv/bin/python" - <<'PY'
import importlib.metadata
print("peers:", *(f"{name} {importlib.metadata.version(name)}" for name in ("llmcompressor", "amd-quark", "torch")))
PY
echo "$want" >"$stamp"
