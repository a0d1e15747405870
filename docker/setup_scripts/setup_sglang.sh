#!/usr/bin/env bash
# Create .venv_sglang at the repository root and install this project with SGLang in it.
#
#   setup_sglang.sh [REBUILD]     REBUILD=1 replaces an existing environment
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$root/docker/setup_scripts/common.sh"

cd -- "$root"
# PyPI has no CPU build of SGLang.
nvidia_gpu_visible || die "no GPU: nvidia-smi lists none on this host, and SGLang has no CPU build on PyPI"
venv="$root/.venv_sglang"
create_venv "$venv" "${1:-0}"
# SGLang pins outlines-core 0.1.26, which has no wheels for newer versions of Python.
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' ||
  die "$venv: SGLang needs Python 3.11 or 3.12; choose it (uv: UV_PYTHON=3.12) and give --force-rebuild"
install_into "$venv" -e ".[sglang]"
