#!/usr/bin/env bash
# Create the virtual environment of the chosen backend.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=docker/setup_scripts/common.sh
source "$root/docker/setup_scripts/common.sh"

usage() {
  cat <<'TEXT'
usage: [MLPERF_BACKEND=vllm|sglang|counting] ./setup.sh [--force-rebuild] [--help]

Creates .venv_$MLPERF_BACKEND here and installs this project in it, with uv if there is one, else with pip.
  vllm      (default) vLLM: the GPU build if nvidia-smi lists a GPU, else the CPU build
  sglang    SGLang; needs an NVIDIA GPU, Python 3.11 or 3.12, glibc 2.34
  counting  no engine: the workers answer by counting
  --force-rebuild  replace the environment instead of updating it
TEXT
}

rebuild=0
while (($#)); do
  case "$1" in
    --force-rebuild) rebuild=1 ;;
    --help)
      usage
      exit 0
      ;;
    *) die "unknown flag '$1' (see --help)" ;;
  esac
  shift
done

backend="${MLPERF_BACKEND:-vllm}"
require_backend MLPERF_BACKEND "$backend"
venv="$root/.venv_$backend"
case "$backend" in
  vllm) "$root/docker/setup_scripts/setup_vllm.sh" "$rebuild" ;;
  sglang) "$root/docker/setup_scripts/setup_sglang.sh" "$rebuild" ;;
  *)
    cd -- "$root"
    create_venv "$venv" "$rebuild"
    install_into "$venv" -e .
    ;;
esac
printf 'Ready: source %q' "$venv/bin/activate"
# What runs in it asks again.
if [[ "$backend" != vllm ]]; then printf ' && export MLPERF_BACKEND=%s' "$backend"; fi
echo
