"""Runs that an earlier start of a program has left behind: waits for their ends."""

import fcntl
import re
import shutil
import time
from pathlib import Path

from sut.log_files import USER_CONF

# A coordinator that was told to stop ends within its own bounds, which are shorter.
END_TIMEOUT_S = 180.0
POLL_S = 0.2


def wait_ended(run_dir: Path, timeout_s: float = END_TIMEOUT_S) -> None:
    """Wait until no coordinator of an earlier start uses a run's directory, and remove unbegun ones.

    A program that is killed takes its coordinator along, which needs some seconds to end.

    Raises:
        TimeoutError: It has not ended in time.
    """
    for place in [run_dir, *_hidden_dirs(run_dir)]:
        deadline_s = time.monotonic() + timeout_s
        while _is_locked(place):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{place} belongs to a run that has not ended in {timeout_s:g} s")
            time.sleep(POLL_S)
    for place in _hidden_dirs(run_dir):
        shutil.rmtree(place, ignore_errors=True)


def _hidden_dirs(run_dir: Path) -> list[Path]:
    """List directories of runs that were killed before they began."""
    name = re.compile(rf"\.{re.escape(run_dir.name)}\.[0-9a-f]{{8}}\.(new|old)")
    parent = run_dir.parent
    return [path for path in parent.iterdir() if name.fullmatch(path.name)] if parent.is_dir() else []


def _is_locked(run_dir: Path) -> bool:
    """Return whether a run holds its user.conf."""
    try:
        with (run_dir / USER_CONF).open("r+") as conf:
            fcntl.flock(conf, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False
