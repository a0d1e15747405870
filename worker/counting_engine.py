"""An engine whose answers can be computed by hand from the prompt; never a result of vLLM.

A prompt's first token is the length of its answer, the stop id included. The answer counts upward from the
prompt's last token, modulo 199,999 (gpt-oss's smallest stop id), and its last token is the stop id 200,002:

    prompt [4, 9, 17] -> 18, 19, 20, 200002    reason STOP
    the same, at most 2 new tokens -> 18, 19   reason LENGTH
    prompt [1, 9, 17] -> 200002                reason STOP
    prompt [0, 9, 17] -> no token              reason STOP

A step that admits n prompts lasts n * prefill_ms + step_ms and gives every running request one token.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from protos import worker_pb2 as pb
from protos.frames import PromptColumns, TokenColumns
from worker.engine import EngineInfo, Load, Step

STOP_TOKEN_ID = 200_002
COUNT_MODULUS = 199_999
VOCAB_SIZE = 201_088

# One request: its name, the next token to count, the tokens left, and why it will end.
_ROW = np.dtype([("name", "u8"), ("next", "i8"), ("left", "i8"), ("reason", "u1"), ("fresh", "?")])


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingConfig:
    """Flags of the counting engine."""

    prefill_ms: float = 0.0
    """Time that each newly admitted prompt adds to its step."""
    step_ms: float = 1.0
    """Time of a step without prefill."""
    load_ms: float = 0.0
    """How long the engine stays NOT_SERVING at start."""
    max_num_seqs: int = 256
    """Requests running at once."""
    max_model_len: int = 131_072
    """Prompt and answer together, in tokens."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: A time below 0 or a count below 1.
        """
        for name in ("prefill_ms", "step_ms", "load_ms"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"--{name.replace('_', '-')}: {getattr(self, name)} is below 0 or not finite"
                )
        for name in ("max_num_seqs", "max_model_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: {getattr(self, name)} is below 1")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add this engine's flags; the defaults are CountingConfig's."""
    group = parser.add_argument_group("counting engine")
    for name in ("prefill_ms", "step_ms", "load_ms"):
        group.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(_DEFAULTS, name))
    for name in ("max_num_seqs", "max_model_len"):
        group.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(_DEFAULTS, name))


_DEFAULTS = CountingConfig()


class CountingEngine:
    """The Engine protocol over numpy columns of running and waiting requests."""

    def __init__(self, config: CountingConfig) -> None:
        self._config = config
        self._waiting = np.zeros(0, _ROW)
        self._running = np.zeros(0, _ROW)
        self._work = asyncio.Event()
        self._due_s = 0.0

    async def start(self) -> EngineInfo:
        """Wait as long as `load_ms` says."""
        await asyncio.sleep(self._config.load_ms / 1e3)
        return EngineInfo(
            engine="counting",
            engine_version="1",
            model="counting",
            model_hash=sha256(b"counting engine 1").hexdigest(),
            vocab_size=VOCAB_SIZE,
            max_model_len=self._config.max_model_len,
            max_num_seqs=self._config.max_num_seqs,
            tensor_parallel_size=1,
            stop_token_ids=(STOP_TOKEN_ID,),
            engine_args={
                "prefill_ms": str(self._config.prefill_ms),
                "step_ms": str(self._config.step_ms),
            },
        )

    def open(self, spec: pb.RunSpec) -> None:
        """Ignore the sampling parameters: counting has none."""

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests in the order given."""
        rows = np.zeros(len(prompts.requests), _ROW)
        ends = prompts.prompt_lens.cumsum(dtype=np.int64)
        starts = ends - prompts.prompt_lens
        produced = prompts.produced.astype(np.int64)
        last = prompts.prompt_tokens[ends - produced - 1].astype(np.int64)
        left = np.maximum(prompts.prompt_tokens[starts] - produced, 0)
        rows["name"] = prompts.requests
        rows["next"] = (last + 1 + produced) % COUNT_MODULUS
        rows["left"] = np.minimum(left, prompts.max_new_tokens)
        rows["reason"] = np.where(
            left <= prompts.max_new_tokens, pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
        )
        rows["fresh"] = True
        self._waiting = np.concatenate([self._waiting, rows])
        self._work.set()

    def cancel(self, requests: list[int]) -> None:
        """Drop requests by name."""
        names = np.array(requests, np.uint64)
        self._waiting = self._waiting[~np.isin(self._waiting["name"], names)]
        self._running = self._running[~np.isin(self._running["name"], names)]

    async def step(self) -> Step:
        """Admit what fits, let the step's time pass, and give each running request its next token."""
        while not len(self._waiting) and not len(self._running):
            self._work.clear()
            await self._work.wait()
        await self._pass_time(self._admit())
        return self._advance()

    def load(self) -> Load:
        """Count the requests running and waiting."""
        return Load(len(self._running), len(self._waiting))

    async def reset(self) -> None:
        """Forget every request."""
        self._waiting = self._running = np.zeros(0, _ROW)

    async def close(self) -> None:
        """Do nothing: no process was started."""

    def _admit(self) -> int:
        room = self._config.max_num_seqs - len(self._running)
        admitted, self._waiting = self._waiting[:room], self._waiting[room:]
        self._running = np.concatenate([self._running, admitted])
        return len(admitted)

    async def _pass_time(self, num_admitted: int) -> None:
        """Sleep until this step is due; a late step is not made up for by shorter ones."""
        now_s = time.monotonic()
        step_s = (num_admitted * self._config.prefill_ms + self._config.step_ms) / 1e3
        # Counted from when the last step was due, so that the timer's lateness does not add up.
        self._due_s = max(self._due_s, now_s - step_s) + step_s
        await asyncio.sleep(max(self._due_s - now_s, 0.0))

    def _advance(self) -> Step:
        rows = self._running
        counts = (rows["left"] > 0).astype(np.uint32)
        stops = (rows["left"] == 1) & (rows["reason"] == pb.FINISH_REASON_STOP)
        tokens = np.where(stops, STOP_TOKEN_ID, rows["next"])[counts > 0].astype(np.int32)
        finished = rows["left"] <= 1
        urgent = bool(finished.any() or rows["fresh"].any())
        columns = TokenColumns(
            requests=rows["name"].copy(),
            counts=None if counts.all() else counts,
            tokens=tokens,
            finished_rows=np.flatnonzero(finished).astype(np.uint32),
            finish_reasons=rows["reason"][finished],
            produced_ns=time.monotonic_ns(),
        )
        rows["next"] = (rows["next"] + 1) % COUNT_MODULUS
        rows["left"] -= 1
        rows["fresh"] = False
        self._running = rows[~finished]
        return Step(columns, urgent)
