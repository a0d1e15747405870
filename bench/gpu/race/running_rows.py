"""Keeps a number of requests running in an engine core, and records each step."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu.race.steady_load import SteadyLoad, share_prefixes
from bench.gpu.race.step_log import StepLog, StepRecord
from sut.benchmark import BENCHMARK
from worker.engines.vllm.engine_core import CoreClient
from worker.prefill_groups import MIN_SLOTS_PER_PROMPT, PromptGroup, next_group

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput

# A first step may compile kernels for a minute.
STEP_TIMEOUT_S = 180.0
PREEMPTED = 3
"""EngineCoreEventType.PREEMPTED of vLLM 0.25.1 and 0.32.0."""


class RunningRows:
    """Requests in an engine core; each that ends is followed by another one with a prompt of its own."""

    def __init__(self, core: CoreClient, load: SteadyLoad, vocab_size: int) -> None:
        """Take the engine core and the source of the requests."""
        self.log = StepLog()
        self._core = core
        self._load = load
        self._following = load.following()
        self._rng = np.random.default_rng(load.seed)
        # Ids from the first special one on are no text.
        self._num_ids = min(vocab_size, BENCHMARK.first_special_id)
        self._num_sent = 0
        self._context_lens: dict[str, int] = {}
        """Prompt and produced tokens of each request, by vLLM id; a request without a token has 0."""
        self._prompt_lens: dict[str, int] = {}
        self._is_replacing = False
        self._group_tokens = 0
        self._most_prompts = 1
        self._held: deque[tuple[int, int]] = deque()
        """Prompt and answer length of the requests that wait for their group."""
        self._start_s: dict[str, float] = {}

    async def start(self, num_rows: int, requests_per_prefix: int) -> None:
        """Start the requests of the steady state and wait until each has produced a token.

        Raises:
            TimeoutError: The engine makes no step.
            EngineDead: The engine core has stopped.
        """
        begun_s = time.monotonic()
        running = self._load.running(num_rows)
        shared = share_prefixes(running.context_lens, requests_per_prefix, self._load.seed)
        prefixes = [self._draw(prefix_len) for prefix_len in shared.prefix_lens.tolist()]
        for prefix in prefixes:
            await self._send(prefix, 1)
        while self._context_lens:
            await self._step()
        self._start_s["prefixes_s"] = time.monotonic() - begun_s
        self._is_replacing = True
        for row in shared.order.tolist():
            prompt = prefixes[shared.prefix_of[row]][: running.context_lens[row]]
            await self._send(prompt, int(running.remaining_lens[row]))
        first_ids = [*self._context_lens]
        while not all(self._context_lens.get(request_id, 1) for request_id in first_ids):
            await self._step()
        self._start_s["requests_s"] = time.monotonic() - begun_s - self._start_s["prefixes_s"]

    def start_figures(self) -> dict[str, Any]:
        """Return the duration of each part of the start, and the tokens computed and found in the cache."""
        computed, cached = (
            sum(getattr(step, name) for step in self.log.steps) for name in ("prompt_tokens", "cached_tokens")
        )
        lens = [*self._context_lens.values()]
        return {
            **self._start_s,
            "computed_prompt_tokens": computed,
            "cached_prompt_tokens": cached,
            "context_len_mean": sum(lens) / len(lens),
            "context_len_max": max(lens),
        }

    async def reduce(self, num_rows: int) -> None:
        """Abort requests chosen at random, so that the others remain a sample of the steady state."""
        surplus = len(self._context_lens) - num_rows
        if surplus > 0:
            ids = self._rng.choice(np.array([*self._context_lens]), surplus, replace=False).tolist()
            await self._core.abort(ids)
            for request_id in ids:
                self._forget(request_id)

    def group_prompts(self, group_tokens: int) -> None:
        """Let requests that follow others wait until they have this many prompt tokens together; 0: no wait.

        The groups are those of the worker's --prefill-group-tokens with a hold that never ends.
        """
        self._group_tokens = group_tokens
        self._most_prompts = max(len(self._context_lens) // MIN_SLOTS_PER_PROMPT, 1)

    async def run_for(self, seconds: float) -> None:
        """Receive steps for this time."""
        end_s = time.monotonic() + seconds
        await self.run_until(lambda: time.monotonic() >= end_s)

    async def run_until(self, is_enough: Callable[[], bool]) -> None:
        """Receive steps until a condition holds, which is checked before each of them."""
        while not is_enough():
            await self._step()

    def _draw(self, num_tokens: int) -> list[int]:
        tokens: list[int] = self._rng.integers(self._num_ids, size=num_tokens).tolist()
        return tokens

    async def _send(self, prompt: list[int], budget: int) -> None:
        request_id = f"race-{self._num_sent}"
        self._num_sent += 1
        self._context_lens[request_id] = 0
        self._prompt_lens[request_id] = len(prompt)
        await self._core.add(request_id, prompt, _params(budget))

    async def _step(self) -> None:
        """Receive one step, record it and replace the requests that ended."""
        async with asyncio.timeout(STEP_TIMEOUT_S):
            outputs = await self._core.step()
        at_ns = time.monotonic_ns()
        known = [output for output in outputs if output.request_id in self._context_lens]
        if not known:
            return
        begun = [output for output in known if not self._context_lens[output.request_id]]
        for output in known:
            request_id = output.request_id
            context_len = self._context_lens[request_id] or self._prompt_lens[request_id]
            self._context_lens[request_id] = context_len + len(output.new_token_ids)
        self._record(at_ns, known, begun)
        ended = [output.request_id for output in known if output.finish_reason is not None]
        for request_id in ended:
            self._forget(request_id)
        if self._is_replacing:
            self._held += [next(self._following) for _ in ended]
            while (group := self._next_group()).is_complete:
                for _ in range(group.num_prompts):
                    prompt_len, budget = self._held.popleft()
                    await self._send(self._draw(prompt_len), budget)

    def _next_group(self) -> PromptGroup:
        prompt_lens = (prompt_len for prompt_len, _ in self._held)
        return next_group(prompt_lens, self._group_tokens, self._most_prompts)

    def _record(self, at_ns: int, outputs: "list[EngineCoreOutput]", begun: "list[EngineCoreOutput]") -> None:
        cached = sum(output.prefill_stats.num_cached_tokens for output in begun if output.prefill_stats)
        prompt_tokens = sum(self._prompt_lens[output.request_id] for output in begun) - cached
        events = [int(event.type) for output in outputs for event in output.events or ()]
        kv_use = self._core.kv_use
        record = StepRecord(
            at_ns=at_ns,
            rows=len(outputs),
            output_tokens=sum(len(output.new_token_ids) for output in outputs),
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            preemptions=events.count(PREEMPTED),
            kv_use=math.nan if kv_use is None else kv_use,
            context_tokens=sum(self._context_lens.values()),
        )
        self.log.steps.append(record)

    def _forget(self, request_id: str) -> None:
        del self._context_lens[request_id], self._prompt_lens[request_id]


def _params(budget: int) -> "SamplingParams":
    """Return the product's sampling parameters, without a stop id: each answer has a given length."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=1.0,
        top_p=1.0,
        top_k=-1,
        max_tokens=budget,
        ignore_eos=True,
        detokenize=False,
        skip_clone=True,
    )
