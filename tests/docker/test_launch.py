"""launch_docker.sh, run for real against recorded `docker` and `nvidia-smi` commands."""

import os
import shlex
from itertools import pairwise

import pytest

from tests.docker.workspace import GPUS, Workspace


def values(words: list[str], flag: str) -> list[str]:
    """Return the word after each occurrence of a flag."""
    return [value for name, value in pairwise(words) if name == flag]


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
    # The mounted checkout is the code that runs.
    assert "PYTHONPATH=/work" in values(words, "--env")
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


@pytest.mark.parametrize(
    ("args", "visible", "gpus"),
    [
        ([], None, "all"),
        ([], "1,0", '"device=1,0"'),
        (["--gpu-count", "2"], "1,0", "2"),
        (["--gpu-count", "all"], "1,0", "all"),
        (["--gpu-devices", "3"], "1,0", '"device=3"'),
        (["--gpu-devices", "GPU-aa0,MIG-b-1"], None, '"device=GPU-aa0,MIG-b-1"'),
    ],
)
def test_flags_choose_the_gpus_and_else_the_variable(
    workspace: Workspace, args: list[str], visible: str | None, gpus: str
) -> None:
    """A flag chooses the GPUs, else CUDA_VISIBLE_DEVICES, else all; docker reads a list as one field."""
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    words = shlex.split(workspace.run("launch_docker.sh", *args, "--dry-run", **env).stdout)

    assert [gpus] == values(words, "--gpus")


def test_no_gpus_run_the_cpu_image(workspace: Workspace) -> None:
    """With --gpu-count 0 the CPU image runs, on a host without NVIDIA's tools, whatever the variable says."""
    workspace.add_command("docker", '[[ "$1" != image ]]\n')
    result = workspace.run("launch_docker.sh", "--gpu-count", "0", CUDA_VISIBLE_DEVICES="0")
    _, build, run = workspace.recorded()

    assert (0, "") == (result.returncode, result.stderr)
    assert f"{workspace.root}/docker/Dockerfile.cpu" == build[3]
    assert "--gpus" not in run
    assert ["--entrypoint", "bash", "tokenfleet-cpu"] == run[-3:]


@pytest.mark.parametrize(
    ("smi", "docker", "args", "line"),
    [
        ("exit 9\n", "", [], "no GPU: nvidia-smi lists none on this host (--gpu-count 0 runs the CPU image)"),
        (
            "exit 9\n",
            "",
            ["--backend", "sglang"],
            "no GPU: nvidia-smi lists none on this host (sglang has no CPU image)",
        ),
        (
            GPUS,
            "echo 'map[runc:{runc}]'\n",
            [],
            "no GPU in containers: NVIDIA's container toolkit is not installed for docker",
        ),
        (GPUS, "echo nvidia\n", ["--gpu-count", "3"], "--gpu-count '3': nvidia-smi lists 2"),
        (GPUS, "echo nvidia\n", ["--gpu-devices", "0,2"], "GPU '2': nvidia-smi does not list it"),
        (GPUS, "echo nvidia\n", ["--gpu-devices", "GPU-cc2"], "GPU 'GPU-cc2': nvidia-smi does not list it"),
    ],
)
def test_gpus_that_the_host_lacks_are_refused(
    workspace: Workspace, smi: str, docker: str, args: list[str], line: str
) -> None:
    """Where host or docker cannot give the GPUs asked for, one line says so, status 2, and nothing runs."""
    workspace.add_command("nvidia-smi", smi)
    workspace.add_command("docker", docker)
    result = workspace.run("launch_docker.sh", *args)

    assert (2, "", f"error: {line}\n") == (result.returncode, result.stdout, result.stderr)
    assert "run" not in [words[1] for words in workspace.recorded()]


