"""Figures of bench.gpu, and its time limit."""

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
    """Name of the plan."""
    gpus: tuple[int, ...]
    number: int
    warm_up: bool
    """Excluded from all figures."""
    at_s: float
    """Time since the start of the command."""
    seconds: float
    """Time from the first request to the last answer; by LoadGen's log on the side with LoadGen."""
    requests: int
    tokens: int
    expected_tokens: int
    verdict: str
    front_cpu_s: float
    """CPU time of the engine's front end: the process of worker, LLM, AsyncLLM or API server."""
    client_cpu_s: float
    """CPU time of the coordinator within LoadGen's test, or of the HTTP client."""
    engine_cpu_s: float
    """CPU time of vLLM's other processes."""
    gpu: list[Use | None]
    """GPU usage between the first request and the last answer, per GPU."""
    ttft_ms: dict[str, float]
    tpot_ms: dict[str, float]
    tokens_per_s_before_tail: float | None = None
    """Until the last request got its first token; None: not known."""
    compiled_kernels: int | None = None
    """Compiled by the engine in the round, of those that vLLM's monitor sees; None: not known."""
    request_ttft_ms: list[float] = field(default_factory=list)
    """Of each request in the order of arrival, from its scheduled time; empty in Offline, or if not known."""
    is_unequal: bool = False
    """The round did other work than the other rounds of its plan: excluded from all medians and ratios."""

    @property
    def is_counted(self) -> bool:
        """Return whether medians and ratios include the round."""
        return not self.warm_up and not self.is_unequal

    @property
    def tokens_per_s(self) -> float:
        """Return output tokens per second of the round."""
        return self.tokens / self.seconds

    def per_mtok(self, cpu_s: float) -> float:
        """Divide by the round's tokens in millions."""
        return cpu_s / self.tokens * 1e6

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the rate."""
        gpu = [None if use is None else use._asdict() for use in self.gpu]
        return asdict(self) | {"gpu": gpu, "tokens_per_s": self.tokens_per_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUpRound:
    """A round that was ended early: no complete LoadGen run, and none that could still have been VALID."""

    plan: str
    """Name of the plan."""
    at_s: float
    """Time since the start of the command."""
    seconds: float
    """From the start of LoadGen's test."""
    planned_requests: int
    requests: int
    """Requests that ended."""
    over_ttft: int
    """Requests over the limit of TTFT, for certain."""
    over_tpot: int
    """Ended requests over the limit of TPOT, for certain."""
    ttft_limit_ms: float
    tpot_limit_ms: float
    most_over: int
    """Requests that may be over a limit in a VALID run of the planned ones, by LoadGen's early stopping."""

    @property
    def reason(self) -> str:
        """Return why the run could not be VALID."""
        counts = ((self.over_ttft, "TTFT", self.ttft_limit_ms), (self.over_tpot, "TPOT", self.tpot_limit_ms))
        over = " and ".join(
            f"{num} of {self.planned_requests} queries over {limit_ms:g} ms {name}"
            for num, name, limit_ms in counts
            if num > self.most_over
        )
        return (
            f"no complete LoadGen run, given up after {self.seconds:.1f} s: not VALID with {over}, "
            f"at most {self.most_over} may be"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the reason."""
        return asdict(self) | {"reason": self.reason}


class Clock:
    """Time since the start of the command, and the deadline after which no round begins."""

    def __init__(self, deadline_s: float) -> None:
        self._begun_s = time.monotonic()
        self._deadline_s = deadline_s

    @property
    def now_s(self) -> float:
        """Return the seconds since the start of the command."""
        return time.monotonic() - self._begun_s

    @property
    def over(self) -> bool:
        """Return whether the deadline has passed."""
        return self.now_s > self._deadline_s

    def ends_before(self, seconds: float) -> bool:
        """Return whether the deadline passes within this time."""
        return self.now_s + seconds > self._deadline_s

    def say(self, text: str) -> None:
        """Print a line prefixed with the time."""
        say(f"[{self.now_s:7.1f} s] {text}")


@dataclass(slots=True)
class Found:
    """All figures so far."""

    rounds: list[Round] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    given_up: list[GivenUpRound] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    """Figures that only one part of the command has."""

    def counted(self, side: str) -> list[Round]:
        """Return a side's rounds without warm-ups and rounds of unequal work."""
        return [found for found in self.rounds if found.side == side and found.is_counted]

    def part(self, plan: str) -> "Found":
        """Return the rounds of one plan."""
        return Found(
            rounds=[found for found in self.rounds if found.plan == plan],
            given_up=[found for found in self.given_up if found.plan == plan],
        )
