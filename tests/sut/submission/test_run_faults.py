"""What a run's record and logs say against a submission, on a run that was made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sut.benchmark import V6_1
from sut.log_files import hash_files
from sut.results.submission.recorded_runs import Division, RecordedRun, RunKind
from sut.results.submission.run_faults import run_faults, times_of_test
from tests.sut.handmade_logs import SERVER, accuracy_line, write_logs
from tests.sut.test_deviations import SUBMISSION

PERFORMANCE, TEST09 = RunKind.PERFORMANCE, RunKind.TEST09
# LoadGen's test began 30 s after the program, at 01:00:30 UTC, and took 600 s.
VALUES: dict[str, object] = {
    **SUBMISSION,
    "result_validity": "VALID",
    "num_errors": 0,
    "effective_test_mode": "PerformanceOnly",
    "effective_scenario": "Server",
    "effective_qsl_rng_seed": V6_1.seeds.qsl,
    "effective_sample_index_rng_seed": V6_1.seeds.sample_index,
    "effective_schedule_rng_seed": V6_1.seeds.schedule,
    "test_datetime": "2026-12-01T01:00:30Z",
    "power_begin": "12-01-2026 01:00:30.000",
    "power_end": "12-01-2026 01:10:30.000",
    "result_first_token_99.00_percentile_latency_ns": 9,
    "result_time_per_output_token_99.00_percentile_ns": 9,
    "result_completed_tokens_per_second": 5000.5,
}
NO_ERRORS = "No warnings encountered during test.\n\nNo errors encountered during test.\n"


def record_of(**changed: object) -> dict[str, Any]:
    """Make the record of a VALID run on two workers, with changes."""
    workers = [
        {"address": f"a:{port}", "stream_infos": [{"engine_hash": "e"}], "hosts": [{"hostname": "a"}]}
        for port in (1, 2)
    ]
    record: dict[str, Any] = {
        "scenario": "server",
        "mode": "performance",
        "verdict": {"outcome": "VALID", "reason": "", "checks": [{"name": "clock", "passed": True}]},
        "summary": {"workers": workers},
        "round": "v6.1",
        "started_utc": "2026-12-01T01:00:00+00:00",
        "ready_s": 30.0,
        "wall_s": 600.0,
        "loadgen": {"result_completed_tokens_per_second": 5000.5, "result_validity": "INVALID"},
        "dataset": {"num_samples": 4},
    }
    return record | changed


class HandmadeRun:
    """A run's directory, in which a test changes something before it asks for the faults."""

    def __init__(self, directory: Path, kind: RunKind = PERFORMANCE) -> None:
        """Write a run without faults."""
        self.directory = directory
        self.kind = kind
        self.record = record_of(mode=str(kind))
        self.values = dict(VALUES)
        self.errors: list[str] = []
        self.entries: list[str] = []
        self.summary = NO_ERRORS

    def faults(
        self, division: Division = Division.CLOSED, change: Callable[[Path], object] | None = None
    ) -> list[str]:
        """Write the files and list the faults; `change` changes files whose hashes are recorded."""
        write_logs(self.directory, self.values, self.errors, self.entries)
        (self.directory / "mlperf_log_summary.txt").write_text(self.summary)
        self.record.setdefault("files_sha256", hash_files(self.directory))
        if change is not None:
            change(self.directory)
        run = RecordedRun(self.directory, SERVER, self.kind, self.record)
        found = run_faults(run, division)
        assert {run.name} >= {fault.where for fault in found}
        return [
            f"{'rule: ' if fault.is_rule else ''}{fault.reason}".replace(f"{self.directory}/", "")
            for fault in found
        ]


@pytest.fixture
def run(tmp_path: Path) -> HandmadeRun:
    """Make a performance run without faults."""
    return HandmadeRun(tmp_path)


def test_a_right_run_has_no_faults(run: HandmadeRun) -> None:
    """In no division but the network's, which needs its name."""
    assert [] == run.faults()
    assert [] == run.faults(Division.OPEN)


