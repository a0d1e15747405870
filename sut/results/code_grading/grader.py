"""Grade programs in parallel, and keep each verdict in a log so that grading resumes."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path

from sut.results.code_grading.attempt import Ending, SandboxError, run_program
from sut.results.code_grading.grading_log import GradingLog, VerdictKeys
from sut.results.code_grading.program import (
    GradingOptions,
    Program,
    ProgramLimits,
    ProgramOutcome,
    ProgramVerdict,
    SandboxUnavailableError,
)
from sut.results.code_grading.questions import Question, QuestionError, QuestionFile, QuestionTest
from sut.results.code_grading.sandbox import Sandbox

_NUM_ATTEMPTS = 2
_PROBE = Question(None, (QuestionTest("7\n", "7\n"),), "")


def grade_programs(
    programs: Iterable[Program], tests: Path, grading_log: Path, options: GradingOptions
) -> Iterator[ProgramVerdict]:
    """Grade programs against the tests of their questions.

    Args:
        programs: Programs, read as they are needed.
        tests: File of tests.
        grading_log: Verdicts of this and earlier calls, one JSON object a line.
        options: How programs are run.

    Returns:
        One verdict for each program, in the order in which they are reached.

    Raises:
        GradingError: Nothing can be graded; its class says for want of what.
    """
    # In reverse: leaving kills the runners, which ends the threads; then the files are closed.
    with (
        QuestionFile(tests) as questions,
        GradingLog(grading_log) as log,
        ThreadPoolExecutor(options.num_parallel) as pool,
        Sandbox(options.limits, sandboxed=options.sandboxed) as sandbox,
    ):
        _check_sandbox(sandbox, options.limits)
        grader = _Grader(questions, log, sandbox, options)
        yield from _in_parallel(grader, iter(programs), pool, options.num_parallel)


def _check_sandbox(sandbox: Sandbox, limits: ProgramLimits) -> None:
    """Run a program whose verdict is known, once more if the first attempt gave no verdict.

    Raises:
        SandboxUnavailableError: Programs cannot be run here.
    """
    for _ in range(_NUM_ATTEMPTS):
        try:
            ending = run_program(sandbox, "print(input())", _PROBE, limits)
        except (OSError, SandboxError) as error:
            raise SandboxUnavailableError(str(error)) from error
        if ending.outcome is not ProgramOutcome.UNGRADED:
            break
    if ending.outcome is not ProgramOutcome.PASSED:
        reason = f"a program that prints its input is {ending.outcome}: {ending.reason}"
        raise SandboxUnavailableError(reason)


def _in_parallel(
    grader: "_Grader", programs: Iterator[Program], pool: ThreadPoolExecutor, num_parallel: int
) -> Iterator[ProgramVerdict]:
    """Keep as many programs running as asked for; yield a verdict as soon as it is reached."""
    running: set[Future[ProgramVerdict]] = set()
    try:
        while True:
            # One more than run, so that no thread waits for the caller.
            free = num_parallel + 1 - len(running)
            running |= {pool.submit(grader.grade, program) for program in islice(programs, free)}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        for future in running:
            future.cancel()


class _Grader:
    """Grades one program at a time, in each of several threads."""

    def __init__(
        self, questions: QuestionFile, log: GradingLog, sandbox: Sandbox, options: GradingOptions
    ) -> None:
        self._questions = questions
        self._log = log
        self._sandbox = sandbox
        self._limits = options.limits
        self._keys = VerdictKeys(options)

    def grade(self, program: Program) -> ProgramVerdict:
        """Return the verdict of the log, or run the program and log it."""
        try:
            question = self._questions.read(program.question_id)
        except QuestionError as error:
            return ProgramVerdict(program.row, ProgramOutcome.UNGRADED, str(error))
        key = self._keys.key(program, question)
        ending = self._log.find(key)
        if ending is None:
            start = time.monotonic()
            ending = self._run(program.source, question)
            self._log.add(key, program, ending, time.monotonic() - start)
        return ProgramVerdict(program.row, ending.outcome, ending.reason)

    def _run(self, source: str, question: Question) -> Ending:
        """Run a program, once more if the first attempt gave no verdict."""
        ending = Ending(ProgramOutcome.UNGRADED, "")
        for _ in range(_NUM_ATTEMPTS):
            try:
                ending = run_program(self._sandbox, source, question, self._limits)
            except (OSError, SandboxError) as error:
                ending = Ending(ProgramOutcome.UNGRADED, str(error))
            if ending.outcome is not ProgramOutcome.UNGRADED:
                break
        return ending
