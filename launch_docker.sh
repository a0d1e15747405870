#!/usr/bin/env bash
# Run a command in the image of the chosen backend, with the workspace, data and model cache mounted.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=docker/setup_scripts/common.sh
source "$root/docker/setup_scripts/common.sh"

usage() {
  cat <<'TEXT'
usage: ./launch_docker.sh [FLAG...] [-- COMMAND...]

Runs COMMAND (default: bash) as you, in /work, on the host's network. Builds the image if it is missing.
  --backend NAME           vllm, sglang or counting; default: $MLPERF_BACKEND, else vllm
  --image-name NAME        default: tokenfleet-vllm or tokenfleet-sglang, for vllm without a GPU
                           tokenfleet-cpu, for counting tokenfleet-coordinator
  --gpu-count all|K        GPUs of the container, vllm and sglang; default: $CUDA_VISIBLE_DEVICES, else all;
                           0: the CPU image, vllm only
  --gpu-devices I,J,...    or these ones, by number or UUID
  --model-cache-dir DIR    Hugging Face cache; default: $HF_HOME, else ~/.cache/huggingface
  --data-dir DIR           mounted at /work/data; default: data/ of the workspace
  --extra-mounts H:C,...   host path : container path
  --dry-run                print the docker command and run nothing
  --help
$BASE_IMAGE, when set, replaces the base image of an image that has to be built.
TEXT
}

# add_mount SOURCE TARGET: add a bind mount to `options`; docker reads the value as one CSV record.
add_mount() {
  if [[ "$1$2" == *[,\"$'\n']* ]]; then
    die "mount '$1:$2': docker takes no comma, double quote or line break in a path"
  fi
  options+=(--mount "type=bind,source=$1,target=$2")
}

# require_directory FLAG PATH
require_directory() {
  [[ -d "$2" ]] || die "$1: '$2' is not a directory"
}

# make_writable WHAT PATH: make the directory, and refuse one that this user cannot write.
make_writable() {
  if ! mkdir -p -- "$2" 2>/dev/null || [[ ! -w "$2" ]]; then
    die "$1: '$2' cannot be written"
  fi
}

# mount_extras H:C,H:C: add each pair to `options`.
mount_extras() {
  local pair pairs host_path
  mapfile -t -d , pairs < <(printf '%s' "$1")
  for pair in "${pairs[@]}"; do
    [[ "$pair" =~ ^([^:]+):(/[^:]+)$ ]] || die "--extra-mounts: '$pair' is not HOST_PATH:/CONTAINER_PATH"
    [[ -e "${BASH_REMATCH[1]}" ]] || die "--extra-mounts: '${BASH_REMATCH[1]}' does not exist"
    host_path="$(realpath -- "${BASH_REMATCH[1]}")"
    add_mount "$host_path" "${BASH_REMATCH[2]}"
  done
}

# choose_gpus: print all, a count, or device= and a list.
choose_gpus() {
  [[ -z "$gpu_count" || -z "$gpu_devices" ]] || die "--gpu-count and --gpu-devices: one of the two"
  if [[ -n "$gpu_devices" ]]; then
    list_devices --gpu-devices "$gpu_devices"
  elif [[ -z "$gpu_count" && -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
    list_devices CUDA_VISIBLE_DEVICES "$CUDA_VISIBLE_DEVICES"
  elif [[ "${gpu_count:-all}" =~ ^(all|0|[1-9][0-9]*)$ ]]; then
    printf '%s' "${gpu_count:-all}"
  else
    die "--gpu-count '$gpu_count' must be all, or at least 0"
  fi
}

# list_devices NAME LIST: check and print it.
list_devices() {
  local device='([0-9]+|(GPU|MIG)-[0-9A-Za-z-]+)'
  [[ "$2" =~ ^$device(,$device)*$ ]] || die "$1 '$2' must be GPUs by number or UUID, as in 0,1"
  printf 'device=%s' "$2"
}

backend="${MLPERF_BACKEND:-vllm}" backend_source=MLPERF_BACKEND
image="" gpu_count="" gpu_devices="" model_cache_dir="" data_dir="" extra_mounts="" DRY_RUN=0
while (($#)); do
  case "$1" in
    --backend | --image-name | --gpu-count | --gpu-devices | --model-cache-dir | --data-dir | --extra-mounts)
      [[ -n "${2:-}" && "$2" != -* ]] || die "$1 needs a value"
      case "$1" in
        --backend) backend="$2" backend_source="$1" ;;
        --image-name) image="$2" ;;
        --gpu-count) gpu_count="$2" ;;
        --gpu-devices) gpu_devices="$2" ;;
        --model-cache-dir) model_cache_dir="$2" ;;
        --data-dir) data_dir="$2" ;;
        --extra-mounts) extra_mounts="$2" ;;
      esac
      shift
      ;;
    --dry-run) DRY_RUN=1 ;;
    --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) die "unknown flag '$1' (see --help; a command goes after --)" ;;
  esac
  shift
done
if ((!$#)); then
  set -- bash
fi
export DRY_RUN

require_backend "$backend_source" "$backend"
if [[ "$backend" == counting && -n "$gpu_count$gpu_devices" ]]; then
  die "${gpu_count:+--gpu-count}${gpu_devices:+--gpu-devices}: the backend $backend uses no GPU"
fi
gpus=all
if [[ "$backend" != counting ]]; then
  gpus="$(choose_gpus)"
fi
if [[ "$backend" == sglang && "$gpus" == 0 ]]; then
  die "--gpu-count '0': the backend sglang has no CPU image"
fi
if [[ -n "$model_cache_dir" ]]; then
  require_directory --model-cache-dir "$model_cache_dir"
fi
if [[ -n "$data_dir" ]]; then
  require_directory --data-dir "$data_dir"
fi
model_cache_dir="$(realpath -m -- "${model_cache_dir:-${HF_HOME:-${HOME:?}/.cache/huggingface}}")"
data_dir="$(realpath -m -- "${data_dir:-$root/data}")"
user="$(id -u):$(id -g)"

# The user has no account inside the image: HOME and USER keep Python and torch from looking for one.
options=(--rm --init --network=host --user "$user" --workdir /work
  --env HOME=/tmp --env "USER=${USER:-mlperf}"
  --env HF_HOME=/cache/huggingface --env "MLPERF_BACKEND=$backend"
  # `tokenfleet` runs the mounted checkout, not the copy in the image.
  --env PYTHONPATH=/work)
if [[ -t 0 && -t 1 ]]; then
  options+=(--interactive --tty)
fi
add_mount "$root" /work
add_mount "$data_dir" /work/data
add_mount "$model_cache_dir" /cache/huggingface
if [[ -n "$extra_mounts" ]]; then
  mount_extras "$extra_mounts"
fi
if [[ "$DRY_RUN" == 0 ]]; then
  # Docker would create a missing mount point inside the workspace as root, and refuses a missing source.
  make_writable "the workspace's data folder" "$root/data"
  make_writable "the model cache (--model-cache-dir, HF_HOME)" "$model_cache_dir"
fi

if [[ "$backend" != counting ]]; then
  exec "$root/docker/launch_scripts/launch_gpu.sh" "$backend" "$image" "$gpus" "${options[@]}" -- "$@"
fi
start_container "$root/docker/Dockerfile.coordinator" "${image:-tokenfleet-coordinator}" "$root" \
  "${options[@]}" -- "$@"
