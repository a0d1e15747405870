"""One accuracy run of the harness over the workers, in a process of its own; its answers are read back."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from common.child_process import child_command, child_environment
from common.flags import FlagError
from common.json_document import as_text, entry
from common.text import printable
from sut.log_files import ACCURACY, RECORD, find_log, read_record
from sut.results.accuracy.log_entries import AnswerLog, LogError
from sut.results.verdict import COMPLETE_CODES
from sut.synthetic_files import write_table
from tokenfleet.child import ChildProcess
from tokenfleet.log_tail import last_line

OUTPUT_FLAG = "--output-dir"
POLL_S = 0.1
MAX_LINE_LEN = 400


class HarnessRun(NamedTuple):
    """A run that has ended."""

    run_dir: Path
    failure: str
    """Why it is not accepted, in one line; empty if it is."""
    is_complete: bool
    """Whether every prompt has its answer."""

    @property
    def log(self) -> Path:
        """LoadGen's accuracy log."""
        return find_log(self.run_dir, ACCURACY)


def run_harness(directory: Path, data: Path, argv: Sequence[str]) -> HarnessRun:
    """Answer every prompt of a data set once, offline.

    Args:
        directory: Output directory of the run; also holds its log.
        data: The data set.
        argv: The coordinator's other flags: workers, credentials, sampling.

    Raises:
        Interrupted: A signal arrived; the run was interrupted, too.
    """
    own = ["--scenario", "offline", "--accuracy", f"--input-file={data}", f"{OUTPUT_FLAG}={directory}"]
    directory.mkdir()
    log = directory / "run.log"
    with log.open("wb") as output:
        command = child_command("coordinator", [*own, *argv])
        with ChildProcess(command, child_environment(os.environ), output) as child:
            while (code := child.poll()) is None:
                time.sleep(POLL_S)
    run_dir = directory / "offline" / "accuracy"
    return HarnessRun(run_dir, _failure(code, run_dir, log), code in COMPLETE_CODES)


def _failure(code: int, run_dir: Path, log: Path) -> str:
    if code == 0:
        return ""
    reason = _recorded_reason(run_dir) or last_line(log)
    cause = "is INVALID" if code in COMPLETE_CODES else f"ended with {_ending(code)}"
    return printable(f"the run {cause}: {reason} ({log})", MAX_LINE_LEN)


def _recorded_reason(run_dir: Path) -> str:
    """Return the reason in run.json; empty if the run has written none."""
    if not (run_dir / RECORD).exists():
        return ""
    return as_text(entry(read_record(run_dir), "verdict", "reason"))


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def read_answers(run: HarnessRun, num_prompts: int) -> list[list[int]]:
    """Return the answers by sample index.

    Raises:
        LogError: The log cannot be read, or has not one answer for each prompt.
    """
    answers: dict[int, list[int]] = {}
    for answer in AnswerLog(run.log):
        answers[answer.sample_index] = answer.token_ids.tolist()
    if sorted(answers) != list(range(num_prompts)):
        raise LogError(f"{run.log} has not one answer for each of {num_prompts} prompts")
    return [answers[index] for index in range(num_prompts)]


def write_prompts(
    path: Path, prompts: Sequence[Sequence[int]], columns: Mapping[str, Sequence[object]]
) -> None:
    """Write a data set as parquet.

    Args:
        path: The file.
        prompts: Token ids.
        columns: Further columns by name.

    Raises:
        FlagError: The file cannot be written.
    """
    token_ids = pa.array([list(prompt) for prompt in prompts], pa.list_(pa.int32()))
    table = pa.table({"tok_input": token_ids} | {name: pa.array(values) for name, values in columns.items()})
    try:
        write_table(path, table)
    except OSError as error:
        raise FlagError(OUTPUT_FLAG, f"cannot write {path}: {error.strerror}") from error
