"""What holds for every script: set-up and launch scripts, run for real."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.workspace import ROOT, Workspace
from tests.forked import completed_command

SCRIPTS = [
    "setup.sh",
    "launch_docker.sh",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docker/**/*.sh"))),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_valid_bash(script: str) -> None:
    """Bash reads every script without a syntax error."""
    subprocess.run(["bash", "-n", ROOT / script], check=True, timeout=240)


def test_scripts_are_shellcheck_clean() -> None:
    """ShellCheck finds nothing in any script, sourced files included."""
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    result = completed_command([shellcheck, "-x", *SCRIPTS], 60)

    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("script", ["setup.sh", "launch_docker.sh"])
def test_unknown_backend_is_refused(workspace: Workspace, script: str) -> None:
    """A backend that no script knows ends with status 2 and one line that names it."""
    result = workspace.run(script, MLPERF_BACKEND="triton")
    line = "error: MLPERF_BACKEND 'triton' is unknown: it must be vllm, sglang or counting\n"

    assert (result.returncode, result.stdout, result.stderr) == (2, "", line)


def test_an_unknown_backend_is_named_by_the_flag_that_was_typed(workspace: Workspace) -> None:
    """The line names --backend, not the variable, although that is set, too."""
    result = workspace.run("launch_docker.sh", "--backend", "triton", MLPERF_BACKEND="vllm")

    line = "error: --backend 'triton' is unknown: it must be vllm, sglang or counting\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", line)


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("setup.sh", ["--cleanup"]),
        ("setup.sh", ["vllm"]),
        ("docker/build_local.sh", ["vllm"]),
        ("launch_docker.sh", ["--gpus", "all"]),
        ("launch_docker.sh", ["bash"]),
        ("launch_docker.sh", ["--image-name"]),
        ("launch_docker.sh", ["--image-name", "--dry-run"]),
        ("launch_docker.sh", ["--backend", "triton"]),
        ("launch_docker.sh", ["--gpu-count", "-1"]),
        ("launch_docker.sh", ["--gpu-count", "two"]),
        ("launch_docker.sh", ["--gpu-devices", "0,"]),
        ("launch_docker.sh", ["--gpu-devices", "0 1"]),
        ("launch_docker.sh", ["--gpu-devices", "0", "--gpu-count", "1"]),
        ("launch_docker.sh", ["--gpu-devices", "0", "--backend", "counting"]),
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


@pytest.mark.parametrize("script", ["setup.sh", "launch_docker.sh", "docker/build_local.sh"])
def test_help_needs_no_valid_backend(workspace: Workspace, script: str) -> None:
    """`--help` prints the usage and ends with status 0 whatever the backend is."""
    result = workspace.run(script, "--help", MLPERF_BACKEND="triton")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: ")


def test_local_build_says_which_tool_is_missing(workspace: Workspace) -> None:
    """Without buildah the local build ends with status 2 and one line; no folder is made."""
    result = workspace.run("docker/build_local.sh", "cpu")

    assert (2, "", "error: buildah is not installed\n") == (result.returncode, result.stdout, result.stderr)
    assert not (workspace.root / "build").exists()
