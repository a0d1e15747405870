"""A run that is not VALID leaves no log that a submission checker could accept."""

from pathlib import Path

import pytest

from sut.results.verdict import Outcome, set_aside
from sut.settings import Mode, Scenario
from tests.sut.handmade_logs import detail_line
from tests.sut.real_loadgen import CONF, CONF_OF_ONE, run_loadgen

SUMMARY, DETAIL, ACCURACY = "mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json"
LOGS = (SUMMARY, DETAIL, ACCURACY)
REJECTED = tuple(f"rejected_{name}" for name in LOGS)
BROKEN = (Outcome.FAILED, Outcome.INTERRUPTED)


def write(directory: Path, summary: str, detail: str) -> None:
    """Write the three logs, with the summary's result and the text of the detail log."""
    texts = (f"MLPerf Results Summary\nResult is : {summary}\n" if summary else "", detail, "[\n]\n")
    for name, text in zip(LOGS, texts, strict=True):
        (directory / name).write_text(text)


def names(directory: Path) -> set[str]:
    """List the directory."""
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize(
    "outcome, summary, result, aside",
    [
        (Outcome.VALID, "VALID", "VALID", False),
        (Outcome.INVALID, "VALID", "VALID", True),
        # With too few queries the summary says VALID and the detail log INVALID.
        (Outcome.INVALID, "VALID", "INVALID", True),
        (Outcome.INVALID, "", "VALID", True),
        (Outcome.INVALID, "INVALID", "INVALID", False),
        *((outcome, "VALID", "VALID", True) for outcome in BROKEN),
        *((outcome, "INVALID", "INVALID", True) for outcome in BROKEN),
        *((outcome, "", "", False) for outcome in BROKEN),
    ],
)
def test_logs_that_look_right_are_renamed(
    tmp_path: Path, outcome: Outcome, summary: str, result: str, aside: bool
) -> None:
    """Logs with LoadGen's VALID but another outcome, or complete logs of a failed run, are renamed."""
    detail = detail_line("result_validity", result) if result else ":::MLLOG {torn"
    write(tmp_path, summary, detail)
    assert set_aside(tmp_path, outcome) == (REJECTED if aside else ())
    assert names(tmp_path) == set(REJECTED if aside else LOGS)


def test_nothing_to_set_aside(tmp_path: Path) -> None:
    """Missing logs are not an error: a run may fail before LoadGen has written all of them or any."""
    assert set_aside(tmp_path, Outcome.FAILED) == ()
    (tmp_path / SUMMARY).write_text("No errors encountered")
    assert set_aside(tmp_path, Outcome.INTERRUPTED) == ("rejected_mlperf_log_summary.txt",)
    assert names(tmp_path) == {"rejected_mlperf_log_summary.txt"}


@pytest.mark.parametrize(
    "conf, mode, aside",
    [
        (CONF, Mode.PERFORMANCE, False),
        (CONF_OF_ONE, Mode.PERFORMANCE, True),
        (CONF, Mode.ACCURACY, True),
    ],
)
def test_what_loadgen_writes_is_recognised(tmp_path: Path, conf: str, mode: Mode, aside: bool) -> None:
    """If the verdict is INVALID, logs with LoadGen's INVALID stay; VALID and accuracy logs are renamed."""
    run_loadgen(conf, Scenario.OFFLINE, mode, tmp_path)
    assert set_aside(tmp_path, Outcome.INVALID) == (REJECTED if aside else ())
    assert set(REJECTED if aside else LOGS) <= names(tmp_path)
    assert not names(tmp_path) & set(LOGS if aside else REJECTED)
