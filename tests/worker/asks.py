"""Helpers to submit requests to a scripted engine and collect its answers."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from protos.columns import PromptColumns
from worker.engine_protocol import Engine, Step

_T = TypeVar("_T")


class Ask(NamedTuple):
    """One request."""

    prompt: Sequence[int]
    budget: int = 100
    produced: int = 0


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, within a bound."""
    return asyncio.run(asyncio.wait_for(work, 120))


def submit(to: Engine, asks: dict[int, Ask]) -> None:
    """Submit requests by name in one message."""
    to.submit(
        PromptColumns(
            requests=np.array(list(asks), np.uint64),
            prompt_lens=np.array([len(ask.prompt) for ask in asks.values()], np.uint32),
            prompt_tokens=np.array([token for ask in asks.values() for token in ask.prompt], np.int32),
            max_new_tokens=np.array([ask.budget for ask in asks.values()], np.uint32),
            produced=np.array([ask.produced for ask in asks.values()], np.uint32),
        )
    )


def rows_of(step: Step) -> dict[int, list[int]]:
    """Split a step into tokens by request; two rows of one request fail."""
    names, counts = step.columns.requests.tolist(), step.columns.counts
    lens = [1] * len(names) if counts is None else counts.tolist()
    assert len(names) == len(set(names))
    assert sum(lens) == len(step.columns.tokens)
    tokens = iter(step.columns.tokens.tolist())
    return {name: [next(tokens) for _ in range(length)] for name, length in zip(names, lens, strict=True)}


async def answer(to: Engine, num_requests: int) -> dict[int, tuple[list[int], int]]:
    """Step until so many requests have ended; returns tokens and reason by name."""
    tokens: dict[int, list[int]] = {}
    ended: dict[int, tuple[list[int], int]] = {}
    while len(ended) < num_requests:
        step = await to.step()
        for name, new in rows_of(step).items():
            assert name not in ended
            tokens.setdefault(name, []).extend(new)
        rows, reasons = step.columns.finished_rows.tolist(), step.columns.finish_reasons.tolist()
        for row, reason in zip(rows, reasons, strict=True):
            name = int(step.columns.requests[row])
            ended[name] = (tokens[name], reason)
    return ended
