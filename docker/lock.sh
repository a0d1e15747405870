#!/usr/bin/env bash
# Regenerate the images' pinned packages, requirements-{coordinator,cpu,vllm,sglang}.txt in this folder.
# Needs uv.
#
#   lock.sh [--upgrade]     without --upgrade, pins that still satisfy pyproject.toml are kept
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

# lock NAME ARGUMENT...: pin the dependencies in pyproject.toml and the build tool, for Python 3.11 and newer.
lock() {
  local name="$1"
  shift
  uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-emit-index-url \
    --no-emit-find-links --custom-compile-command docker/lock.sh \
    --output-file "docker/requirements-$name.txt" pyproject.toml - "$@" <<<"setuptools>=77"
}

lock coordinator "$@"
# Dockerfile.cpu pins torch itself. Leave out packages that only its CUDA build needs.
lock cpu --extra cpu --no-emit-package torch "$@" --excludes <(printf '%s\n' \
  cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13)
lock vllm --extra gpu --constraint <(echo "vllm==0.25.1") "$@"
lock sglang --extra sglang "$@"
