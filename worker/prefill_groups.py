"""Gives prompts to an engine in groups that fill a step, so that fewer steps have prefill.

An engine admits a request in the first step with a free slot. With many running requests most steps then
have the prefill of one or two prompts, and each such step pays a fixed cost: another attention kernel for all
rows (bench/results/2026-11-30-h200-offline/profile-steps.txt: with 960 rows 15 of 95 ms).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import Engine, EngineInfo, Load, Step

logger = logging.getLogger(__name__)

MIN_SLOTS_PER_PROMPT = 32
"""The slots that wait for a group are at most 1/32 of all, half of that on average."""
SILENT_S = 0.1
"""A hold ends this late, at the latest, with an engine that has requests and returns no step."""


class PromptGroup(NamedTuple):
    """The next prompts for the engine."""

    num_prompts: int
    is_complete: bool
    """No further prompt fits into it."""


def next_group(prompt_lens: Iterable[int], group_tokens: int, most_prompts: int) -> PromptGroup:
    """Return the next group of the prompts that wait, in their order.

    Args:
        prompt_lens: Tokens of each prompt that waits.
        group_tokens: Most prompt tokens of a group of several prompts.
        most_prompts: Of one group, at least 1.
    """
    num = num_tokens = 0
    for prompt_len in prompt_lens:
        num_tokens += prompt_len
        if num and num_tokens > group_tokens:
            return PromptGroup(num, is_complete=True)
        num += 1
        if num == most_prompts or num_tokens >= group_tokens:
            return PromptGroup(num, is_complete=True)
    return PromptGroup(num, is_complete=False)


def group_trouble(group_tokens: int, info: EngineInfo) -> str | None:
    """Explain why groups of this size do not make fewer steps with prefill; None if they do, or unknown."""
    if info.max_num_seqs < 2 * MIN_SLOTS_PER_PROMPT:
        return f"no effect: with {info.max_num_seqs} sequences each prompt is a group"
    facts = info.execution_facts
    # SGLang has no limit for a step's tokens: its chunks are without the rows that decode.
    if {"max_num_batched_tokens", "max_num_seqs"} <= facts.keys():
        # Of one engine; EngineInfo counts the sequences of all data parallel engines.
        batched_tokens, num_seqs = int(facts["max_num_batched_tokens"]), int(facts["max_num_seqs"])
        if group_tokens + num_seqs > batched_tokens:
            return (
                f"such a group takes several steps: a step has {batched_tokens} tokens "
                f"(max_num_batched_tokens), of which {num_seqs} may decode (max_num_seqs)"
            )
    return None


class PrefillGroups:
    """An engine that gets its prompts in groups, in their order.

    A group is as many of the next prompts as have at most `group_tokens` tokens together; at least one, at
    most one for MIN_SLOTS_PER_PROMPT of the engine's slots. It goes to the engine once no further prompt fits
    into it and there is a slot for each of its prompts; earlier if the engine is idle, or after `hold_s` with
    a free slot.

    Prompts go only within a call of `submit`, `cancel` or `step`, so that a failure to submit has a caller.
    A hold ends in `step`, also while the engine is silent: it may have forgotten its only request.
    """

    def __init__(self, engine: Engine, group_tokens: int, hold_s: float) -> None:
        """Create the engine.

        Args:
            engine: Engine to give the prompts to.
            group_tokens: Most prompt tokens of a group of several prompts.
            hold_s: The first step after this time with a free slot ends the wait of an incomplete group.
        """
        self._engine = engine
        self._group_tokens = group_tokens
        self._hold_s = hold_s
        self._max_num_seqs = 0
        self._most_prompts = 1
        """Of one group."""
        self._held: deque[PromptColumns] = deque()
        """One request each."""
        self._inside: set[int] = set()
        """Names of the requests in the engine."""
        self._hold_end_s: float | None = None
        """When the next group goes to any free slot, time.monotonic(); None: no slot is free."""

    async def start(self) -> EngineInfo:
        """Start the engine; its arguments, how it executes and its warnings name the groups too."""
        info = await self._engine.start()
        self._max_num_seqs = info.max_num_seqs
        self._most_prompts = max(info.max_num_seqs // MIN_SLOTS_PER_PROMPT, 1)
        warnings = info.warnings
        if (trouble := group_trouble(self._group_tokens, info)) is not None:
            warnings = (*warnings, f"--prefill-group-tokens {self._group_tokens}: {trouble}")
            logger.warning("%s", warnings[-1])
        own = {
            "prefill_group_tokens": str(self._group_tokens),
            "prefill_hold_ms": str(round(self._hold_s * 1e3, 3)),
        }
        return replace(
            info,
            engine_args=info.engine_args | own,
            execution_facts=info.execution_facts | own,
            warnings=warnings,
        )

    def open(self, spec: pb.RunSpec) -> None:
        """Set the sampling parameters of the next run."""
        self._engine.open(spec)

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests."""
        self._held.extend(_split(prompts))
        self._submit_groups()

    def cancel(self, requests: list[int]) -> None:
        """Cancel requests by name, here or in the engine."""
        names = set(requests)
        self._held = deque(one for one in self._held if int(one.requests[0]) not in names)
        self._inside -= names
        self._engine.cancel(requests)
        self._submit_groups()

    async def step(self) -> Step:
        """Wait for the new tokens of the next step; the slots that it frees admit the next group."""
        stepping = asyncio.ensure_future(self._engine.step())
        try:
            while not (await asyncio.wait({stepping}, timeout=SILENT_S))[0]:
                self._submit_groups()
        finally:
            stepping.cancel()
            await asyncio.wait({stepping})
        step = stepping.result()
        self._inside.difference_update(step.columns.requests[step.columns.finished_rows].tolist())
        self._submit_groups()
        return step

    def load(self) -> Load:
        """Count the requests that are held as waiting."""
        load = self._engine.load()
        return load._replace(waiting=load.waiting + len(self._held))

    async def reset(self) -> None:
        """Drop all requests."""
        self._hold_end_s = None
        self._held.clear()
        self._inside.clear()
        await self._engine.reset()

    async def close(self) -> None:
        """Stop the engine."""
        await self._engine.close()

    @property
    def _num_free(self) -> int:
        """Slots of the engine that no request has."""
        return max(self._max_num_seqs - len(self._inside), 0)

    def _submit_groups(self) -> None:
        """Give the engine every group that may go now."""
        while self._held and self._num_free:
            prompt_lens = (len(one.prompt_tokens) for one in self._held)
            group = next_group(prompt_lens, self._group_tokens, self._most_prompts)
            if not self._may_go(group):
                return
            self._submit(min(group.num_prompts, self._num_free))
        self._hold_end_s = None

    def _may_go(self, group: PromptGroup) -> bool:
        """Whether a group goes now, as far as there are slots; begins its hold if there is none yet."""
        if not self._inside or (group.is_complete and group.num_prompts <= self._num_free):
            return True
        now_s = time.monotonic()
        if self._hold_end_s is None:
            self._hold_end_s = now_s + self._hold_s
        return now_s >= self._hold_end_s

    def _submit(self, num: int) -> None:
        """Give the engine the next prompts; those after them have a hold of their own."""
        self._hold_end_s = None
        prompts = _join([self._held.popleft() for _ in range(num)])
        self._inside.update(prompts.requests.tolist())
        self._engine.submit(prompts)


def _split(prompts: PromptColumns) -> Iterator[PromptColumns]:
    """Yield R requests one by one."""
    ends = np.cumsum(prompts.prompt_lens, dtype=np.int64).tolist()
    for row, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        one = slice(row, row + 1)
        yield PromptColumns(
            prompts.requests[one],
            prompts.prompt_lens[one],
            prompts.prompt_tokens[begin:end],
            prompts.max_new_tokens[one],
            prompts.produced[one],
        )


def _join(requests: Sequence[PromptColumns]) -> PromptColumns:
    """Put requests together, at least one."""
    return PromptColumns(*(np.concatenate(column) for column in zip(*requests, strict=True)))
