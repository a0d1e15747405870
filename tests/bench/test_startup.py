"""bench.startup: what it asks and adds up; its engines take half a minute each to start."""

import subprocess
from pathlib import Path

import pytest

from bench.processes import Processes
from bench.startup import __main__ as startup
from bench.startup.__main__ import SIDES, Side, main, start


def counting(*flags: str) -> Side:
    """Make a side of the worker that starts in a moment."""
    return Side("counting", "counting", 1, ("worker", "--engine", "counting", *flags), SIDES[1].serves)


@pytest.fixture(autouse=True)
def _no_engine_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counting engine knows none of vLLM's, and has no memory to settle."""
    monkeypatch.setattr(startup, "ENGINE_FLAGS", {"--max-model-len": 256})
    monkeypatch.setattr(startup, "SETTLE_S", 0.1)


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_process_of_a_side_counts(tmp_path: Path, replicas: int) -> None:
    """A lone worker is one process, a node of two is three; all are ended."""
    with Processes() as processes:
        found = start(counting("--replicas", str(replicas)), tmp_path, processes, tmp_path / "log")
    assert (1 if replicas == 1 else 3) == found.num_processes
    assert found.serving_s > 0
    # None is an engine of vLLM's, and an interpreter with gRPC and numpy holds some 40 MiB.
    assert found.pss_mib == found.front_pss_mib > 10 * found.num_processes
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, timeout=20, check=True)
    assert str(tmp_path) not in listed.stdout


def test_a_side_that_ends_is_an_error(tmp_path: Path) -> None:
    """Its last words are shown."""
    with Processes() as processes, pytest.raises(RuntimeError, match=r"does not serve: .*--step-ms: -1\.0"):
        start(counting("--step-ms", "-1"), tmp_path, processes, tmp_path / "log")


@pytest.mark.parametrize("flags", ["--rounds 0", "--output nowhere/a.json", "--spare 1"])
def test_bad_flags_are_named(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and one line, before anything starts."""
    assert 2 == main(flags.split())
    (line,) = capsys.readouterr().out.splitlines()
    assert flags.split()[0] in line
