"""A copy of the scripts whose PATH holds only recorded commands."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["bash", "cat", "cp", "dirname", "grep", "id", "mkdir", "realpath", "rm"]
RECORD = '#!/usr/bin/env bash\n{ printf "%q " "${0##*/}" "$@"; echo; } >>"$RECORD"\n'
# `python3 -m venv DIR` and `uv venv DIR`: the environment's python records too.
MAKE_VENV = 'mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python"\n'
# What `nvidia-smi --list-gpus` prints on a node of two.
GPUS = 'echo "GPU 0: NVIDIA H200 (UUID: GPU-aa0)"; echo "GPU 1: NVIDIA H200 (UUID: GPU-bb1)"\n'


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
