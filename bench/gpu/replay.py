"""Replay of a round's requests at their arrival times, and the line protocol of a side's process."""

import asyncio
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.flag_help import FlagFormatter
from common.flags import Parser

Generate = Callable[[int], AsyncIterator[int]]
"""Sends one sample's request; yields the number of new tokens each time tokens arrive."""
Plan = dict[str, list[int]]
"""Format of the file that bench.gpu.load.Plan writes."""


class Row(NamedTuple):
    """One request; times in ns since the begin of the round."""

    due_ns: int
    first_ns: int
    """Time of the first token."""
    done_ns: int
    tokens: int


async def replay(plan: Plan, generate: Generate) -> dict[str, Any]:
    """Send a plan's requests, each at its arrival time, and wait for all answers.

    Args:
        plan: Samples and arrival times.
        generate: Sends one request.

    Returns:
        begin_s and end_s on the system clock, and a Row for each request.
    """
    begin_s, begin_ns = time.time(), time.monotonic_ns()

    async def carry(sample: int, due_ns: int) -> Row:
        first_ns = num_tokens = 0
        async for num in generate(sample):
            first_ns = first_ns or time.monotonic_ns() - begin_ns
            num_tokens += num
        return Row(due_ns, first_ns, time.monotonic_ns() - begin_ns, num_tokens)

    tasks = []
    for sample, due_ns in zip(plan["samples"], plan["due_ns"], strict=True):
        wait_s = (begin_ns + due_ns - time.monotonic_ns()) / 1e9
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(carry(sample, due_ns)))
    rows = await asyncio.gather(*tasks)
    return {"begin_s": begin_s, "end_s": time.time(), "rows": rows}


def parse_side(prog: str, argv: list[str]) -> tuple[Namespace, list[str]]:
    """Parse the flags of a process that holds an engine alone.

    Args:
        prog: Name of the program.
        argv: Its command line.

    Returns:
        kind ("bare" or "async"), data, model and temperature; and the engine's flags.
    """
    parser = Parser(formatter_class=FlagFormatter, prog=prog, allow_abbrev=False)
    parser.add_argument("kind", choices=("bare", "async"), help="the engine's interface")
    parser.add_argument("--data", type=Path, required=True, help="data set")
    parser.add_argument("--model", required=True, help="checkpoint directory")
    parser.add_argument("--temperature", type=float, required=True, help="sampling temperature")
    args, engine_argv = parser.parse_known_args(argv)
    return args, engine_argv


def take_output() -> int:
    """Reserve standard output for answers; redirect all other output to standard error.

    Returns:
        File descriptor for the answers.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def read_plan() -> Plan | None:
    """Read the next plan, a file named by a line of standard input; return None at its end."""
    line = sys.stdin.readline().strip()
    return json.loads(Path(line).read_text(encoding="utf-8")) if line else None


def no_counts() -> None:
    """Count no kernels: the side's engine is in another process."""


async def answer_plans(
    answers: int,
    generate: Generate,
    ready: Mapping[str, object],
    num_compiled: Callable[[], int | None] = no_counts,
) -> None:
    """Write that the side is ready, then replay plans until standard input ends.

    Args:
        answers: File descriptor from `take_output`.
        generate: Sends one request.
        ready: Figures of the start-up.
        num_compiled: Counts the kernels that the engine has compiled since its start; None: not known.
    """
    say_answer(answers, ready)
    while (plan := await asyncio.to_thread(read_plan)) is not None:
        before = num_compiled()
        answer = await replay(plan, generate)
        say_answer(answers, answer | {"compiled_kernels": growth(before, num_compiled())})


def growth(before: int | None, after: int | None) -> int | None:
    """Return the difference of two counts; None if one is not known."""
    return None if before is None or after is None else after - before


def say_answer(answers: int, message: Mapping[str, object]) -> None:
    """Write one JSON line."""
    rest = (json.dumps(message) + "\n").encode()
    while rest:
        rest = rest[os.write(answers, rest) :]
