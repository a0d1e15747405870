"""How this project starts its own programs as child processes."""

import os
import site
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
"""The directory that holds this project's packages: a checkout, or site-packages."""


def child_command(module: str, argv: Iterable[str]) -> list[str]:
    """Compose the command line of one of this project's programs.

    -P: a worker.py or a folder sut/ in the current directory is not imported in place of this project's.
    """
    return [sys.executable, "-P", "-m", module, *argv]


def child_environment(
    environment: Mapping[str, str], site_dirs: Iterable[str] | None = None
) -> dict[str, str]:
    """Compose a child's environment; the child finds this project's packages where this process has them.

    Args:
        environment: The environment to start from.
        site_dirs: Directories that every interpreter searches; default: this interpreter's.
    """
    if site_dirs is None:
        site_dirs = (*site.getsitepackages(), site.getusersitepackages())
    # A relative entry, the empty one included, means the current directory.
    path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    # Site directories stay out: ahead of the standard library they would hide parts of it.
    if str(PACKAGE_ROOT) not in site_dirs:
        path.insert(0, str(PACKAGE_ROOT))
    # PYTHONSAFEPATH is -P for the interpreters that the child starts, vLLM's among them.
    return {**environment, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
