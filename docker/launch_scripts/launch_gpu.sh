#!/usr/bin/env bash
# Run a command in an engine's image. launch_docker.sh calls this with checked values.
#
#   launch_gpu.sh BACKEND IMAGE GPUS DOCKER_RUN_OPTION... -- COMMAND...
#
# IMAGE: empty selects tokenfleet-BACKEND, or tokenfleet-cpu if GPUS is 0. GPUS: all, a count, or
# device=I,J,...
# DRY_RUN=1 only prints the docker run command; BASE_IMAGE replaces the base image if an image must be built.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=../setup_scripts/common.sh
source "$root/docker/setup_scripts/common.sh"

# require_gpus BACKEND GPUS: end with an error if this host cannot provide these GPUs to a container.
require_gpus() {
  local listing num_gpus device devices=() runtimes without="--gpu-count 0 runs the CPU image"
  if [[ "$1" == sglang ]]; then without="sglang has no CPU image"; fi
  nvidia_gpu_visible || die "no GPU: nvidia-smi lists none on this host ($without)"
  require_docker
  if ! command -v nvidia-container-runtime-hook >/dev/null; then
    runtimes="$(docker info --format '{{.Runtimes}}')" || die "docker info failed (see above)"
    [[ "$runtimes" == *nvidia* ]] ||
      die "no GPU in containers: NVIDIA's container toolkit is not installed for docker"
  fi
  listing="$(nvidia-smi --list-gpus)"
  if [[ "$2" == device=* ]]; then
    mapfile -t -d , devices < <(printf '%s' "${2#device=}")
    for device in "${devices[@]}"; do
      [[ "$listing" == *"GPU $device:"* || "$listing" == *"UUID: $device"* ]] ||
        die "GPU '$device': nvidia-smi does not list it"
    done
  elif [[ "$2" != all ]]; then
    num_gpus="$(grep -c '^GPU ' <<<"$listing")"
    (($2 <= num_gpus)) || die "--gpu-count '$2': nvidia-smi lists $num_gpus"
  fi
}

backend="$1" image="$2" gpus="$3"
shift 3
# docker's default limits are too small for an engine's shared memory and for the pages that NCCL pins.
options=(--ipc=host)
kind=cpu
if [[ "$gpus" != 0 ]]; then
  kind="$backend"
  if [[ "${DRY_RUN:-0}" == 0 ]]; then
    require_gpus "$backend" "$gpus"
  fi
  # Docker parses the value as a CSV record: quotes make the list one field.
  if [[ "$gpus" == device=* ]]; then
    gpus="\"$gpus\""
  fi
  options+=(--gpus "$gpus" --ulimit memlock=-1)
fi
start_container "$root/docker/Dockerfile.$kind" "${image:-tokenfleet-$kind}" "$root" "${options[@]}" "$@"
