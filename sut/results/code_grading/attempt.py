"""Run one program once against the tests of its question."""

import base64
import json
import math
import os
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
        total_s = (limits.test_timeout_s + _EXTRA_PER_TEST_S) * len(question.tests) + _EXTRA_S
        runner.set_deadline(total_s)
        try:
            runner.send(_setup(sandbox, source, question, limits, total_s))
            return _judge(runner, question, limits)
        except TimeoutError:
            return _failed(f"it ran for {total_s:g} s, past the time of all tests")
        except RunnerEndedError:
            return (
                _ungraded("it was killed from outside")
                if runner.was_killed()
                else _failed("its process ended")
            )
        except UnreadableResultError:
            return _ungraded("the runner's messages cannot be read")


def _wait_until_ready(runner: RunnerConnection) -> None:
    runner.set_deadline(_START_TIMEOUT_S)
    try:
        frame = runner.receive(0)
    except (TimeoutError, RunnerEndedError, FrameTooLongError) as error:
        raise SandboxError(f"the sandbox did not start: {runner.start_error()}") from error
    if frame.kind != READY:
        raise SandboxError("the sandbox did not start: its first message cannot be read")


def _setup(sandbox: Sandbox, source: str, question: Question, limits: ProgramLimits, total_s: float) -> bytes:
    own_filter = sandbox.own_filter
    setup = {
        "source": source,
        "fn_name": question.fn_name,
        "test_timeout_s": limits.test_timeout_s,
        "output_bytes": limits.output_bytes,
        "package_dirs": sandbox.package_dirs,
        "process_filter": None if own_filter is None else base64.b64encode(own_filter).decode(),
        "grader_pid": os.getpid(),
        "rlimits": [
            (resource.RLIMIT_AS, limits.memory_bytes),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, math.ceil(total_s) + _CPU_EXTRA_S),
            (resource.RLIMIT_FSIZE, limits.disk_bytes),
            (resource.RLIMIT_NOFILE, limits.num_open_files),
            *([] if own_filter else [(resource.RLIMIT_NPROC, limits.num_threads)]),
        ],
    }
    return json.dumps(setup).encode()


def _judge(runner: RunnerConnection, question: Question, limits: ProgramLimits) -> Ending:
    frame = runner.receive(_MAX_REASON_BYTES)
    if frame.kind != LOADED:
        return _early_ending(frame, "before the first test")
    for number, test in enumerate(question.tests, 1):
        runner.send(test.input.encode("utf-8", "surrogatepass"))
        ending = _judge_test(
            runner,
            test,
            limits,
            is_call=question.fn_name is not None,
            where=f"test {number} of {len(question.tests)}",
        )
        if ending is not None:
            return ending
    return Ending(ProgramOutcome.PASSED, "")


def _judge_test(
    runner: RunnerConnection, test: QuestionTest, limits: ProgramLimits, *, is_call: bool, where: str
) -> Ending | None:
    """Judge one test; None if it is passed."""
    max_len = limits.output_bytes
    if is_call:
        max_len = min(max_len, max_encoded_len(test.output))
    try:
        frame = runner.receive(max(max_len, _MAX_REASON_BYTES))
    except FrameTooLongError:
        return (
            _failed(f"wrong result of {where}: too long")
            if is_call
            else _ungraded(f"output of {where}: more than {limits.output_bytes} bytes")
        )
    if frame.kind != (VALUE if is_call else OUTPUT):
        return _early_ending(frame, f"in {where}")
    if is_call:
        matches = returned_matches(frame.content, test.output)
    else:
        matches = printed_matches(frame.content.decode("utf-8", "surrogatepass"), test.output)
    return None if matches else _failed(f"wrong result of {where}")


def _early_ending(frame: Frame, where: str) -> Ending:
    reason = printable(frame.content.decode(errors="replace"), _MAX_REASON_BYTES)
    if frame.kind == FAILED:
        return _failed(f"{reason} {where}")
    if frame.kind == LIMITED:
        return _ungraded(f"{reason} {where}, at a limit of the sandbox")
    raise UnreadableResultError
