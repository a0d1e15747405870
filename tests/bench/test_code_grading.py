"""bench.code_grading: starts and grading of a few programs are measured."""

import pytest

from bench.code_grading.__main__ import measure
from sut.results.code_grading.program import SandboxUnavailableError


def test_a_few_programs_are_measured() -> None:
    """Two programs, as plain processes and in sandboxes; 1,000 ms over two programs."""
    try:
        figures = measure(num_programs=2, num_parallel=2)
    except SandboxUnavailableError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    sides = ("plain", "sandboxed")
    assert all(0 < figures[f"{side}_total_s"] for side in sides)
    assert {side: 500 * figures[f"{side}_total_s"] for side in sides} == pytest.approx(
        {side: figures[f"{side}_wall_ms_per_program"] for side in sides}
    )
