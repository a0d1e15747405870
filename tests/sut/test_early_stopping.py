"""LoadGen's early stopping: its own values, compiled from its source and read from its log."""

import re
from pathlib import Path

import pytest

from sut.early_stopping import allowed_over_latency, min_passing_queries
from sut.settings import Mode, Scenario
from tests.sut.test_loadgen_traps import Drive, end_child, run_child

# Printed by MinPassingQueriesFinder of loadgen/early_stopping.cc (LoadGen 6.0.17), compiled with g++.
OF_LOADGEN = {
    0.99: {0: 459, 1: 661, 2: 836, 3: 998, 5: 1302, 10: 2000, 20: 3284, 45: 6269, 46: 6385, 101: 12582}
    | {102: 12692, 278: 31634, 279: 31740, 580: 63245, 581: 63349, 1000: 106569, 5300: 541799},
    0.9: {0: 44, 3: 94, 50: 631},
    0.95: {0: 90, 3: 195, 50: 1322},
    0.999: {0: 4603, 3: 10039, 50: 69008},
}


@pytest.mark.parametrize("percentile", OF_LOADGEN)
def test_the_smallest_passing_number_is_that_of_loadgen(percentile: float) -> None:
    """Each value is what LoadGen's own code computes."""
    known = OF_LOADGEN[percentile]
    assert known == {over: min_passing_queries(over, percentile) for over in known}


def test_the_allowance_follows_from_the_smallest_passing_number() -> None:
    """A run of n queries passes with t over the limit if n >= h(t) + t, by the values above."""
    # h(45) + 45 = 6,314 <= 6,396 < h(46) + 46 = 6,431; h(101) + 101 = 12,683 <= 12,792 < 12,794.
    known = {458: -1, 459: 0, 661: 0, 662: 1, 6314: 45, 6396: 45, 6430: 45, 6431: 46, 12792: 101, 12794: 102}
    assert known == {num: allowed_over_latency(num, 0.99) for num in known}
    # Without queries nothing passes.
    assert -1 == allowed_over_latency(0, 0.99)


def child_all_over(directory: Path) -> None:
    """Run 500 queries with a limit of 0 ms for TPOT, so that LoadGen counts all of them as over."""
    conf = "".join(
        f"gpt-oss-120b.Server.{key} = {value}\n"
        for key, value in {"min_duration": 10, "target_qps": 20000, "tpot_latency": 0}.items()
    )
    drive = Drive(Scenario.SERVER, Mode.PERFORMANCE, 500, conf)
    values = drive.run(directory).values
    assert 500 == values["generated_query_count"]
    told = re.search(r"at least (\d+) more queries", str(values["early_stopping_tpot_result"]))
    assert told is not None
    # h(t) + t - n with t = n = 500.
    assert min_passing_queries(500, 0.99) == int(told[1])
    end_child()


def test_loadgen_logs_the_number_that_is_computed_here(tmp_path: Path) -> None:
    """In a real log, the number of further queries that LoadGen asks for is h(t) + t - n."""
    run_child(child_all_over, tmp_path)
