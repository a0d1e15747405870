"""The verdict: logs written by hand, in which each check fails when it should and no other check does."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sut.results.logs import DetailLog, read_accuracy, read_detail
from sut.results.verdict import Check, Counts, Outcome, Verdict, exit_code, headline, judge
from sut.settings import Mode, Scenario

OFFLINE, SERVER, INTERACTIVE = Scenario.OFFLINE, Scenario.SERVER, Scenario.INTERACTIVE
PERFORMANCE, ACCURACY = Mode.PERFORMANCE, Mode.ACCURACY
# Three answers: 18 19 200002, 21 200002 and 200002, as LoadGen writes them.
ANSWERS = ["1200000013000000420D0300", "15000000420D0300", "420D0300"]
# What the coordinator counted over the three: 6 tokens, one answer of a single token.
COUNTS = {
    "num_issued": 3,
    "num_done": 3,
    "num_distinct": 3,
    "num_short": 1,
    "received_tokens": 6,
    "reported_tokens": 6,
    "produced_tokens": 6,
}
GOOD = {"result_validity": "VALID", "result_invalid_reason": "", "effective_performance_sample_count": 6396}


def detail_line(key: str, value: object, is_error: bool = False) -> str:
    """Write one line of mlperf_log_detail.txt."""
    metadata = {
        "is_error": is_error,
        "is_warning": False,
        "file": "logging.cc",
        "line_no": 1,
        "pid": 2,
        "tid": 3,
    }
    entry = {"key": key, "value": value, "time_ms": 0.5, "namespace": "mlperf::logging", "metadata": metadata}
    return f":::MLLOG {json.dumps(entry)}\n"


def accuracy_line(sample: int, data: str, token_count: int) -> str:
    """Write one entry of mlperf_log_accuracy.json, spaces as LoadGen has them."""
    return f'{{ "seq_id" : 0, "qsl_idx" : {sample}, "data" : "{data}", "token_count" : {token_count} }}'


def entries(*samples: int) -> list[str]:
    """Write an entry for each of the samples, with its own answer."""
    return [accuracy_line(sample, ANSWERS[sample % 3], 3 - sample % 3) for sample in samples]


def write_logs(directory: Path, values: dict[str, object], errors: list[str], accuracy: list[str]) -> None:
    """Write the two logs that a verdict reads."""
    lines = [detail_line(key, value) for key, value in values.items()]
    lines += [detail_line("error_runtime", text, is_error=True) for text in errors]
    (directory / "mlperf_log_detail.txt").write_text("".join(lines))
    body = ",\n".join(accuracy) + "\n" if accuracy else ""
    (directory / "mlperf_log_accuracy.json").write_text(f"[\n{body}]\n")


def verdict_of(
    directory: Path,
    mode: Mode,
    *,
    values: dict[str, object] | None = None,
    errors: list[str] | None = None,
    accuracy: list[str] | None = None,
    counts: dict[str, int] | None = None,
) -> Verdict:
    """Judge a good run over three samples in which something was changed."""
    logged = (entries(1, 0, 2) if mode is ACCURACY else []) if accuracy is None else accuracy
    write_logs(directory, GOOD | (values or {}), errors or [], logged)
    return judge(directory, OFFLINE, mode, 3, Counts(**(COUNTS | (counts or {}))))[0]


@pytest.mark.parametrize("mode", [PERFORMANCE, ACCURACY])
def test_a_good_run_is_valid(tmp_path: Path, mode: Mode) -> None:
    """Good logs and equal counts pass every check; a short answer is told and fails nothing."""
    verdict = verdict_of(tmp_path, mode)
    assert (verdict.outcome, verdict.reason) == (Outcome.VALID, "")
    assert [check for check in verdict.checks if not check.passed] == []
    names = [check.name for check in verdict.checks]
    assert ("loadgen_result" in names) == (mode is PERFORMANCE)
    assert {"loadgen_errors", "completion", "tokens", "accuracy_log", "coverage", "short_answers"} <= set(
        names
    )
    assert Check("short_answers", True, "1 answers of 0 or 1 tokens") in verdict.checks


def told(num_tokens: int) -> dict[str, int]:
    """Count tokens alike at the engines, the coordinator and LoadGen's calls."""
    return dict.fromkeys(("received_tokens", "reported_tokens", "produced_tokens"), num_tokens)


