"""The manifests under deploy/kubernetes as objects, as written and with the TLS component applied."""

from pathlib import Path
from typing import Any

import jsonpatch
import yaml

from tests import fleet

FOLDER = fleet.ROOT / "deploy/kubernetes"
ROOMS = ("claims", "workers", "run", "shell")
Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    """Read a file's documents."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def plain() -> list[Manifest]:
    """Read what the kustomizations name, in the order of ROOMS."""
    return [manifest for room in ROOMS for path in resources(room) for manifest in read(path)]


def kustomization(room: str) -> Manifest:
    """Read a folder's kustomization."""
    (found,) = read(FOLDER / room / "kustomization.yaml")
    return found


def resources(room: str) -> list[Path]:
    """List the files that a folder's kustomization names."""
    return [FOLDER / room / name for name in kustomization(room)["resources"]]


def with_tls() -> list[Manifest]:
    """Apply the TLS component to the objects that its patches aim at."""
    return with_component("tls", plain())


def with_component(room: str, manifests: list[Manifest]) -> list[Manifest]:
    """Apply a component's JSON patches; its own resources are left out."""
    patched = list(manifests)
    for entry in kustomization(room)["patches"]:
        (index,) = (i for i, manifest in enumerate(patched) if manifest["kind"] == entry["target"]["kind"])
        patched[index] = jsonpatch.apply_patch(patched[index], yaml.safe_load(entry["patch"]))
    return patched


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """Give the one object of a kind."""
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def pod(manifests: list[Manifest], kind: str) -> Manifest:
    """Give the pod's specification in a StatefulSet, Job or Pod."""
    spec: Manifest = only(manifests, kind)["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


def container(manifests: list[Manifest], kind: str) -> Manifest:
    """Give the one container of a StatefulSet, Job or Pod."""
    found: Manifest
    (found,) = pod(manifests, kind)["containers"]
    return found


def environment(found: Manifest) -> dict[str, str]:
    """Give a container's variables that have a plain value."""
    return {entry["name"]: entry["value"] for entry in found["env"] if "value" in entry}
