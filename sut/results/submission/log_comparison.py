"""Faults of detail logs against each other: lines that only some have, and another build of LoadGen."""

import contextlib
from collections.abc import Iterable, Mapping

from sut import log_files
from sut.results.logs import read_detail
from sut.results.submission.recorded_runs import Fault, RecordedRun, RunKind, Runs, all_runs

_Logs = Mapping[RecordedRun, Mapping[str, object]]
# LoadGen writes these in every run of a scenario, and the others in every run that measures performance.
_SETTINGS = ("loadgen_", "requested_", "effective_", "generated_", "qsl_", "sut_")
_RESULTS = ("result_", "early_stopping_")
_ONLY_IF_INVALID = "result_invalid_reason"
_BUILD = ("loadgen_version", "loadgen_file_sha1")


def log_comparison_faults(runs: Runs) -> list[Fault]:
    """Compare the detail logs of a submission; logs that cannot be read are named elsewhere."""
    found = []
    for by_kind in runs.values():
        logs = _read(by_kind.values())
        timed = {run: values for run, values in logs.items() if run.kind is not RunKind.ACCURACY}
        found += _missing_lines(logs, _SETTINGS) + _missing_lines(timed, _RESULTS)
    return found + _other_builds(_read(all_runs(runs)))


def _read(runs: Iterable[RecordedRun]) -> _Logs:
    logs = {}
    for run in runs:
        path = run.directory / log_files.DETAIL
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if path.is_file():
                logs[run] = read_detail(path).values
    return logs


def _missing_lines(logs: _Logs, prefixes: tuple[str, ...]) -> list[Fault]:
    every = dict.fromkeys(key for values in logs.values() for key in values if key.startswith(prefixes))
    every.pop(_ONLY_IF_INVALID, None)
    missing = {run: [key for key in every if key not in values] for run, values in logs.items()}
    return [
        Fault(run.name, f"the detail log lacks {len(keys)} lines that others have, first {keys[0]}")
        for run, keys in missing.items()
        if keys
    ]


def _other_builds(logs: _Logs) -> list[Fault]:
    found = []
    for key in _BUILD:
        known: dict[str, RecordedRun] = {}
        for run, values in logs.items():
            known.setdefault(str(values.get(key)), run)
        if len(known) > 1:
            pairs = ", ".join(f"{value[:40]} in {run.name}" for value, run in known.items())
            found.append(Fault("all runs", f"{key} of the detail logs differs: {pairs}"))
    return found
