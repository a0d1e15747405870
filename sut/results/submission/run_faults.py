"""Faults of one run: what its record, its logs and the files beside them say against a submission."""

import functools
from datetime import UTC, datetime

from common.bounded_file import read_bounded
from common.json_document import as_list, as_mapping, as_mappings, entry
from sut import log_files
from sut.benchmark import ROUNDS, Seeds
from sut.results.logs import AccuracyLog, DetailLog, read_accuracy, read_detail
from sut.results.submission.grading_faults import grading_faults
from sut.results.submission.recorded_runs import Division, Fault, RecordedRun, RunKind
from sut.results.submission.setting_faults import setting_faults
from sut.results.verdict import Outcome

# The record's start has whole seconds, and the system clock may be set between two readings.
MAX_CLOCK_DIFFERENCE_S = 30.0
_LOGS = (log_files.SUMMARY, log_files.DETAIL, log_files.ACCURACY)
# Time zones differ from UTC by quarters of an hour, from 12 hours behind it to 14 hours before it.
_ZONE_STEP_S, _MIN_ZONE_S, _MAX_ZONE_S = 900, -12 * 3600, 14 * 3600
_NO_ERRORS = "No errors encountered during test."
_POWER_TIME = "%m-%d-%Y %H:%M:%S.%f"


def run_faults(run: RecordedRun, division: Division) -> list[Fault]:
    """Check one run; if its logs cannot be read, the faults that are known without them."""
    fault = functools.partial(Fault, run.name)
    known = [*_record_faults(run, division), *_name_faults(run)]
    if not all((run.directory / name).is_file() for name in _LOGS):
        return known  # anything else, as a FIFO, is not opened
    try:
        detail = read_detail(run.directory / log_files.DETAIL)
        accuracy = read_accuracy(run.directory / log_files.ACCURACY)
        hashes = log_files.hash_files(run.directory)
        errors = _error_faults(run, detail)
    except OSError as error:
        return [*known, fault(f"{error.filename}: {error.strerror or error}")]
    except (ValueError, KeyError, TypeError) as error:
        return [*known, fault(f"a log of LoadGen cannot be read: {error!r}")]
    return [
        *known,
        *_hash_faults(run, hashes),
        *_swap_faults(run, detail),
        *errors,
        *_figure_faults(run, detail),
        *_clock_faults(run, detail),
        *_coverage_faults(run, accuracy),
        *setting_faults(run, detail, division),
        *grading_faults(run, accuracy, hashes[log_files.ACCURACY], division),
    ]


def _record_faults(run: RecordedRun, division: Division) -> list[Fault]:
    """Compare run.json with the directory's name, and require an accepted outcome without deviations."""
    fault = functools.partial(Fault, run.name)
    found = []
    if (run.text("scenario"), run.text("mode")) != (run.scenario, run.kind):
        found.append(fault(f"run.json is of the run {run.text('scenario')}/{run.text('mode')}"))
    outcome, reason = run.text("verdict", "outcome"), run.text("verdict", "reason")
    accepted = (Outcome.VALID, Outcome.NOT_GRADED) if run.kind.is_graded else (Outcome.VALID,)
    if outcome not in accepted:
        found.append(fault(f"the run is {outcome or 'without a verdict'}, not VALID: {reason}"))
    failed = [
        str(entry(check, "name"))
        for check in as_list(run.value("verdict", "checks"))
        if entry(check, "passed") is not True
    ]
    if outcome in accepted and failed:
        found.append(fault(f"the verdict is {outcome}, but its check {failed[0]} did not pass"))
    if not run.engine_infos or not all(info.get("engine_hash") for info in run.engine_infos):
        found.append(fault("run.json does not have the engine hash of every worker"))
    if not run.text("round"):
        found.append(fault("LoadGen's seeds are those of no known round", is_rule=True))
    found += [fault(text, is_rule=True) for text in _ecc_faults(run)]
    # The open division may differ in model, data type and sampling.
    if division is not Division.OPEN:
        found += [fault(f"deviation: {text}", is_rule=True) for text in run.texts("verdict", "deviations")]
    return found


def _ecc_faults(run: RecordedRun) -> list[str]:
    """Name the machines whose accelerators do not correct errors in their memory.

    Source: inference_rules.adoc, ECC: it must be enabled for all performance and accuracy runs.
    """
    return [
        f"ECC is off on {host.get('hostname')}"
        for host in run.worker_hosts
        if any(device.get("ecc") is False for device in as_mappings(host.get("accelerators")))
    ]


def _name_faults(run: RecordedRun) -> list[Fault]:
    """Require LoadGen's logs under the names that the verdict gives them."""
    found = []
    for name in _LOGS:
        if (run.directory / name).is_file():
            continue
        rejected = (run.directory / f"{log_files.REJECTED_PREFIX}{name}").exists()
        reason = "is named as rejected: the run was not accepted" if rejected else "is missing"
        found.append(Fault(run.name, f"{run.directory / name} {reason}"))
    return found


def _hash_faults(run: RecordedRun, hashes: dict[str, str]) -> list[Fault]:
    """Compare logs and confs with what the run has recorded of them."""
    fault = functools.partial(Fault, run.name)
    recorded = as_mapping(run.value("files_sha256"))
    if not recorded:
        return [
            fault("run.json has no SHA-256 of the logs: the run did not end, or is of an older tokenfleet")
        ]
    names = dict.fromkeys([*recorded, *hashes])
    return [
        fault(f"{run.directory / name} is not the file of the run: its SHA-256 differs from run.json")
        for name in names
        if hashes.get(name) != recorded.get(name)
    ]


