"""The images, built from a local root file system, and set-up in a fresh one, run for real; root only."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fleet
from tests.docker.workspace import ROOT
from tests.forked import completed_command

MISSING = [tool for tool in ("buildah", "debootstrap", "apt-get") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(MISSING != [], reason=f"not installed: {', '.join(MISSING)} (Debian's packages)"),
    pytest.mark.skipif(os.getuid() != 0, reason="debootstrap must run as root"),
]
BUILD_TIMEOUT_S = 1500.0
RUN_TIMEOUT_S = 600.0
LOAD_TIMEOUT_S = 300.0
# With this seed no prompt's greedy answer begins with a stop id: LoadGen calls one token an error.
DATASET_FLAGS = """
--num-samples 64 --vocab-size 4096 --seed 1 --mean-prompt-len 24 --max-prompt-len 64 --mean-answer-len 16
--max-answer-len 32
"""
RUN_FLAGS = """
--scenario offline --input-file /inputs/data.pkl --output-dir /results --max-new-tokens 16
--generation-config /inputs/greedy.json --user-conf /inputs/user.conf
"""
WORKER_FLAGS = """
--model /inputs/checkpoint --dtype float32 --enforce-eager --max-model-len 256 --max-num-seqs 16
"""
SEED_COMMAND = f"python run_mlperf.py --backend vllm {RUN_FLAGS} {WORKER_FLAGS}"


def call(*command: str | Path, timeout_s: float = RUN_TIMEOUT_S) -> str:
    """Run a command that must succeed; returns its output."""
    done = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    assert 0 == done.returncode, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    """Build both images as their script does; what has not changed is taken from the layers of last time."""
    call(ROOT / "docker/build_local.sh", timeout_s=BUILD_TIMEOUT_S)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """A tiny checkpoint, a data set and their settings, and a folder for results; as options of a run."""
    inputs, results = tmp_path / "inputs", tmp_path / "results"
    for folder in (inputs, results):
        folder.mkdir()
    synthetic = [sys.executable, "-m", "sut.synthetic"]
    call(*synthetic, "checkpoint", "--output", inputs / "checkpoint")
    call(*synthetic, "dataset", "--output", inputs / "data.pkl", *DATASET_FLAGS.split())
    (inputs / "greedy.json").write_text('{"temperature": 0.0}')
    (inputs / "user.conf").write_text(fleet.FAST_CONF)
    # The images' user is a stranger here, and pytest keeps its folders to itself.
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    results.chmod(0o777)
    return ["--volume", f"{inputs}:/inputs:ro", "--volume", f"{results}:/results"]


@contextlib.contextmanager
def container(image: str, *options: str) -> Iterator[list[str]]:
    """Make a container of an image; gives the words that run a command in it, on the host's network."""
    name = call("buildah", "from", "--quiet", image).strip()
    try:
        yield ["buildah", "run", "--isolation", "chroot", *options, name, "--"]
    finally:
        call("buildah", "rm", name)


def read_config(image: str) -> dict:
    """Return what an image says of how it wants to be run."""
    config: dict = json.loads(call("buildah", "inspect", "--type", "image", image))["Docker"]["config"]
    return config


def read_verdict(results: Path) -> str:
    """Return the verdict of the only run."""
    record = json.loads((results / "offline/performance/run.json").read_text())
    return str(record["verdict"]["outcome"])


def test_built_images_serve_and_coordinate(tmp_path: Path, folders: list[str]) -> None:
    """By its own check the CPU image's worker turns healthy, and the coordinator image runs over it."""
    config = read_config("tokenfleet-cpu")
    address = f"127.0.0.1:{fleet.free_port()}"
    ask = ["--env", f"WORKER_ADDRESS={address}"]
    with (
        container("tokenfleet-cpu", *folders, *ask) as in_worker,
        container("tokenfleet-coordinator", *folders) as in_coordinator,
    ):
        worker = fleet.start_worker(
            tmp_path / "worker.log",
            *WORKER_FLAGS.split(),
            engine="vllm",
            address=address,
            program=[*in_worker, *config["Entrypoint"]],
        )
        try:
            assert config["Healthcheck"]["Test"][0] == "CMD"
            wait_healthy(worker, [*in_worker, *config["Healthcheck"]["Test"][1:]])
            entrypoint = read_config("tokenfleet-coordinator")["Entrypoint"]
            call(*in_coordinator, *entrypoint, "--workers", address, *RUN_FLAGS.split())
            user = call(*in_worker, "id", "-u").strip()
        finally:
            worker.stop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)

    assert "10001" == user
    assert "VALID" == read_verdict(tmp_path / "results")


def wait_healthy(worker: fleet.WorkerProcess, check: list[str]) -> None:
    """Run a health check until it succeeds; the worker's end or the deadline fails the test with its log."""
    deadline_s = time.monotonic() + LOAD_TIMEOUT_S
    while subprocess.run(check, check=False, capture_output=True, timeout=60).returncode != 0:
        if worker.process.poll() is not None or time.monotonic() > deadline_s:
            pytest.fail(f"the worker is not healthy:\n{worker.log.read_text()[-4000:]}")
        time.sleep(2)


def test_the_seeds_command_succeeds_in_the_cpu_image(tmp_path: Path, folders: list[str]) -> None:
    """run_mlperf.py in the CPU image's own folder, as its own user, ends VALID over real vLLM."""
    with container("tokenfleet-cpu", *folders) as inside:
        call(*inside, *SEED_COMMAND.split())

    assert "VALID" == read_verdict(tmp_path / "results")


def test_the_seeds_commands_succeed_in_a_fresh_root(tmp_path: Path, folders: list[str]) -> None:
    """In a bare Debian setup.sh asks for libnuma, then installs the CPU build; run_mlperf.py ends VALID."""
    (tmp_path / "checkout").mkdir()
    tracked = call("git", "ls-files", "--cached", "--others", "--exclude-standard").split()
    call("cp", "--parents", "--target-directory", tmp_path / "checkout", *tracked)
    options = [
        *folders,
        *("--volume", f"{tmp_path}/checkout:/checkout:ro", "--env", "MLPERF_BACKEND=vllm"),
        *("--volume", f"{ROOT}/build/wheels:/wheels:ro"),
        *("--volume", f"{ROOT}/build/pip.conf:/etc/pip.conf:ro"),
    ]
    with container("tokenfleet-base", *options) as inside:
        call(*inside, "cp", "--recursive", "/checkout", "/work")
        bare = completed_command([*inside, "/work/setup.sh"], RUN_TIMEOUT_S)
        assert "error: libnuma.so.1 is missing" in bare.stderr
        call(*inside, "sh", "-c", "apt-get update && apt-get install --yes libnuma1")
        assert "Ready: source /work/.venv_vllm/bin/activate\n" in call(*inside, "/work/setup.sh")
        in_venv = 'cd /work && . .venv_vllm/bin/activate && exec "$@"'
        call(*inside, "sh", "-c", in_venv, "sh", *SEED_COMMAND.split())

    assert "VALID" == read_verdict(tmp_path / "results")
