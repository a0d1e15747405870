#!/usr/bin/env bash
# Run a command in the vLLM image with GPUs. launch_docker.sh calls this with checked values.
#
#   launch_vllm.sh IMAGE GPU_COUNT DOCKER_RUN_OPTION... -- COMMAND...
#
# DRY_RUN=1 prints the docker run instead; BASE_IMAGE replaces the base of an image that has to be built.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=../setup_scripts/common.sh
source "$root/docker/setup_scripts/common.sh"

image="$1" gpu_count="$2"
shift 2
# Tensor-parallel ranks share memory and NCCL pins pages: docker's own limits are too small for both.
start_container "$root/docker/Dockerfile.vllm" "$image" "$root" \
  --gpus "$gpu_count" --ipc=host --ulimit memlock=-1 "$@"
