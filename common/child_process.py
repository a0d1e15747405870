"""Command line and environment for starting this project's programs as child processes."""

import os
import site
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
"""The directory that contains this project's packages: a checkout or site-packages."""


def child_command(module: str, argv: Iterable[str]) -> list[str]:
    """Compose the command line of one of this project's programs.

    -P keeps the current directory off sys.path. Otherwise Python would import a worker.py or a folder sut/
    there instead of this project's packages.
    """
    return [sys.executable, "-P", "-m", module, *argv]


def child_environment(
    environment: Mapping[str, str], site_dirs: Iterable[str] | None = None
) -> dict[str, str]:
    """Compose the environment of a child that imports the same copy of this project's packages.

    Args:
        environment: The environment to start from.
        site_dirs: The interpreter's site directories; default: this interpreter's.
    """
    if site_dirs is None:
        site_dirs = (*site.getsitepackages(), site.getusersitepackages())
    # Drop relative and empty entries: they refer to the current directory.
    path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    # Do not add site directories: ahead of the standard library they would shadow parts of it.
    if str(PACKAGE_ROOT) not in site_dirs:
        path.insert(0, str(PACKAGE_ROOT))
    # PYTHONSAFEPATH applies -P to the interpreters that the child starts, such as vLLM's processes.
    return {**environment, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
