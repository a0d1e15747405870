"""Files in a run's directory; LoadGen's logs are named as rejected until the verdict accepts them.

The submission checker reads `mlperf_log_*`, whatever the verdict is. LoadGen therefore writes
`rejected_mlperf_log_*`, so that a process that is killed at any time leaves no log under an accepted name.
"""

import hashlib
import os
from pathlib import Path

from common.bounded_file import read_bounded
from common.json_document import parse_object

RECORD = "run.json"
MAX_RECORD_BYTES = 1 << 28
"""A larger run.json is not read; each loss, continuation and overdue query is an entry of it."""
REQUESTS = "requests.parquet"
TIMELINE = "timeline.parquet"
SUMMARY = "mlperf_log_summary.txt"
DETAIL = "mlperf_log_detail.txt"
ACCURACY = "mlperf_log_accuracy.json"
TRACE = "mlperf_log_trace.json"
"""Empty without --loadgen-trace."""
NAMES = (SUMMARY, DETAIL, ACCURACY, TRACE)
"""Names that the submission checker and the scripts of accuracy and compliance read, and the trace."""
USER_CONF = "user.conf"
AUDIT_CONFIG = "audit.config"
"""Absent in a run without --audit-config and --compliance."""
ACCURACY_TEXT = "accuracy.txt"
ACCURACY_REPORT = "accuracy.json"
GRADING_LOG = "grading.jsonl"
COMPLIANCE_REPORT = "compliance.json"
MAX_REPORT_BYTES = 1 << 26
"""A larger report of scoring or of a compliance test is not read; each misread answer is an entry of it."""
REPORT = "report.html"
"""Page of the run, which `tokenfleet report` writes too."""
VERIFIED_ACCURACY = "verify_accuracy.txt"
VERIFIED_LENGTH = "verify_output_len.txt"
EVALUATION_NAMES = (
    *(ACCURACY_TEXT, ACCURACY_REPORT, GRADING_LOG),
    *(COMPLIANCE_REPORT, VERIFIED_ACCURACY, VERIFIED_LENGTH),
)
"""Files that scoring and compliance tests write beside the logs after a run."""
REJECTED_PREFIX = "rejected_"
LOADGEN_PREFIX = f"{REJECTED_PREFIX}mlperf_log_"
"""Prefix with which LoadGen creates its files."""


def read_record(run_dir: Path) -> dict[str, object]:
    """Read a run's run.json.

    Raises:
        OSError: It cannot be read; `strerror` is the reason.
        ValueError: It holds no JSON object; the message continues one that begins with the file's name.
    """
    return parse_object(read_bounded(run_dir / RECORD, MAX_RECORD_BYTES))


def find_log(log_dir: Path, name: str) -> Path:
    """Return the path of a log under its accepted name if it has it, else under its rejected name."""
    accepted = log_dir / name
    return accepted if accepted.exists() else log_dir / f"{REJECTED_PREFIX}{name}"


def hash_files(run_dir: Path) -> dict[str, str]:
    """Compute the SHA-256 in hex of a complete run's logs and confs, by their accepted names.

    Raises:
        OSError: A file cannot be read.
    """
    paths = {name: find_log(run_dir, name) for name in (SUMMARY, DETAIL, ACCURACY)}
    paths |= {name: run_dir / name for name in (USER_CONF, AUDIT_CONFIG)}
    return {name: file_sha256(path) for name, path in paths.items() if path.is_file()}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def accept(log_dir: Path) -> None:
    """Give LoadGen's logs the names that a submission checker reads.

    Raises:
        OSError: A log cannot be renamed.
    """
    for name in NAMES:
        _rename(log_dir / f"{REJECTED_PREFIX}{name}", log_dir / name)


def reject(log_dir: Path) -> None:
    """Give accepted logs their rejected names again: the run failed while they were being accepted.

    Raises:
        OSError: A log cannot be renamed.
    """
    for name in NAMES:
        _rename(log_dir / name, log_dir / f"{REJECTED_PREFIX}{name}")


def _rename(path: Path, new_path: Path) -> None:
    if path.exists():
        os.replace(path, new_path)
