#!/bin/bash
# Makes the virtual environment of check_vllm.py: install_vllm.sh VENV_DIR
OVERRIDES=overrides_vllm.txt exec "$(dirname "${BASH_SOURCE[0]}")/install.sh" "${1:?usage: install_vllm.sh VENV_DIR}" requirements_vllm.txt torch
