"""A process group held to a share of one core: by the kernel's CPU quota, or by stops and continues.

A quota (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`) needs root. Elsewhere a process of its own sends the
group SIGSTOP and SIGCONT in turns, which holds it to a share of the time instead of the CPU time.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from bench.processes import STOP_TIMEOUT_S, Processes

PERIOD_S = 0.02
"""A few engine steps: a longer one would let the worker run ahead and then stand still."""
MOUNTS = Path("/proc/self/mounts")


class LimitKind(StrEnum):
    """What holds a worker back."""

    QUOTA = "quota"
    SIGNALS = "signals"


class Quota(NamedTuple):
    """An own cgroup, and the files that limit it."""

    directory: Path
    version: int
    """1 or 2."""

    def limit(self, share: float) -> None:
        """Allow its processes `share` of a core together.

        Raises:
            OSError: The kernel refuses.
        """
        period_us = round(PERIOD_S * 1e6)
        quota_us = round(share * period_us)
        if self.version == 2:
            (self.directory / "cpu.max").write_text(f"{quota_us} {period_us}\n")
        else:
            (self.directory / "cpu.cfs_period_us").write_text(f"{period_us}\n")
            (self.directory / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")

    def add(self, pid: int) -> None:
        """Move a process in; what it starts from now on follows it.

        Raises:
            OSError: No such process, or the kernel refuses.
        """
        (self.directory / "cgroup.procs").write_text(f"{pid}\n")

    def remove(self) -> None:
        """Remove it once the last process in it has gone.

        Raises:
            OSError: One has not, within STOP_TIMEOUT_S.
        """
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while True:
            try:
                return self.directory.rmdir()
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.05)


def find_hierarchy(mounts: str) -> tuple[Path, int]:
    """Find where CPU quotas are set: mount point and cgroup version.

    Args:
        mounts: As in proc(5), /proc/self/mounts.

    Raises:
        OSError: Nowhere.
    """
    for line in mounts.splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(where), 1
        if kind == "cgroup2" and "cpu" in (Path(where) / "cgroup.controllers").read_text().split():
            return Path(where), 2
    raise OSError("no cgroup hierarchy here has the cpu controller")


@contextlib.contextmanager
def quota() -> Iterator[Quota]:
    """Make a cgroup for the length of a block; its processes must be gone, or go, at the end.

    Raises:
        OSError: Not permitted, or the kernel has none.
    """
    root, version = find_hierarchy(MOUNTS.read_text())
    if version == 2:
        (root / "cgroup.subtree_control").write_text("+cpu\n")
    made = Quota(root / f"tokenfleet-bench-{os.getpid()}", version)
    made.directory.mkdir()
    try:
        made.limit(1.0)
        yield made
    finally:
        made.remove()


def stop_in_turns(processes: Processes, group: int, share: float, log: Path) -> subprocess.Popen[bytes]:
    """Start what stops and continues a process group, until the group or the benchmark ends."""
    return processes.start(["bench.cpu_limit", "--group", str(group), "--share", str(share)], log)


def main(argv: list[str]) -> int:
    """Let a group run for `share` of each period until it has gone; SIGTERM leaves it running."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_limit", allow_abbrev=False)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--share", type=float, required=True)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            for signum, part in ((signal.SIGCONT, args.share), (signal.SIGSTOP, 1 - args.share)):
                os.killpg(args.group, signum)
                time.sleep(part * PERIOD_S)
    except ProcessLookupError:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(args.group, signal.SIGCONT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