def verdict(outcome: str, *, passed: object = True, **more: object) -> dict[str, object]:
    """Make a verdict with two checks, of which the first one passed."""
    checks = [{"name": "clock", "passed": True}, {"name": "tokens", "passed": passed}]
    return {"verdict": {"outcome": outcome, "reason": "why", "checks": checks} | more}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"scenario": "offline"}, "run.json is of the run offline/performance"),
        ({"mode": "accuracy"}, "run.json is of the run server/accuracy"),
        (verdict("INVALID"), "the run is INVALID, not VALID: why"),
        (verdict("NOT_GRADED"), "the run is NOT_GRADED, not VALID: why"),
        ({"verdict": {}}, "the run is without a verdict, not VALID: "),
        (verdict("VALID", passed=False), "the verdict is VALID, but its check tokens did not pass"),
        (verdict("VALID", passed=1), "the verdict is VALID, but its check tokens did not pass"),
        # A verdict that is not accepted has its reason.
        (verdict("INVALID", passed=False), "the run is INVALID, not VALID: why"),
        ({"summary": {}}, "run.json does not have the engine hash of every worker"),
        (
            {"summary": {"workers": [{"stream_infos": [{"engine_hash": "e"}, {"engine_hash": ""}]}]}},
            "run.json does not have the engine hash of every worker",
        ),
        ({"round": ""}, "rule: LoadGen's seeds are those of no known round"),
        ({"round": "v5.0"}, "the detail log has other seeds than those of v5.0, the round of run.json"),
        (
            {"files_sha256": {}},
            "run.json has no SHA-256 of the logs: the run did not end, or is of an older tokenfleet",
        ),
        (
            {"loadgen": {"result_completed_tokens_per_second": 5000.4}},
            "the detail log has result_completed_tokens_per_second 5000.5, run.json has 5000.4",
        ),
    ],
)
def test_a_record_that_is_no_submissions_is_named(
    run: HandmadeRun, changed: dict[str, object], reason: str
) -> None:
    """One line each."""
    run.record |= changed
    assert [reason] == run.faults()


def test_deviations_count_but_in_the_open_division(run: HandmadeRun) -> None:
    """Each is a rule that a rehearsal need not meet."""
    run.record |= verdict("VALID", deviations=["one", "two"])
    assert ["rule: deviation: one", "rule: deviation: two"] == run.faults()
    assert [] == run.faults(Division.OPEN)


def test_memory_without_ecc_is_named_on_any_machine(run: HandmadeRun) -> None:
    """What a machine does not tell is no fault."""
    devices = [{"ecc": True}, {"ecc": None}, {}]
    other = {"hostname": "other", "accelerators": [*devices, {"ecc": False}]}
    host = {"hostname": "a", "accelerators": devices, "engine_hosts": [other]}
    run.record["summary"]["workers"][1]["hosts"] = [host]
    assert ["rule: ECC is off on other"] == run.faults()


def test_a_graded_run_may_wait_for_its_score(tmp_path: Path) -> None:
    """Its score is in accuracy.json, so NOT_GRADED is no fault of an accuracy run."""
    run = HandmadeRun(tmp_path, RunKind.ACCURACY)
    run.record |= verdict("NOT_GRADED")
    run.values["effective_test_mode"] = "AccuracyOnly"
    del run.values["num_errors"], run.values["result_validity"]
    run.entries = [accuracy_line(row, "01000000", 1) for row in range(4)]
    assert ["accuracy.json is missing: `tokenfleet accuracy` writes it"] == run.faults()
    run.record |= verdict("VALID")
    assert ["accuracy.json is missing: `tokenfleet accuracy` writes it"] == run.faults()


LOGS = ["mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json"]


@pytest.mark.parametrize("name", LOGS)
def test_each_log_must_be_there_under_its_name(run: HandmadeRun, name: str) -> None:
    """Without one of them no other fault of the logs is asked for."""
    run.values["result_validity"] = "INVALID"
    assert [f"{name} is missing"] == run.faults(change=lambda path: (path / name).unlink())
    reason = f"{name} is named as rejected: the run was not accepted"
    assert [reason] == run.faults(change=lambda path: (path / name).rename(path / f"rejected_{name}"))


