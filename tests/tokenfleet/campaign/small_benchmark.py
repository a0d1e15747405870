"""Shrinks the benchmark in every process of a campaign; copied to a directory as sitecustomize.py.

Python imports sitecustomize at its start. A whole campaign then takes about a minute: 80 performance samples
instead of 6,396, 78 accuracy samples instead of 4,395, and answers of 40 tokens instead of 1,278.
"""

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path

NUM_PERFORMANCE = 80
ACCURACY_ROWS = {"aime25": 8, "gpqa_diamond": 10, "livecodebench_v6": 60}
MEAN_ANSWER_LEN = 40.0
COMMIT = "TOKENFLEET_TEST_COMMIT"
"""Variable: the commit that all processes are to have."""
PAUSE = "TOKENFLEET_TEST_PAUSE"
"""Variable: name of the run before which the campaign waits, or TREE_MOVES; it then creates PAUSED."""
TREE_MOVES = "tree moves"
"""Between the move of the accuracy logs and that of the tree."""
PAUSED, RESUME = "paused", "resume"


def shrink() -> None:
    """Replace the counts and lengths of the benchmark."""
    from sut import benchmark, user_conf

    # LoadGen's own counts stay the official ones: each user.conf then sets those of the small data sets.
    user_conf.BENCHMARK = dataclasses.replace(benchmark.BENCHMARK)
    low, high = 0.9 * MEAN_ANSWER_LEN, 1.1 * MEAN_ANSWER_LEN
    num_gpqa = ACCURACY_ROWS["gpqa_diamond"]
    test07, test09 = benchmark.BENCHMARK.compliance_tests
    tests = (
        test07._replace(num_samples=num_gpqa, loadgen_settings=benchmark._audit_settings(num_gpqa, num_gpqa)),
        test09._replace(
            num_samples=NUM_PERFORMANCE,
            thresholds={"test09_min_output_tokens": str(low), "test09_max_output_tokens": str(high)},
            loadgen_settings=benchmark._audit_settings(NUM_PERFORMANCE, 10_000),
            mean_answer_len=benchmark.MeanBounds(low, high),
        ),
    )
    small = {
        "performance_sample_count": NUM_PERFORMANCE,
        "accuracy_sample_count": sum(ACCURACY_ROWS.values()),
        "accuracy_rows": ACCURACY_ROWS,
        "mean_answer_len": MEAN_ANSWER_LEN,
        "compliance_tests": tests,
    }
    for name, value in small.items():
        object.__setattr__(benchmark.BENCHMARK, name, value)


def set_commit(commit: str) -> None:
    """Give the process a commit, whatever the state of its source tree is."""
    from common import source_commit

    source_commit.read_commit = lambda: commit  # type: ignore[assignment]


def pause_at(place: str) -> None:
    """Make the campaign wait at a place that it passes in an instant."""
    from tokenfleet.campaign import execution, tree_command

    set_aside, rename = execution.set_aside, os.rename

    def pausing_set_aside(run: object) -> object:
        if getattr(run, "name", "") == place:
            wait()
        return set_aside(run)  # type: ignore[arg-type]

    def pausing_rename(source: Path, target: Path) -> None:
        rename(source, target)
        if str(target).endswith("-originals"):
            wait()

    execution.set_aside = pausing_set_aside  # type: ignore[assignment]
    if place == TREE_MOVES:
        tree_command.os.rename = pausing_rename  # type: ignore[assignment]


def wait() -> None:
    """Wait until the test says to continue, or kills the process."""
    Path(PAUSED).touch()
    while not Path(RESUME).exists():
        time.sleep(0.05)


def begin() -> None:
    """Change what the environment asks for."""
    shrink()
    if COMMIT in os.environ:
        set_commit(os.environ[COMMIT])
    if PAUSE in os.environ and "campaign" in sys.orig_argv:
        pause_at(os.environ[PAUSE])


if __name__ == "sitecustomize":
    with contextlib.suppress(ImportError):
        begin()
