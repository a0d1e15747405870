"""Gives prompts to an engine in groups that fill a step, so that fewer steps have prefill.

An engine admits a request in the first step with a free slot. With many running requests most steps then
have the prefill of one or two prompts, and each such step pays a fixed cost: another attention kernel for all
rows (bench/results/2026-11-30-h200-offline/profile-steps.txt: with 960 rows 15 of 95 ms).
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import Engine, EngineInfo, Load, Step

MIN_SLOTS_PER_PROMPT = 32
"""The slots that wait for a group are at most 1/32 of all, half of that on average."""


class PrefillGroups:
    """An engine that gets its prompts in groups, in their order.

    A group is as many of the next prompts as have at most `group_tokens` tokens together; at least one, at
    most one for MIN_SLOTS_PER_PROMPT of the engine's slots. It goes to the engine once no further prompt fits
    into it and there is a slot for each of its prompts; earlier if the engine is idle, or after `hold_s` with
    a free slot.
    """

    def __init__(self, engine: Engine, group_tokens: int, hold_s: float) -> None:
        """Create the engine.

        Args:
            engine: Engine to give the prompts to.
            group_tokens: Most prompt tokens of a group of several prompts.
            hold_s: Longest time that prompts wait while the engine has a free slot.
        """
        self._engine = engine
        self._group_tokens = group_tokens
        self._hold_s = hold_s
        self._max_num_seqs = 0
        self._held: deque[PromptColumns] = deque()
        """One request each."""
        self._inside: set[int] = set()
        """Names of the requests in the engine."""
        self._hold: asyncio.TimerHandle | None = None

    async def start(self) -> EngineInfo:
        """Start the engine; its arguments name the groups too."""
        info = await self._engine.start()
        self._max_num_seqs = info.max_num_seqs
        own = {
            "prefill_group_tokens": str(self._group_tokens),
            "prefill_hold_ms": str(round(self._hold_s * 1e3, 3)),
        }
        return replace(info, engine_args=info.engine_args | own)

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
        step = await self._engine.step()
        finished = step.columns.finished_rows
        if len(finished):
            self._inside.difference_update(step.columns.requests[finished].tolist())
            self._submit_groups()
        return step

    def load(self) -> Load:
        """Count the requests that are held as waiting."""
        load = self._engine.load()
        return load._replace(waiting=load.waiting + len(self._held))

    async def reset(self) -> None:
        """Drop all requests."""
        self._end_hold()
        self._held.clear()
        self._inside.clear()
        await self._engine.reset()

    async def close(self) -> None:
        """Stop the engine."""
        self._end_hold()
        await self._engine.close()

    @property
    def _num_free(self) -> int:
        """Slots of the engine that no request has."""
        return max(self._max_num_seqs - len(self._inside), 0)

    def _submit_groups(self) -> None:
        """Give the engine every group that may go now; start or end the hold of the next one."""
        while num := self._num_ready():
            self._submit(num)
        if not self._held or not self._num_free:
            self._end_hold()
        elif self._hold is None:
            self._hold = asyncio.get_running_loop().call_later(self._hold_s, self._submit_held)

    def _num_ready(self) -> int:
        """Return the number of prompts of the next group if it may go now, else 0."""
        num = self._next_group()
        is_complete = num < len(self._held) and num <= self._num_free
        return min(num, self._num_free) if is_complete or not self._inside else 0

    def _next_group(self) -> int:
        """Return the number of prompts of the next group."""
        num = num_tokens = 0
        for one in islice(self._held, max(self._max_num_seqs // MIN_SLOTS_PER_PROMPT, 1)):
            num_tokens += len(one.prompt_tokens)
            if num and num_tokens > self._group_tokens:
                break
            num += 1
        return num

    def _submit_held(self) -> None:
        """Give the engine what it has slots for: the hold has lasted long enough."""
        self._hold = None
        self._submit(min(self._next_group(), self._num_free))
        self._submit_groups()

    def _submit(self, num: int) -> None:
        self._end_hold()
        prompts = _join(list(islice(self._held, num)))
        for _ in range(num):
            self._held.popleft()
        self._inside.update(prompts.requests.tolist())
        self._engine.submit(prompts)

    def _end_hold(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None


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