def _swap_faults(run: RecordedRun, detail: DetailLog) -> list[Fault]:
    """Compare the scenario and the mode of the log with the directory's name."""
    fault = functools.partial(Fault, run.name)
    mode = "AccuracyOnly" if run.kind is RunKind.ACCURACY else "PerformanceOnly"
    expected = {"effective_test_mode": mode, "effective_scenario": run.scenario.loadgen_name}
    return [
        fault(f"the detail log has {key} {detail.values.get(key)}, not {value}")
        for key, value in expected.items()
        if detail.values.get(key) != value
    ]


def _error_faults(run: RecordedRun, detail: DetailLog) -> list[Fault]:
    """Require LoadGen's VALID and no error lines; the official checker accepts both in performance logs."""
    fault = functools.partial(Fault, run.name)
    errors = detail.errors
    found = [fault(f"LoadGen logged {len(errors)} errors, first {errors[0]}")] if errors else []
    if not errors and not _has_no_errors(run):
        found.append(fault(f"{log_files.SUMMARY} does not say {_NO_ERRORS!r}, the detail log has no error"))
    if run.kind is RunKind.ACCURACY:
        return found
    num_errors, validity = detail.values.get("num_errors"), detail.values.get("result_validity")
    if not errors and num_errors != 0:
        found.append(fault(f"the detail log has num_errors {num_errors}, and no error"))
    if validity != "VALID":
        found.append(fault(f"LoadGen's result is {validity}, not VALID"))
    return found


def _has_no_errors(run: RecordedRun) -> bool:
    return _NO_ERRORS in read_bounded(run.directory / log_files.SUMMARY).decode(errors="replace").splitlines()


def _figure_faults(run: RecordedRun, detail: DetailLog) -> list[Fault]:
    """Compare LoadGen's figures and seeds with those that run.json has from the log."""
    found = [
        f"{key} {detail.values.get(key)}, run.json has {value}"
        for key, value in as_mapping(run.value("loadgen")).items()
        if key != "result_validity" and detail.values.get(key) != value
    ]
    logged = [detail.values.get(f"effective_{name}_rng_seed") for name in Seeds._fields]
    rounds = [entry.name for entry in ROUNDS if list(entry.seeds) == logged]
    if run.text("round") and run.text("round") not in rounds:
        found.append(f"other seeds than those of {run.text('round')}, the round of run.json")
    return [Fault(run.name, f"the detail log has {text}") for text in found]


def _clock_faults(run: RecordedRun, detail: DetailLog) -> list[Fault]:
    """Compare LoadGen's times with those of the record, which another clock of the program measured."""
    fault = functools.partial(Fault, run.name)
    try:
        times = times_of_test(run)
        began = datetime.fromtimestamp(times[0], UTC).isoformat(timespec="seconds")
        stamp = datetime.fromisoformat(str(detail.values.get("test_datetime")))
        begin, end = (
            datetime.strptime(str(detail.values.get(key)), _POWER_TIME).replace(tzinfo=UTC)
            for key in ("power_begin", "power_end")
        )
        local_s = _zone_s(stamp.timestamp() - times[0])
        far = [
            time
            for time, zone_s in ((stamp, local_s), (begin, 0))
            if abs(time.timestamp() - zone_s - times[0]) > MAX_CLOCK_DIFFERENCE_S
        ]
    except (ValueError, OverflowError) as error:
        return [fault(f"the times of run.json or of the detail log cannot be read: {error}")]
    found = []
    if far:
        found.append(fault(f"the detail log began at {far[0].isoformat()}, the run at {began}"))
    logged_s, wall_s = (end - begin).total_seconds(), times[1] - times[0]
    if not 0 <= logged_s <= wall_s + MAX_CLOCK_DIFFERENCE_S:
        found.append(fault(f"the detail log spans {logged_s:.1f} s, the run lasted {wall_s:.1f} s"))
    return found


def _zone_s(difference_s: float) -> int:
    """Return the time zone's offset from UTC that is nearest to a difference, 0 if there is no such zone.

    LoadGen writes test_datetime in local time, with UTC's letter behind it (loadgen/utils.cc,
    CurrentDateTimeISO8601). power_begin and power_end are in UTC.
    """
    zone_s = round(difference_s / _ZONE_STEP_S) * _ZONE_STEP_S
    return zone_s if _MIN_ZONE_S <= zone_s <= _MAX_ZONE_S else 0


def times_of_test(run: RecordedRun) -> tuple[float, float]:
    """Return begin and end of LoadGen's test by run.json, in seconds since 1970.

    Raises:
        ValueError: The record does not have them.
    """
    ready_s, wall_s = run.number("ready_s"), run.number("wall_s")
    if ready_s is None or wall_s is None:
        raise ValueError("run.json has no ready_s or no wall_s")
    begin_s = datetime.fromisoformat(run.text("started_utc")).timestamp() + ready_s
    return begin_s, begin_s + wall_s


def _coverage_faults(run: RecordedRun, accuracy: AccuracyLog) -> list[Fault]:
    """Require each sample of the data set once in a log that holds every answer."""
    if run.kind is RunKind.PERFORMANCE:
        return []
    fault = functools.partial(Fault, run.name)
    expected = run.num_answers
    found = [] if accuracy.is_whole else [fault("the accuracy log is truncated: its list is not closed")]
    missing = expected - sum(1 for sample in accuracy.entries if 0 <= sample < expected)
    foreign = [sample for sample in accuracy.entries if not 0 <= sample < expected]
    doubled = [sample for sample, count in accuracy.entries.items() if count > 1]
    if missing or not expected:
        found.append(fault(f"the accuracy log lacks {missing} of {expected} samples"))
    if foreign:
        found.append(fault(f"the accuracy log has sample {foreign[0]}, which the data set does not have"))
    if doubled:
        found.append(fault(f"the accuracy log has sample {doubled[0]} {accuracy.entries[doubled[0]]} times"))
    return found
