"""What a round over two unequal workers says: each one's part, and how far apart they ended."""

from typing import Any, NamedTuple

HELD = 1
"""Index of the worker that is held; the other one is free."""


class Part(NamedTuple):
    """One worker's part of a round."""

    requests: int
    tokens: int
    ended_s: float
    """From LoadGen's query to the end of its last request."""
    service_p50_s: float
    """One request, from the message that carries its prompt to its end: half of them took less."""
    service_max_s: float

    @property
    def tokens_per_s(self) -> float:
        """Over all of its part."""
        return self.tokens / self.ended_s


class Round(NamedTuple):
    """A run whose answers are all those of LLM.generate."""

    parts: list[Part]
    """By worker."""
    answers: int
    """Compared."""
    outcome: str
    """LoadGen's and the harness's verdict."""
    engine: str
    """The workers', with its version."""

    @property
    def difference_s(self) -> float:
        """Between the two ends; above 0 where the held worker ends last."""
        return self.parts[HELD].ended_s - self.parts[1 - HELD].ended_s

    @property
    def request_s(self) -> float:
        """One request's time: the smaller of the two medians."""
        return min(part.service_p50_s for part in self.parts)

    @property
    def met(self) -> bool:
        """Both end within one request's time of each other."""
        return abs(self.difference_s) <= self.request_s

    @property
    def halves_difference_s(self) -> float:
        """Between the ends if each had got half of the tokens at its measured rate: computed, not run."""
        half = sum(part.tokens for part in self.parts) / 2
        return half / self.parts[HELD].tokens_per_s - half / self.parts[1 - HELD].tokens_per_s


def part_of(worker: dict[str, Any]) -> Part:
    """Take a worker's part from its row in run.json."""
    service = worker["service_ns"]
    return Part(
        requests=worker["requests"],
        tokens=worker["tokens"],
        ended_s=worker["ended_ns"] / 1e9,
        service_p50_s=service["percentiles"].get("p50", 0) / 1e9,
        service_max_s=service["maximum"] / 1e9,
    )
