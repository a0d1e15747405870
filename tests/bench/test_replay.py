"""The replay benchmark: one recorded stream, taken with and without the checks."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from bench.intervals import mean_interval
from bench.processes import ROOT
from bench.replay import checkouts
from bench.replay.__main__ import QUICK, main


def test_a_quick_replay_prints_its_raw_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Two pairs: every frame is taken on both sides, and the CPU time of each is printed."""
    assert 0 == main(["--quick", "--pairs", "2"])
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert 2 == len(shown["checks_us_per_frame"]) == len(shown["whole_us_per_frame"])
    assert all(spent_us > 0 for spent_us in shown["whole_us_per_frame"])
    assert shown["frames"] > 10


def test_the_interval_is_that_of_students_t() -> None:
    """Of 1 and 3: half width 12.706 * 1.4142 / sqrt(2) = 12.706. Of 1 to 4: 3.1824 * 1.2910 / 2 = 2.0543."""
    assert pytest.approx((2.0, 2 - 12.706, 2 + 12.706), abs=1e-3) == mean_interval([1.0, 3.0])
    assert pytest.approx((2.5, 2.5 - 2.0543, 2.5 + 2.0543), abs=1e-3) == mean_interval([1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(("program", "flags"), [(main, []), (checkouts.main, ["--old", "."])])
def test_an_interval_needs_two_pairs(
    program: Callable[[list[str]], int], flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One pair is refused by name, value and bound."""
    with pytest.raises(SystemExit) as ended:
        program([*flags, "--pairs", "1"])
    assert 2 == ended.value.code
    assert "--pairs: 1 is below 2" in capsys.readouterr().err


def test_two_checkouts_replay_in_turns() -> None:
    """The same checkout twice: the ratios are of CPU times, and a pair makes two turns in any time."""
    python = Path(sys.executable)
    found = checkouts.compare([ROOT, ROOT], [python, python], QUICK["quick"], 0.0, 2)
    assert 4 == found["turns"]
    first, second = cast(list[float], found["pairs"])
    assert (first * second) ** 0.5 == pytest.approx(cast(float, found["new / old"]), abs=2e-4)


def test_a_replay_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process makes its frames within 0 s: the comparison ends with an error, and both processes end."""
    monkeypatch.setattr(checkouts, "PIECE_TIMEOUT_S", 0.0)
    python = Path(sys.executable)
    with pytest.raises(RuntimeError, match=r"^a replay has not answered for 0 s$"):
        checkouts.compare([ROOT, ROOT], [python, python], QUICK["quick"], 0.0, 2)


def test_two_equal_checkouts_have_the_ratio_1_however_noisy_they_are() -> None:
    """Twice as slow and twice as fast cancel out; the arithmetic mean of 0.5 and 2 is 1.25."""
    assert pytest.approx(0.0) == checkouts.log_ratio([(1.0, 2.0), (2.0, 1.0)])
    assert pytest.approx(math.log(2)) == checkouts.log_ratio([(1.0, 2.0), (3.0, 6.0)])
