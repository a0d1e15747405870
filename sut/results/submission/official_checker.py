"""Run the official submission checker from the user's clone of mlcommons/inference."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from common.flags import FlagError
from common.text import printable
from sut.benchmark import ROUNDS

CHECKER_FLAG = "--official-checker"
_CHECKER_TIMEOUT_S = 600.0
_MAX_LINES = 2000
_MAX_LINE_LEN = 1000
# The checker marks its lines of progress so; every other line is shown.
_PROGRESS = " INFO] "
_SUMMARY = "SUMMARY:"


class CheckerResult(NamedTuple):
    """What the checker said."""

    name: str
    code: int
    lines: tuple[str, ...]
    """Its lines without those of progress."""


def check_clone(clone: Path) -> None:
    """Require a clone of mlcommons/inference.

    Raises:
        FlagError: It has no submission checker.
    """
    if not (_tools(clone) / "submission_checker" / "main.py").is_file():
        reason = "has no tools/submission/submission_checker/main.py; give a clone of mlcommons/inference"
        raise FlagError(CHECKER_FLAG, reason, clone)


def run_checker(clone: Path, tree: Path, submitter: str) -> list[CheckerResult]:
    """Run the checker without and with --submission-exceptions.

    LoadGen's errors in a performance log are looked at with this flag only.

    Raises:
        FlagError: The checker does not end in time or cannot be started.
    """
    return [_run(clone, tree, submitter, flags) for flags in ([], ["--submission-exceptions"])]


def _run(clone: Path, tree: Path, submitter: str, flags: list[str]) -> CheckerResult:
    command = [sys.executable, "-m", "submission_checker.main", "--input", str(tree.absolute())]
    command += ["--version", ROUNDS[0].checker_version, "--submitter", submitter]
    environment = os.environ | {"PYTHONPATH": str(_tools(clone).absolute()), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONSAFEPATH", None)
    # The checker writes its table of results, and nothing into the tree.
    with tempfile.TemporaryDirectory() as directory:
        try:
            done = subprocess.run(
                [*command, "--csv", str(Path(directory) / "results.csv"), *flags],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_CHECKER_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise FlagError(CHECKER_FLAG, str(error), clone) from error
    lines = done.stdout.decode(errors="replace").splitlines()
    shown = [line for line in lines if line and (_PROGRESS not in line or _SUMMARY in line)]
    name = " ".join(["submission_checker", *flags])
    return CheckerResult(
        name, done.returncode, tuple(printable(line, _MAX_LINE_LEN) for line in shown[-_MAX_LINES:])
    )


def _tools(clone: Path) -> Path:
    return clone / "tools" / "submission"
