"""The replay benchmark: one recorded stream, taken with and without the checks."""

import json

import pytest

from bench.replay.__main__ import interval, main


def test_a_quick_replay_prints_its_raw_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Two pairs: every frame is taken on both sides, and each replay's CPU time is printed."""
    assert 0 == main(["--quick", "--pairs", "2"])
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert 2 == len(shown["cpu_s_with_and_without"])
    assert all(spent_s > 0 for pair in shown["cpu_s_with_and_without"] for spent_s in pair)
    assert shown["frames"] > 10


def test_the_interval_is_that_of_students_t() -> None:
    """Shares of 1 % and 3 %: mean 2 %, deviation 1.414 %, half width 12.71 * 1.414 % / sqrt(2) = 12.71 %."""
    mean, low, high = interval([(1.01, 1.0), (1.03, 1.0)])
    assert pytest.approx((0.02, 0.02 - 0.1271, 0.02 + 0.1271)) == (mean, low, high)
