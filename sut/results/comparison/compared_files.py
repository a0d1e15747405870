"""Reads what the files beside a run.json say of a compared run, and requires that they are of that run."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from common.bounded_file import read_bounded
from common.flags import FlagError
from common.json_document import as_list, as_number, entry, read_object
from sut.loadgen_conf import AUDIT_FLAG, MAX_CONF_BYTES, USER_FLAG, parse_conf
from sut.log_files import ACCURACY, ACCURACY_REPORT, AUDIT_CONFIG, MAX_REPORT_BYTES, USER_CONF
from sut.settings import Scenario

MAX_PERCENT = 100.0
_GRADING_CONDITIONS = ("reference_sha256", "tokenizer_sha256", "lcb_tests_sha256", "python_version")
_CONFS = {USER_CONF: USER_FLAG, AUDIT_CONFIG: AUDIT_FLAG}


def read_settings(directory: Path, record: Mapping[str, object], argument: str) -> dict[str, str]:
    """Return the settings of LoadGen that the confs of a run gave it, by file and key.

    A conf that is missing counts by the SHA-256 that run.json has of it.

    Args:
        directory: The run's.
        record: Its run.json, with a known scenario.
        argument: Names the runs in an error.

    Raises:
        FlagError: A conf cannot be read, or is not that of the run.
    """
    scenario = Scenario(str(record["scenario"]))
    found: dict[str, str] = {}
    for name, flag in _CONFS.items():
        path, recorded = directory / name, entry(record, "files_sha256", name)
        if path.exists():
            text = _read_own(path, recorded, argument)
            try:
                lines = parse_conf(flag, text).applied(scenario)
            except ValueError as error:
                raise FlagError(argument, str(error), path) from error
            found |= {f"{name}.{key}": line.value for key, line in lines.items()}
        elif isinstance(recorded, str):
            found[f"{name}, SHA-256"] = recorded
    return found


def _read_own(path: Path, recorded: object, argument: str) -> str:
    """Read a conf; run.json of an older version does not have its hash.

    Raises:
        FlagError: It cannot be read, or is not that of the run.
    """
    try:
        content = read_bounded(path, MAX_CONF_BYTES)
        text = content.decode("utf-8")
    except OSError as error:
        raise FlagError(argument, str(error.strerror or error), path) from error
    except UnicodeDecodeError as error:
        raise FlagError(argument, f"is not UTF-8 text: {error}", path) from error
    if recorded not in (None, hashlib.sha256(content).hexdigest()):
        raise FlagError(argument, "is not the file of the run: its SHA-256 differs from run.json", path)
    return text


class Grading(NamedTuple):
    """How the answers of a run were graded."""

    score_percent: float | None = None
    """None if they have no score."""
    conditions: Mapping[str, str] = MappingProxyType({})
    """What a score depends on beside the answers, by its place in accuracy.json."""


def read_grading(directory: Path, record: Mapping[str, object], argument: str) -> Grading:
    """Read the score of a run's answers.

    Raises:
        FlagError: accuracy.json cannot be read, is the score of another log, or has an impossible score.
    """
    path = directory / ACCURACY_REPORT
    if not path.exists():
        return Grading()
    report = read_object(path, argument, MAX_REPORT_BYTES)
    recorded = entry(record, "files_sha256", ACCURACY)
    if recorded not in (None, report.get("log_sha256")):
        raise FlagError(argument, "is the score of another accuracy log than that of the run", path)
    conditions = {name: str(report[name]) for name in _GRADING_CONDITIONS if name in report}
    conditions["num_ungraded"] = str(len(as_list(report.get("ungraded"))))
    return Grading(
        _score(path, report.get("score_percent"), argument),
        {f"{ACCURACY_REPORT}.{name}": value for name, value in conditions.items()},
    )


def _score(path: Path, score: object, argument: str) -> float | None:
    if score is None:
        return None
    percent = as_number(score)
    if percent is None or not 0 <= percent <= MAX_PERCENT:
        raise FlagError(argument, f"score_percent is {str(score)[:40]}, not 0 to {MAX_PERCENT:g}", path)
    return percent