@pytest.mark.parametrize("name", LOGS)
def test_each_log_must_be_that_of_the_run(run: HandmadeRun, name: str) -> None:
    """A changed space changes its SHA-256."""

    def add_line(path: Path) -> None:
        with (path / name).open("a") as log:
            log.write("\n")

    reason = f"{name} is not the file of the run: its SHA-256 differs from run.json"
    assert reason in run.faults(change=add_line)


def test_files_that_only_the_record_or_only_the_directory_has_are_named(run: HandmadeRun) -> None:
    """A conf that was removed, and one that was added."""
    (run.directory / "user.conf").write_text("*.*.min_duration = 1\n")
    assert [] == run.faults()
    differs = "is not the file of the run: its SHA-256 differs from run.json"
    assert [f"user.conf {differs}"] == run.faults(change=lambda path: (path / "user.conf").unlink())
    del run.record["files_sha256"]
    assert [f"audit.config {differs}"] == run.faults(change=lambda path: (path / "audit.config").touch())


def test_a_latency_at_its_limit_is_named(run: HandmadeRun) -> None:
    """As setting_faults names it."""
    key = "result_first_token_99.00_percentile_latency_ns"
    run.values[key] = 3 * 10**9
    assert [f"{key} is 3000000000, not below 3000000000 ns of server"] == run.faults()


def test_a_log_that_cannot_be_read_is_one_line(run: HandmadeRun) -> None:
    """Behind what the record says."""
    run.record["round"] = ""

    def damage(path: Path) -> None:
        (path / "mlperf_log_accuracy.json").write_text('[\n{"qsl_idx": "x"}\n]\n')

    first, second = run.faults(change=damage)
    assert "rule: LoadGen's seeds are those of no known round" == first
    assert second.startswith("a log of LoadGen cannot be read: ")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("effective_test_mode", "AccuracyOnly", "effective_test_mode AccuracyOnly, not PerformanceOnly"),
        ("effective_scenario", "Offline", "effective_scenario Offline, not Server"),
        ("num_errors", 1, "num_errors 1, and no error"),
        ("effective_qsl_rng_seed", 1, "other seeds than those of v6.1, the round of run.json"),
        (
            "result_completed_tokens_per_second",
            5e3,
            "result_completed_tokens_per_second 5000.0, run.json has 5000.5",
        ),
    ],
)
def test_a_setting_of_another_run_is_named(run: HandmadeRun, key: str, value: object, reason: str) -> None:
    """Of the detail log."""
    run.values[key] = value
    assert [f"the detail log has {reason}"] == run.faults()


def test_errors_and_an_invalid_result_are_named(run: HandmadeRun) -> None:
    """LoadGen's VALID does not depend on errors; the summary must say that there are none."""
    run.values["result_validity"] = "INVALID"
    assert ["LoadGen's result is INVALID, not VALID"] == run.faults()
    run.values["result_validity"] = "VALID"
    del run.record["files_sha256"]
    run.errors, run.summary = ["first", "second"], "2 ERRORS encountered. See detailed log.\n"
    run.values["num_errors"] = 2
    assert ["LoadGen logged 2 errors, first error_runtime: first"] == run.faults()
    del run.record["files_sha256"]
    run.values["num_errors"] = 0
    run.errors, run.summary = [], "1 ERROR encountered. See detailed log.\n"
    no_error = "does not say 'No errors encountered during test.', the detail log has no error"
    assert [f"mlperf_log_summary.txt {no_error}"] == run.faults()


