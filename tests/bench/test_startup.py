"""bench.startup: readiness and memory sums; real engines would take half a minute each to start."""

import subprocess
from pathlib import Path

import pytest

from bench.processes import Processes
from bench.startup import __main__ as startup
from bench.startup.__main__ import SIDES, Side, main, start


def counting(*flags: str) -> Side:
    """Build a side of a worker that starts immediately."""
    return Side("counting", "counting", 1, ("worker", "--engine", "counting", *flags), SIDES[1].serves)


@pytest.fixture(autouse=True)
def _no_engine_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove vLLM's flags, which the counting engine does not have, and the settling delay of its memory."""
    monkeypatch.setattr(startup, "ENGINE_FLAGS", {"--max-model-len": 256})
    monkeypatch.setattr(startup, "SETTLE_S", 0.1)


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_process_of_a_side_counts(tmp_path: Path, replicas: int) -> None:
    """A lone worker is one process, a node of two replicas is three; all end with the side."""
    with Processes() as processes:
        found = start(counting("--replicas", str(replicas)), tmp_path, processes, tmp_path / "log")
    assert (1 if replicas == 1 else 3) == found.num_processes
    assert found.serving_s > 0
    # No process is a vLLM engine; an interpreter with gRPC and numpy holds some 40 MiB.
    assert found.pss_mib == found.front_pss_mib > 10 * found.num_processes
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, timeout=240, check=True)
    assert str(tmp_path) not in listed.stdout


def test_a_side_that_ends_is_an_error(tmp_path: Path) -> None:
    """The error shows the last lines of its log."""
    with Processes() as processes, pytest.raises(RuntimeError, match=r"does not serve: .*--step-ms: -1\.0"):
        start(counting("--step-ms", "-1"), tmp_path, processes, tmp_path / "log")


@pytest.mark.parametrize("flags", ["--rounds 0", "--output nowhere/a.json", "--spare 1"])
def test_bad_flags_are_named(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line, before any process starts."""
    assert 2 == main(flags.split())
    (line,) = capsys.readouterr().out.splitlines()
    assert flags.split()[0] in line
