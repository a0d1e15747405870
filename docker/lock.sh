#!/usr/bin/env bash
# Pin anew what the images install: requirements-{coordinator,cpu,vllm}.txt beside this script. Needs uv.
#
#   lock.sh [--upgrade]     without it, pins that still fit stay as they are
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

# lock NAME ARGUMENT...: pin what pyproject.toml asks for, and what builds it, for Python 3.11 and newer.
lock() {
  local name="$1"
  shift
  uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-emit-index-url \
    --no-emit-find-links --custom-compile-command docker/lock.sh \
    --output-file "docker/requirements-$name.txt" pyproject.toml - "$@" <<<"setuptools>=77"
}

lock coordinator "$@"
# torch is Dockerfile.cpu's own: what its CUDA build alone needs has no place in a CPU image.
lock cpu --extra cpu --no-emit-package torch "$@" --excludes <(printf '%s\n' \
  cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13)
lock vllm --extra gpu --constraint <(echo "vllm==0.25.1") "$@"