BEGAN = "the run at 2026-12-01T01:00:30+00:00"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        # The two clocks may differ by 30 s.
        ("power_begin", "12-01-2026 01:01:00.000", None),
        ("power_begin", "12-01-2026 01:00:00.000", None),
        ("power_begin", "12-01-2026 01:01:00.001", f"began at 2026-12-01T01:01:00.001000+00:00, {BEGAN}"),
        ("power_begin", "12-01-2026 00:59:59.999", f"began at 2026-12-01T00:59:59.999000+00:00, {BEGAN}"),
        # LoadGen writes local time: every zone from -12 to +14 hours in quarters of an hour.
        ("test_datetime", "2026-12-01T15:00:30Z", None),
        ("test_datetime", "2026-11-30T13:00:30Z", None),
        ("test_datetime", "2026-12-01T06:45:59Z", None),
        ("test_datetime", "2026-12-01T15:15:30Z", f"began at 2026-12-01T15:15:30+00:00, {BEGAN}"),
        ("test_datetime", "2026-11-30T12:45:30Z", f"began at 2026-11-30T12:45:30+00:00, {BEGAN}"),
        ("test_datetime", "2026-12-01T06:46:01Z", f"began at 2026-12-01T06:46:01+00:00, {BEGAN}"),
        # The log may span 30 s more than the run's 600 s, and never less than nothing.
        ("power_end", "12-01-2026 01:11:00.000", None),
        ("power_end", "12-01-2026 01:00:30.000", None),
        ("power_end", "12-01-2026 01:11:00.100", "spans 630.1 s, the run lasted 600.0 s"),
        ("power_end", "12-01-2026 01:00:29.900", "spans -0.1 s, the run lasted 600.0 s"),
    ],
)
def test_the_log_is_of_the_time_of_the_run(
    run: HandmadeRun, key: str, value: str, reason: str | None
) -> None:
    """By run.json LoadGen's test began at 01:00:30 UTC."""
    run.values["power_end"] = "12-01-2026 01:10:00.000"
    run.values[key] = value
    assert ([] if reason is None else [f"the detail log {reason}"]) == run.faults()


@pytest.mark.parametrize("name", ["ready_s", "wall_s", "started_utc"])
def test_times_that_are_missing_are_named(run: HandmadeRun, name: str) -> None:
    """Of the record, and of the log."""
    del run.record[name]
    (line,) = run.faults()
    assert line.startswith("the times of run.json or of the detail log cannot be read: ")


def test_the_test_began_when_the_program_was_ready() -> None:
    """01:00:30 UTC on 1 December 2026, in seconds since 1970, and 600 s later."""
    found = times_of_test(RecordedRun(Path("run"), SERVER, PERFORMANCE, record_of()))
    # 20,788 days are 1,796,083,200 s.
    assert (1_796_083_200 + 3600 + 30, 1_796_083_200 + 3600 + 630) == found


@pytest.mark.parametrize(
    ("samples", "reasons"),
    [
        ([0, 1, 2, 3], []),
        ([0, 2, 3], ["the accuracy log lacks 1 of 4 samples"]),
        ([0, 1, 2, 3, 4], ["the accuracy log has sample 4, which the data set does not have"]),
        ([0, 1, 2, 3, -1], ["the accuracy log has sample -1, which the data set does not have"]),
        ([0, 1, 2, 3, 2], ["the accuracy log has sample 2 2 times"]),
        (
            [0, 1, 1, 7],
            [
                "the accuracy log lacks 2 of 4 samples",
                "the accuracy log has sample 7, which the data set does not have",
                "the accuracy log has sample 1 2 times",
            ],
        ),
        ([], ["the accuracy log lacks 4 of 4 samples"]),
    ],
)
def test_a_log_of_every_answer_has_each_sample_once(
    tmp_path: Path, samples: list[int], reasons: list[str]
) -> None:
    """In a compliance run; a performance run may log any."""
    entries = [accuracy_line(sample, "01000000", 1) for sample in samples]
    for kind in (TEST09, PERFORMANCE):
        (tmp_path / kind).mkdir()
        run = HandmadeRun(tmp_path / kind, kind)
        run.entries = entries
        found = [line for line in run.faults() if line.startswith("the accuracy log")]
        assert (reasons if kind is TEST09 else []) == found


def test_a_truncated_log_and_an_empty_data_set_are_named(tmp_path: Path) -> None:
    """A record without the number of samples proves no coverage."""
    run = HandmadeRun(tmp_path, TEST09)
    run.record["dataset"] = {}
    assert "the accuracy log lacks 0 of 0 samples" in run.faults()

    def cut(path: Path) -> None:
        (path / "mlperf_log_accuracy.json").write_text("[\n")

    assert "the accuracy log is truncated: its list is not closed" in run.faults(change=cut)
