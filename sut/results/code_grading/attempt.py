"""Run one program once against the tests of its question."""

import json
import math
import resource
from typing import NamedTuple

from common.text import printable
from sut.results.code_grading.output_comparison import (
    UnreadableResultError,
    max_encoded_len,
    printed_matches,
    returned_matches,
)
from sut.results.code_grading.program import ProgramLimits, ProgramOutcome
from sut.results.code_grading.program_runner import FAILED, LIMITED, LOADED, OUTPUT, READY, VALUE
from sut.results.code_grading.questions import Question, QuestionTest
from sut.results.code_grading.runner_connection import (
    Frame,
    FrameTooLongError,
    RunnerConnection,
    RunnerEndedError,
)
from sut.results.code_grading.sandbox import Sandbox

_START_TIMEOUT_S = 60.0
_MAX_REASON_BYTES = 200
# The official evaluator gives a program this much over the time of its tests before it kills it.
_EXTRA_PER_TEST_S, _EXTRA_S = 1.0, 5.0
_CPU_EXTRA_S = 60
_KILLED = "it was killed from outside: by the kernel, for memory or CPU time, or by a person"


class Ending(NamedTuple):
    """How an attempt ended."""

    outcome: ProgramOutcome
    reason: str


class SandboxError(Exception):
    """The sandbox did not start; the message is one line."""


def _failed(reason: str) -> Ending:
    return Ending(ProgramOutcome.FAILED, reason)


def _ungraded(reason: str) -> Ending:
    return Ending(ProgramOutcome.UNGRADED, reason)


def run_program(sandbox: Sandbox, source: str, question: Question, limits: ProgramLimits) -> Ending:
    """Run a program against tests, up to the first that it does not pass.

    Raises:
        SandboxError: The sandbox did not start.
    """
    with sandbox.start() as runner:
        _wait_until_ready(runner)
        ending = _ending(runner, sandbox, source, question, limits)
        if ending.outcome is ProgramOutcome.FAILED and runner.was_stopped:
            return _ungraded("the grader was stopped while the program ran, which may have used up its time")
        return ending


def _wait_until_ready(runner: RunnerConnection) -> None:
    runner.set_deadline(_START_TIMEOUT_S)
    try:
        frame = runner.receive(0)
    except (TimeoutError, RunnerEndedError, FrameTooLongError) as error:
        raise SandboxError(f"the sandbox did not start: {runner.start_error()}") from error
    if frame.kind != READY:
        raise SandboxError("the sandbox did not start: its first message cannot be read")


def _ending(
    runner: RunnerConnection, sandbox: Sandbox, source: str, question: Question, limits: ProgramLimits
) -> Ending:
    total_s = (limits.test_timeout_s + _EXTRA_PER_TEST_S) * len(question.tests) + _EXTRA_S
    runner.set_deadline(total_s)
    try:
        runner.send(_setup(sandbox, source, question, limits, total_s))
        return _Judge(runner, question, limits).ending()
    except TimeoutError:
        return _failed("it did not answer in the time of its tests")
    except RunnerEndedError:
        return _ungraded(_KILLED) if runner.was_killed() else _failed("its process ended")
    except (UnreadableResultError, FrameTooLongError):
        return _ungraded("the runner's messages cannot be read")


def _setup(sandbox: Sandbox, source: str, question: Question, limits: ProgramLimits, total_s: float) -> bytes:
    setup = {
        "source": source,
        "fn_name": question.fn_name,
        "test_timeout_s": limits.test_timeout_s,
        "output_bytes": limits.output_bytes,
        "package_dirs": sandbox.package_dirs,
        "rlimits": [
            (resource.RLIMIT_AS, limits.memory_bytes),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, math.ceil(total_s) + _CPU_EXTRA_S),
            (resource.RLIMIT_FSIZE, limits.disk_bytes),
            (resource.RLIMIT_NOFILE, limits.num_open_files),
            # Without a user namespace the kernel would count all threads of the user.
            *([(resource.RLIMIT_NPROC, limits.num_threads)] if sandbox.sandboxed else []),
        ],
    }
    return json.dumps(setup).encode()


class _Judge:
    """Sends a loaded program its tests, and judges the answers."""

    def __init__(self, runner: RunnerConnection, question: Question, limits: ProgramLimits) -> None:
        self._runner = runner
        self._question = question
        self._limits = limits
        self._is_call = question.fn_name is not None

    def ending(self) -> Ending:
        """Judge the tests up to the first that is not passed."""
        tests = self._question.tests
        frame = self._runner.receive(_MAX_REASON_BYTES)
        if frame.kind != LOADED:
            return _early_ending(frame, "before the first test")
        for number, test in enumerate(tests, 1):
            ending = self._test_ending(test, f"in test {number} of {len(tests)}")
            if ending is not None:
                return ending
        return Ending(ProgramOutcome.PASSED, "")

    def _test_ending(self, test: QuestionTest, where: str) -> Ending | None:
        """Run one test; None if it is passed."""
        max_len = self._limits.output_bytes
        if self._is_call:
            max_len = min(max_len, max_encoded_len(test.output))
        try:
            frame = self._answer(test.input, max(max_len, _MAX_REASON_BYTES))
        except FrameTooLongError:
            if max_len < self._limits.output_bytes:
                return _failed(f"too long a result {where}")
            return _ungraded(f"more than {max_len} bytes of output {where}, at a limit of the sandbox")
        if frame.kind != (VALUE if self._is_call else OUTPUT):
            return _early_ending(frame, where)
        return None if self._matches(frame.content, test.output) else _failed(f"wrong result {where}")

    def _answer(self, test_input: str, max_len: int) -> Frame:
        self._runner.send(test_input.encode("utf-8", "surrogatepass"))
        if self._is_call:
            return self._runner.receive(max_len)
        # Once its time is over, a test on stdin cannot be passed: the runner prints a line into its output.
        with self._runner.shorter_deadline(self._limits.test_timeout_s + _EXTRA_S):
            return self._runner.receive(max_len)

    def _matches(self, content: bytes, expected: str) -> bool:
        if self._is_call:
            return returned_matches(content, expected)
        try:
            return printed_matches(content.decode("utf-8", "surrogatepass"), expected)
        except UnicodeDecodeError as error:
            raise UnreadableResultError from error


def _early_ending(frame: Frame, where: str) -> Ending:
    reason = printable(frame.content.decode(errors="replace"), _MAX_REASON_BYTES)
    if frame.kind == FAILED:
        return _failed(f"{reason} {where}")
    if frame.kind == LIMITED:
        return _ungraded(f"{reason} {where}, at a limit of the sandbox")
    raise UnreadableResultError
