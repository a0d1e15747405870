"""The figures of bench.gpu, and the time that it may take."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.command import say
from bench.gpu.watch import Use


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one side."""

    side: str
    plan: str
    """What was asked for."""
    gpus: tuple[int, ...]
    number: int
    warm_up: bool
    """Not counted."""
    at_s: float
    """Since the command began."""
    seconds: float
    """From the first request to the last answer; with LoadGen by its log."""
    requests: int
    tokens: int
    expected_tokens: int
    verdict: str
    front_cpu_s: float
    """Of the engine's front end: the process of worker, LLM, AsyncLLM or API server."""
    client_cpu_s: float
    """Of the coordinator within LoadGen's test, or the HTTP client."""
    engine_cpu_s: float
    """Of vLLM's other processes."""
    gpu: list[Use | None]
    """By GPU, between the first request and the last answer."""
    ttft_ms: dict[str, float]
    tpot_ms: dict[str, float]

    @property
    def tokens_per_s(self) -> float:
        """Output tokens over the round."""
        return self.tokens / self.seconds

    def per_mtok(self, cpu_s: float) -> float:
        """Divide by the round's tokens, in millions."""
        return cpu_s / self.tokens * 1e6

    def to_json(self) -> dict[str, Any]:
        """Give everything, and the rate."""
        gpu = [None if use is None else use._asdict() for use in self.gpu]
        return asdict(self) | {"gpu": gpu, "tokens_per_s": self.tokens_per_s}


class Clock:
    """Time since the command began, and when nothing new begins any more."""

    def __init__(self, deadline_s: float) -> None:
        self._begun_s = time.monotonic()
        self._deadline_s = deadline_s

    @property
    def now_s(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._begun_s

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.now_s > self._deadline_s

    def say(self, text: str) -> None:
        """Print a line with the time before it."""
        say(f"[{self.now_s:7.1f} s] {text}")


@dataclass(slots=True)
class Found:
    """Everything measured so far."""

    rounds: list[Round] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    """Figures of one part of the command only."""

    def counted(self, side: str) -> list[Round]:
        """Take a side's rounds, warm-ups aside."""
        return [found for found in self.rounds if found.side == side and not found.warm_up]

    def part(self, plan: str) -> "Found":
        """Take the rounds of one plan."""
        return Found(rounds=[found for found in self.rounds if found.plan == plan])
