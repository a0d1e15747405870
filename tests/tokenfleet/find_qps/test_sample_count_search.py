"""Offline's next rate after each history, computed by hand."""

from tokenfleet.find_qps.rate_search import StepKind
from tokenfleet.find_qps.sample_count_search import next_offline_step
from tokenfleet.find_qps.search_results import OfflinePoint


def test_a_run_that_was_too_short_is_repeated_with_the_rate_of_the_engines() -> None:
    """400 samples in 20 s, 25 a second while the engines were full: the next run has 25, of 1,100 in 40 s."""
    assert (StepKind.FULL, 1.0) == next_offline_step([], 1.0, 40.0, 8)
    short = OfflinePoint(1.0, 400, 20.0, 25.0, is_valid=False)
    assert (StepKind.FULL, 25.0) == next_offline_step([short], 1.0, 40.0, 8)
    whole = OfflinePoint(25.0, 1200, 48.0, 26.0, is_valid=True)
    assert (StepKind.FOUND, 25.0) == next_offline_step([short, whole], 1.0, 40.0, 8)


def test_answers_that_end_together_do_not_make_a_huge_run() -> None:
    """The rate between their ends is no rate of the engines: at most twice the mean, 2 * 500 / 5."""
    together = OfflinePoint(1.0, 500, 5.0, 1e9, is_valid=False)
    assert (StepKind.FULL, 200.0) == next_offline_step([together], 1.0, 600.0, 8)


def test_the_sample_count_grows_with_each_run() -> None:
    """LoadGen issues at least 6,396 samples: a rate that gives no more of them would repeat the same run.

    6,397 / (1.1 * 600) is 9.6925 samples/s.
    """
    short = OfflinePoint(9.0, 6396, 590.0, 9.5, is_valid=False)
    assert (StepKind.FULL, 9.693) == next_offline_step([short], 1.0, 600.0, 8)
    assert (StepKind.EXHAUSTED, 9.0) == next_offline_step([short], 1.0, 600.0, 1)
