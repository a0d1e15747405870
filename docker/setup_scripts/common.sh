# shellcheck shell=bash
# Functions shared by the set-up and launch scripts. Source this file after `set -euo pipefail`.

# die MESSAGE: print an error and exit with the exit code for bad input.
die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# require_backend SOURCE NAME: end with an error if the backend is unknown; SOURCE is the flag or variable.
require_backend() {
  case "$2" in
    vllm | sglang | counting) ;;
    *) die "$1 '$2' is unknown: it must be vllm, sglang or counting" ;;
  esac
}

# nvidia_gpu_visible: succeed if the NVIDIA driver lists at least one GPU.
nvidia_gpu_visible() {
  local listing
  listing="$(nvidia-smi --list-gpus 2>/dev/null)" && [[ "$listing" == "GPU "* ]]
}

# create_venv VENV REBUILD: create the virtual environment; keep an existing one unless REBUILD is 1.
create_venv() {
  local venv="$1" rebuild="$2"
  if [[ "$rebuild" == 1 ]]; then
    rm -rf -- "$venv"
  fi
  if [[ -x "$venv/bin/python" ]]; then
    return
  fi
  local command=(python3 -m venv)
  if command -v uv >/dev/null; then
    command=(uv venv)
  fi
  # Remove an incomplete environment, which the next call would take for a complete one.
  if ! "${command[@]}" "$venv"; then
    rm -rf -- "$venv"
    die "'${command[*]}' failed (see above): Python 3.11 or newer and its venv module are needed"
  fi
}

# install_into VENV ARGUMENT...: install with uv if it is available, else with the environment's pip.
install_into() {
  local venv="$1"
  shift
  if command -v uv >/dev/null; then
    uv pip install --python "$venv/bin/python" "$@"
  else
    "$venv/bin/python" -m pip install "$@"
  fi
}

# require_docker: end with an error if there is no docker command.
require_docker() {
  command -v docker >/dev/null || die "docker is not installed"
}

# build_image DOCKERFILE IMAGE CONTEXT: build an image; $BASE_IMAGE, if set, replaces its base image.
build_image() {
  local command=(docker build --file "$1" --tag "$2")
  if [[ -n "${BASE_IMAGE:-}" ]]; then
    command+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
  fi
  "${command[@]}" "$3"
}

# print_command WORD...: print the words as one line, quoted for a shell.
print_command() {
  local word line=""
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:,=@%+-]+$ ]]; then
      line+=" $word"
    else
      line+=" ${word@Q}"
    fi
  done
  printf '%s\n' "${line# }"
}

# start_container DOCKERFILE IMAGE CONTEXT OPTION... -- COMMAND...
# Build the image if it does not exist and run the command in it. DRY_RUN=1 only prints the docker command.
start_container() {
  local dockerfile="$1" image="$2" context="$3" options=()
  shift 3
  while [[ "$1" != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  # Replace the entry point, a server, which would otherwise receive the command as its flags.
  local run=(docker run "${options[@]}" --entrypoint "$1" "$image" "${@:2}")
  if [[ "${DRY_RUN:-0}" == 1 ]]; then
    print_command "${run[@]}"
    return
  fi
  require_docker
  if ! docker image inspect "$image" >/dev/null 2>&1; then
    build_image "$dockerfile" "$image" "$context"
  fi
  exec "${run[@]}"
}