def test_hidden_gpus_are_refused(workspace: Workspace) -> None:
    """An empty CUDA_VISIBLE_DEVICES, which hides every GPU, is not taken for all of them."""
    result = workspace.run("launch_docker.sh", "--dry-run", CUDA_VISIBLE_DEVICES="")
    line = "error: CUDA_VISIBLE_DEVICES '' must be GPUs by number or UUID, as in 0,1\n"

    assert (2, "", line) == (result.returncode, result.stdout, result.stderr)


def test_model_cache_that_cannot_be_written_is_refused(workspace: Workspace) -> None:
    """A model cache that cannot be made or written ends with status 2 and one line; docker is not asked."""
    workspace.add_command("docker")
    (workspace.home / "file").touch()
    path = f"{workspace.home}/file/hub"
    result = workspace.run("launch_docker.sh", HF_HOME=path)
    line = f"error: the model cache (--model-cache-dir, HF_HOME): '{path}' cannot be written\n"

    assert (2, "", line) == (result.returncode, result.stdout, result.stderr)
    assert not workspace.record.exists()


def test_missing_docker_is_one_line(workspace: Workspace) -> None:
    """Without docker the launcher says so in one line, with status 2, on a host with GPUs too."""
    workspace.add_command("nvidia-smi", GPUS)
    for backend in ("counting", "vllm", "sglang"):
        result = workspace.run("launch_docker.sh", "--backend", backend)

        line = "error: docker is not installed\n"
        assert (2, "", line) == (result.returncode, result.stdout, result.stderr)


def test_failed_docker_info_is_not_taken_for_a_missing_toolkit(workspace: Workspace) -> None:
    """Where docker's server does not answer, docker's own message comes first and then one line, status 2."""
    workspace.add_command("nvidia-smi", GPUS)
    workspace.add_command("docker", "echo no server >&2; exit 1\n")
    result = workspace.run("launch_docker.sh", "--backend", "sglang")

    lines = "no server\nerror: docker info failed (see above)\n"
    assert (2, "", lines) == (result.returncode, result.stdout, result.stderr)


@pytest.mark.parametrize(("args", "variable"), [(["--backend", "counting"], "vllm"), ([], "counting")])
def test_counting_backend_uses_no_gpu(workspace: Workspace, args: list[str], variable: str) -> None:
    """The counting backend, by flag or else by variable, runs the coordinator's image without a GPU."""
    result = workspace.run("launch_docker.sh", *args, "--dry-run", MLPERF_BACKEND=variable)
    words = shlex.split(result.stdout)

    assert words[-1] == "tokenfleet-coordinator"
    assert "--gpus" not in words
    assert "MLPERF_BACKEND=counting" in values(words, "--env")


def test_sglang_runs_in_its_own_image(workspace: Workspace) -> None:
    """The backend sglang takes GPUs as vllm does, and refuses 0: it has no CPU image."""
    result = workspace.run("launch_docker.sh", "--dry-run", "--gpu-count", "2", MLPERF_BACKEND="sglang")
    words = shlex.split(result.stdout)
    assert (words[-1], ["2"]) == ("tokenfleet-sglang", values(words, "--gpus"))
    assert "MLPERF_BACKEND=sglang" in values(words, "--env")

    refused = workspace.run("launch_docker.sh", "--backend", "sglang", "--gpu-count", "0")
    line = "error: --gpu-count '0': the backend sglang has no CPU image\n"
    assert (2, "", line) == (refused.returncode, refused.stdout, refused.stderr)


def test_missing_image_is_built_once(workspace: Workspace) -> None:
    """An image that docker does not know is built on BASE_IMAGE, then run; its mount points exist by then."""
    workspace.add_command("docker", '[[ "$1" != image ]] && echo "map[nvidia:{}]"\n')
    workspace.add_command("nvidia-smi", GPUS)
    result = workspace.run("launch_docker.sh", "--", "true", BASE_IMAGE="mirror/cuda:13")
    inspect, build, run = [words for words in workspace.recorded() if words[1] in ("image", "build", "run")]
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
