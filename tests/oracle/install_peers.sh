#!/bin/bash
# Makes the virtual environment of llm-compressor and amd-quark, about 7 GB: install_peers.sh VENV_DIR
exec "$(dirname "${BASH_SOURCE[0]}")/install.sh" "${1:?usage: install_peers.sh VENV_DIR}" requirements_peers.txt llmcompressor quark torch
