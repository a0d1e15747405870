"""Base of the engines whose every step gives each running request one token: counting and replay."""

import asyncio
import math
import time
from typing import NamedTuple

from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import NO_KERNELS, Load, Step
from worker.engines.scripted.answers import AnswerColumns
from worker.engines.scripted.running_batch import RunningBatch
from worker.engines.scripted.step_clock import StepClock


class StepTimes(NamedTuple):
    """What determines the duration of a step."""

    step_s: float
    """Duration of a step that admits no prompt."""
    prefill_s: float = 0.0
    """Time that each admitted prompt adds."""
    tokens_per_s: float = math.inf
    """Largest rate of all requests together; a step with many requests lasts longer."""


class BatchEngine:
    """Columns of running and waiting requests; a subclass finds the answers."""

    def __init__(self, max_num_seqs: int, times: StepTimes, running: RunningBatch) -> None:
        """Create the engine.

        Args:
            max_num_seqs: Largest number of running requests.
            times: Duration of a step.
            running: Empty batch, which knows the tokens of the answers.
        """
        self._max_num_seqs = max_num_seqs
        self._times = times
        self._waiting = AnswerColumns.empty()
        self._running = running
        self._clock = StepClock()
        self._work = asyncio.Event()

    def open(self, spec: pb.RunSpec) -> None:
        """Ignore the sampling parameters: the answers are known."""

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests in the order given."""
        self._waiting = self._waiting.append(self._answers(prompts))
        self._work.set()

    def cancel(self, requests: list[int]) -> None:
        """Drop requests by name."""
        self._waiting = self._waiting.without(requests)
        self._running.cancel(requests)

    async def step(self) -> Step:
        """Admit waiting requests, wait for the step time, and give each running request its next token."""
        while not len(self._waiting.requests) and not len(self._running):
            self._work.clear()
            await self._work.wait()
            self._clock.begin()
        await self._pass_time(self._admit())
        return self._advance()

    def load(self) -> Load:
        """Count the requests running and waiting."""
        return Load(len(self._running), len(self._waiting.requests), compiled=NO_KERNELS)

    async def reset(self) -> None:
        """Drop all requests."""
        self._waiting = AnswerColumns.empty()
        self._running.clear()

    async def close(self) -> None:
        """Do nothing: no process was started."""

    def _answers(self, prompts: PromptColumns) -> AnswerColumns:
        """Find the answers to R prompts."""
        raise NotImplementedError

    def _admit(self) -> int:
        room = self._max_num_seqs - len(self._running)
        admitted = self._waiting.take(slice(room))
        self._waiting = self._waiting.take(slice(room, None))
        self._running.add(admitted, [time.monotonic_ns()] * len(admitted.requests))
        return len(admitted.requests)

    async def _pass_time(self, num_admitted: int) -> None:
        times = self._times
        step_s = times.step_s + num_admitted * times.prefill_s
        await self._clock.wait(max(step_s, len(self._running) / times.tokens_per_s))

    def _advance(self) -> Step:
        return self._running.step()
