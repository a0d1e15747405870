"""The wheel: every program runs in a directory whose files have the names of this project's packages."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from protos import worker_pb2 as pb
from tests import fleet
from tests.forked import completed_command
from tests.worker.node.nodes import info_of
from worker.engines.model.preset import preset_names

FOREIGN = "raise SystemExit('a module of the current directory was imported')\n"
# The longest answer, 40 tokens, lasts 200 ms: longer than the 100 ms that the user.conf asks for.
STEPS = ("--step-ms", "5")
PACKAGES = ("protos", "common", "sut", "coordinator", "worker", "tokenfleet")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input")


def test_the_wheel_has_every_package() -> None:
    """Each folder with an __init__.py in a room is in the list of packages of pyproject.toml."""
    project = tomllib.loads((fleet.ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    folders = {path.parent for name in PACKAGES for path in (fleet.ROOT / name).rglob("__init__.py")}
    assert {folder.relative_to(fleet.ROOT).as_posix().replace("/", ".") for folder in folders} == set(listed)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for name in PACKAGES:
        shutil.copytree(fleet.ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(fleet.ROOT / name, source)
    build = [
        *PIP,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        f"--wheel-dir={directory}",
        ".",
    ]
    subprocess.run(build, cwd=source, check=True, timeout=240)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh environment that sees the dependencies."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=240)
    python = environment / "bin" / "python"
    install = [*PIP, f"--python={python}", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, cwd=environment, check=True, timeout=240)
    (packages,) = environment.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return environment / "bin" / "tokenfleet"


def test_presets_are_installed(wheel: Path) -> None:
    """The wheel of the project holds every preset."""
    held = {
        Path(name).stem
        for name in zipfile.ZipFile(wheel).namelist()
        if name.startswith("worker/engines/") and "/presets/" in name
    }
    assert set(preset_names()) == held


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory of files that must not be imported; an empty PYTHONPATH entry names it too."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    (directory / "worker.py").write_text(FOREIGN)
    for name in ("protos", "sut", "common", "coordinator"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text(FOREIGN)
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", fleet.VLLM_CPU_ENV | {"PYTHONPATH": os.pathsep})
    return directory


@pytest.fixture
def checkpoint_args(checkpoint: Path) -> list[str]:
    """Give the flags of a small vLLM."""
    flags = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "4"]
    return ["--model", str(checkpoint), *flags]


class Programs:
    """Runs the installed command in the foreign directory."""

    def __init__(self, command: Path, directory: Path) -> None:
        self.command = command
        self.directory = directory

    def run(self, *words: str) -> None:
        """Run a subcommand to its end, which must be exit code 0."""
        done = subprocess.run(
            [self.command, *words],
            cwd=self.directory,
            env=fleet.VLLM_CPU_ENV,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert 0 == done.returncode, done.stderr

    def worker(self, log: Path, engine: str, *flags: str) -> fleet.WorkerProcess:
        """Start a worker and wait until it serves."""
        address = f"127.0.0.1:{fleet.free_port(3)}"
        started = fleet.start_worker(
            log,
            *flags,
            engine=engine,
            cwd=self.directory,
            address=address,
            program=(str(self.command), "worker"),
        )
        try:
            fleet.wait_serving(started, 90.0)
        except AssertionError:
            started.stop()
            raise
        return started


@pytest.fixture
def programs(command: Path, foreign: Path) -> Programs:
    """Prepare the installed command, and check that the foreign modules are in its way."""
    python = [str(command.parent / "python"), "-m", "worker"]
    done = completed_command(python, cwd=foreign)
    assert (1, "a module of the current directory was imported\n") == (done.returncode, done.stderr)
    return Programs(command, foreign)


def test_the_installed_command_ignores_the_current_directory(programs: Programs, tmp_path: Path) -> None:
    """synthetic, a node of two replicas, probe, doctor, run and local end with 0 among foreign modules."""
    programs.run("synthetic", "dataset", "--output", str(tmp_path / "drawn.pkl"), "--num-samples", "40")
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(40))
    conf = fleet.write_conf(tmp_path / "user.conf")
    flags = ["--input-file", str(data), "--user-conf", str(conf), "--max-new-tokens", "64"]
    node = programs.worker(tmp_path / "node.log", "counting", "--replicas", "2", *STEPS)
    try:
        assert [pb.WORKER_STATE_READY] * 2 == [one.state for one in info_of(node.address).replicas]
        programs.run("probe", node.address)
        programs.run("doctor", "--workers", node.address, *flags)
        programs.run("run", "--workers", node.address, *flags, "--output-dir", str(tmp_path / "run"))
        assert 0 == node.stop()
    finally:
        node.stop()
    assert (tmp_path / "run/offline/performance/report.html").exists()
    programs.run(
        "local",
        "--no-report",
        "--backend",
        "counting",
        *flags,
        *STEPS,
        "--output-dir",
        str(tmp_path / "local"),
    )


@pytest.mark.vllm
@pytest.mark.long
def test_processes_of_vllm_ignore_the_current_directory(
    programs: Programs, tmp_path: Path, checkpoint_args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with the real engine, whose processes are spawned, serves among foreign modules."""
    environment = fleet.VLLM_CPU_ENV | {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", environment)
    worker = programs.worker(tmp_path / "log", "vllm", *checkpoint_args)
    try:
        programs.run("probe", worker.address)
        assert 0 == worker.stop()
    finally:
        worker.stop()
