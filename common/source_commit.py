"""The Git commit of the source tree that a process was started from."""

import functools
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# On a busy disk git takes seconds to look at a thousand files; a run without its commit is worth less.
GIT_TIMEOUT_S = 20.0


@functools.cache
def read_commit(root: Path = ROOT) -> str:
    """Return the commit as 40 hexadecimal digits, with `-dirty` if a tracked file differs from it.

    Read at the start of a process: the tree may change later. Empty if the tree is not the top of a Git work
    tree (an installed package), or if git is missing or too slow.
    """
    if not (root / ".git").exists():
        return ""
    # The tree may belong to another user, e.g. in a container.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={root}", "-C", str(root)]
    command += ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    # Without GIT_DIR and the like, which name another repository.
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
