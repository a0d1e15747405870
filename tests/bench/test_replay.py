"""The replay benchmark: one recorded stream, taken with and without the checks."""

import json
import sys
from pathlib import Path

import pytest

from bench.processes import ROOT
from bench.replay.__main__ import QUICK, interval, main
from bench.replay.checkouts import compare


def test_a_quick_replay_prints_its_raw_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Two pairs: every frame is taken on both sides, and the CPU time of each is printed."""
    assert 0 == main(["--quick", "--pairs", "2"])
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert 2 == len(shown["checks_us_per_frame"]) == len(shown["whole_us_per_frame"])
    assert all(spent_us > 0 for spent_us in shown["whole_us_per_frame"])
    assert shown["frames"] > 10


def test_the_interval_is_that_of_students_t() -> None:
    """Shares of 1 % and 3 %: mean 2 %, deviation 1.414 %, half width 12.71 * 1.414 % / sqrt(2) = 12.71 %."""
    mean, low, high = interval([0.01, 0.03])
    assert pytest.approx((0.02, 0.02 - 0.1271, 0.02 + 0.1271)) == (mean, low, high)


def test_two_checkouts_replay_in_turns() -> None:
    """The same checkout twice: the ratio is one of CPU times, and two turns are made in any time."""
    python = Path(sys.executable)
    found = compare([ROOT, ROOT], [python, python], QUICK["quick"], 0.0)
    assert 2 == found["turns"]
    assert 0 < float(str(found["new / old"])) < 10
