"""CPU cores of a benchmark's processes."""

import os
import subprocess
import sys

import pytest

from bench.processes import split_cores, started_on

SHOW = "import os; print(sorted(os.sched_getaffinity(0)))"


def test_fleet_and_coordinator_share_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fleet gets one core, the coordinator the others; on a one-core machine both get that core."""
    for mine, parts in (({3, 1, 2}, ({1}, {2, 3})), ({5}, ({5}, {5}))):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, mine=mine: mine)
        assert parts == split_cores()


def test_what_starts_in_a_block_runs_there() -> None:
    """A process started in the block runs on the block's core; afterwards this process has its cores back."""
    before = os.sched_getaffinity(0)
    core = max(before)
    with started_on({core}):
        process = subprocess.run([sys.executable, "-c", SHOW], stdout=subprocess.PIPE, text=True, check=True)
    assert f"[{core}]\n" == process.stdout
    assert before == os.sched_getaffinity(0)
