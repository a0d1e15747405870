"""A round's requests at their times, and how bench.gpu asks a side's process for a round."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Generate = Callable[[int], AsyncIterator[int]]
"""Sends one sample's request; yields how many tokens came, each time some come."""
Plan = dict[str, list[int]]
"""What gpu_load.Plan writes."""


class Row(NamedTuple):
    """One request, in ns since the round began."""

    due_ns: int
    first_ns: int
    """Its first token came."""
    done_ns: int
    tokens: int


async def replay(plan: Plan, generate: Generate) -> dict[str, Any]:
    """Send a plan's requests, each when it is due, and wait for all answers.

    Args:
        plan: Samples, and when each is due.
        generate: Sends one.

    Returns:
        begin_s and end_s of the system clock, and a Row for each request.
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


def take_output() -> int:
    """Keep standard output for answers alone: what else is printed goes to standard error.

    Returns:
        The descriptor that answers go to.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def read_plan() -> Plan | None:
    """Wait for the next round, a line of standard input that names a plan's file; None at its end."""
    line = sys.stdin.readline().strip()
    return json.loads(Path(line).read_text(encoding="utf-8")) if line else None


async def answer_plans(answers: int, generate: Generate, ready: Mapping[str, object]) -> None:
    """Write that the side is ready, then replay plans until standard input ends.

    Args:
        answers: From `take_output`.
        generate: Sends one request.
        ready: Figures of the start.
    """
    say_answer(answers, ready)
    while (plan := await asyncio.to_thread(read_plan)) is not None:
        say_answer(answers, await replay(plan, generate))


def say_answer(answers: int, message: Mapping[str, object]) -> None:
    """Write a line of JSON."""
    rest = (json.dumps(message) + "\n").encode()
    while rest:
        rest = rest[os.write(answers, rest) :]