FAILURES: dict[str, tuple[Mode, dict[str, Any], str, str]] = {
    "invalid by LoadGen": (
        PERFORMANCE,
        {"values": {"result_validity": "INVALID"}},
        "loadgen_result",
        "INVALID",
    ),
    "reason of LoadGen": (
        PERFORMANCE,
        {"values": {"result_validity": "INVALID", "result_invalid_reason": "Min duration"}},
        "loadgen_result",
        "INVALID (Min duration)",
    ),
    "no result": (PERFORMANCE, {"values": {"result_validity": None}}, "loadgen_result", "None"),
    "error, performance": (PERFORMANCE, {"errors": ["n_tokens 0"]}, "loadgen_errors", "1 errors"),
    "errors, accuracy": (ACCURACY, {"errors": ["first", "second"]}, "loadgen_errors", "2 errors"),
    "first error is named": (
        ACCURACY,
        {"errors": ["first", "second"]},
        "loadgen_errors",
        "error_runtime: first",
    ),
    "lost request": (PERFORMANCE, {"counts": {"num_done": 2}}, "completion", "3 issued, 2 complete"),
    "double completion": (ACCURACY, {"counts": {"num_done": 4}}, "completion", "3 issued, 4 complete"),
    "engine produced more": (
        PERFORMANCE,
        {"counts": {"produced_tokens": 7}},
        "tokens",
        "produced 7, received 6",
    ),
    "engine produced less": (
        ACCURACY,
        {"counts": {"produced_tokens": 5}},
        "tokens",
        "produced 5, received 6",
    ),
    "received more": (PERFORMANCE, {"counts": {"received_tokens": 7}}, "tokens", "received 7, reported 6"),
    "reported less": (PERFORMANCE, {"counts": {"reported_tokens": 5}}, "tokens", "received 6, reported 5"),
    "sample never issued": (PERFORMANCE, {"counts": {"num_distinct": 2}}, "coverage", "2 of 3 samples"),
    "sample missing": (
        ACCURACY,
        {"accuracy": entries(0, 2), "counts": told(4)},
        "coverage",
        "2 of 3 samples exactly once, 0 other",
    ),
    "sample twice": (
        ACCURACY,
        {"accuracy": entries(0, 1, 2, 1), "counts": told(8)},
        "coverage",
        "2 of 3 samples exactly once, 2 other",
    ),
    "sample instead of another": (
        ACCURACY,
        {"accuracy": entries(0, 1, 1), "counts": told(7)},
        "coverage",
        "1 of 3 samples exactly once, 2 other",
    ),
    "sample out of range": (
        ACCURACY,
        {"accuracy": entries(0, 1, 2, 3), "counts": told(9)},
        "coverage",
        "3 of 3 samples exactly once, 1 other",
    ),
    "empty accuracy log": (ACCURACY, {"accuracy": [], "counts": told(0)}, "coverage", "0 of 3 samples"),
    "bytes of another count": (
        ACCURACY,
        {"accuracy": [*entries(0, 1), accuracy_line(2, ANSWERS[2], 2)], "counts": told(7)},
        "accuracy_log",
        "3 entries, 7 tokens, 24 bytes",
    ),
    "tokens that LoadGen has not logged": (ACCURACY, {"counts": told(7)}, "accuracy_log", "6 tokens"),
    "bytes of another count in an audit": (
        PERFORMANCE,
        {"accuracy": [*entries(0, 1), accuracy_line(2, "", 1)]},
        "accuracy_log",
        "3 entries, 6 tokens, 20 bytes",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_wrong_fails_its_check_and_no_other(tmp_path: Path, name: str) -> None:
    """One fault makes the run INVALID, fails one check, and the reason names the check and what it saw."""
    mode, changed, failing, seen = FAILURES[name]
    verdict = verdict_of(tmp_path, mode, **changed)
    assert [failing] == [check.name for check in verdict.checks if not check.passed]
    assert verdict.outcome is Outcome.INVALID
    assert verdict.reason.startswith(f"{failing}: ")
    assert seen in verdict.reason


def test_every_fault_is_in_the_reason(tmp_path: Path) -> None:
    """Several faults are all named in one reason, in the order of the checks."""
    verdict = verdict_of(
        tmp_path, PERFORMANCE, errors=["bad"], counts={"num_done": 2, "num_distinct": 2, "produced_tokens": 9}
    )
    assert [part.split(":")[0] for part in verdict.reason.split("; ")] == [
        *("loadgen_errors", "completion", "tokens", "coverage")
    ]


def test_coverage_follows_the_smaller_of_data_set_and_loaded_samples(tmp_path: Path) -> None:
    """A performance run touches each sample that LoadGen loaded, an accuracy run the first 4,395 at most."""
    values: dict[str, object] = {"effective_performance_sample_count": 3}
    assert verdict_of(tmp_path, PERFORMANCE, values=values).outcome is Outcome.VALID
    values = {"effective_performance_sample_count": 2}
    verdict = verdict_of(tmp_path, PERFORMANCE, values=values, counts={"num_distinct": 2})
    assert verdict.outcome is Outcome.VALID
    write_logs(tmp_path, GOOD, [], entries(*range(4395)))
    # 1,465 answers each of 3, 2 and 1 tokens.
    requests = dict.fromkeys(("num_issued", "num_done", "num_distinct"), 4395)
    counts = Counts(**(COUNTS | requests | told(8790)))
    assert judge(tmp_path, OFFLINE, ACCURACY, 6396, counts)[0].outcome is Outcome.VALID


def test_a_deviation_makes_no_run_invalid(tmp_path: Path) -> None:
    """A smoke run over 3 samples is VALID and lists its deviations."""
    verdict = verdict_of(tmp_path, PERFORMANCE, values={"effective_performance_sample_count": 3})
    assert verdict.outcome is Outcome.VALID
    assert "effective_performance_sample_count is 3, not 6396" in verdict.deviations


def test_the_detail_log_is_read_line_by_line(tmp_path: Path) -> None:
    """The last value of a key counts, errors keep their order, and lines without the mark are passed over."""
    path = tmp_path / "mlperf_log_detail.txt"
    lines = [
        detail_line("a", 1),
        "some text\n",
        detail_line("e", "x", is_error=True),
        detail_line("a", [2]),
        "\n",
        detail_line("e", "y", is_error=True),
    ]
    path.write_text("".join(lines))
    assert read_detail(path) == DetailLog({"a": [2], "e": "y"}, ["e: x", "e: y"])
    path.write_text(":::MLLOG {torn")
    with pytest.raises(ValueError):
        read_detail(path)


def test_the_accuracy_log_is_counted(tmp_path: Path) -> None:
    """Entries per sample, tokens and bytes are counted; an empty log is no entry, a torn one an error."""
    path = tmp_path / "mlperf_log_accuracy.json"
    path.write_text("[\n" + ",\n".join(entries(0, 1, 0)) + "\n]\n")
    # 3 + 2 + 3 tokens of 4 bytes.
    assert read_accuracy(path) == (Counter({0: 2, 1: 1}), 8, 32)
    path.write_text("[\n]\n")
    assert read_accuracy(path) == (Counter(), 0, 0)
    path.write_text("[\n" + entries(0)[0][:-9])
    with pytest.raises(ValueError):
        read_accuracy(path)


def test_exit_codes_are_those_of_the_readme() -> None:
    """VALID is 0, FAILED 1, INVALID 3."""
    assert [exit_code(o) for o in (Outcome.VALID, Outcome.FAILED, Outcome.INVALID)] == [0, 1, 3]


def test_the_headline_is_loadgens() -> None:
    """Offline shows its tokens per second, Server its completed ones; what LoadGen left out is left out."""
    values: dict[str, object] = {
        "result_validity": "VALID",
        "result_tokens_per_second": 10.5,
        "result_completed_tokens_per_second": 9.5,
        "other": 1,
    }
    expected = {"result_validity": "VALID", "result_tokens_per_second": 10.5}
    assert headline(OFFLINE, DetailLog(values, [])) == expected
    for scenario in (SERVER, INTERACTIVE):
        expected = {"result_validity": "VALID", "result_completed_tokens_per_second": 9.5}
        assert headline(scenario, DetailLog(values, [])) == expected
