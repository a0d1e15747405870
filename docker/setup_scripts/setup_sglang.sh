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
install_into "$venv" -e ".[sglang]"
