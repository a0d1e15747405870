"""Requests of the steady state: those that are running at an arbitrary moment, and those that follow them.

A request that runs at an arbitrary moment has a length-biased answer of which a uniform part is produced. The
tokens that it still lacks, x, have the probability P(answer >= x) / mean answer; its answer is any answer of
at least x tokens. All draws are stratified, so that a short window has about the mean number of ends and the
mean prompt.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.gpu.load import TokenLengths
from sut.synthetic_files import draw_lens

_POOL_SIZE = 1 << 16
_NUM_STRATA = 64
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceLengths(TokenLengths):
    """The official mean lengths."""

    mean_prompt_len: float = 1500.0
    max_prompt_len: int = 12_000
    mean_answer_len: float = 1278.0
    max_answer_len: int = 4096


class RunningRequests(NamedTuple):
    """Requests that are running at one moment."""

    context_lens: Ints
    """(N,) tokens of the prompt and of the part of the answer that is already produced."""
    remaining_lens: Ints
    """(N,) tokens of the answer that are still to be produced, at least 1."""


class SteadyLoad:
    """Draws the requests of the steady state."""

    def __init__(self, lengths: RaceLengths) -> None:
        """Draw the pools of lengths from which all requests are taken."""
        rng = np.random.default_rng(lengths.seed)
        self.seed = lengths.seed
        self._prompts = np.sort(draw_lens(rng, _POOL_SIZE, lengths.mean_prompt_len, lengths.max_prompt_len))
        self.answers = np.sort(draw_lens(rng, _POOL_SIZE, lengths.mean_answer_len, lengths.max_answer_len))
        """Answer lengths in ascending order."""

    @property
    def prompt_tokens_per_output_token(self) -> float:
        """Return the prompt tokens that the steady state prefills for each token that it produces."""
        return float(self._prompts.mean() / self.answers.mean())

    @property
    def mean_context_len(self) -> float:
        """Return the mean tokens of a running request's prompt and produced answer.

        The produced part is uniform over 0 .. a - 1 with a length-biased answer a.
        """
        squares = (self.answers.astype(np.float64) ** 2).mean()
        return float(self._prompts.mean() + (squares / self.answers.mean() - 1) / 2)

    def running(self, num_rows: int) -> RunningRequests:
        """Draw the requests that are running at one moment; equal arguments give equal requests."""
        rng = np.random.default_rng((self.seed, num_rows))
        at_least = len(self.answers) - np.searchsorted(self.answers, np.arange(1, self.answers[-1] + 1))
        cumulative = at_least.cumsum() / at_least.sum()
        remaining = np.searchsorted(cumulative, _strata(rng, num_rows)) + 1
        first = np.searchsorted(self.answers, remaining)
        chosen = first + (_strata(rng, num_rows) * (len(self.answers) - first)).astype(np.int64)
        prompts = _pick(self._prompts, _strata(rng, num_rows))
        return RunningRequests(prompts + self.answers[chosen] - remaining, remaining)

    def following(self) -> Iterator[tuple[int, int]]:
        """Yield prompt and answer length of the requests that start when others end, without an end."""
        rng = np.random.default_rng((self.seed, 0))
        while True:
            prompts = _pick(self._prompts, _strata(rng, _NUM_STRATA))
            answers = _pick(self.answers, _strata(rng, _NUM_STRATA))
            yield from zip(prompts.tolist(), answers.tolist(), strict=True)


def _strata(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    """Draw one number in each of `num` equal parts of 0 .. 1, in random order."""
    drawn: NDArray[np.float64] = (rng.permutation(num) + rng.random(num)) / num
    return drawn


def _pick(lens: Ints, quantiles: NDArray[np.float64]) -> Ints:
    picked: Ints = lens[(quantiles * len(lens)).astype(np.int64)]
    return picked


class SharedPrefixes(NamedTuple):
    """How running requests begin with shared token sequences, which are prefilled only once."""

    prefix_lens: Ints
    """(P,) tokens of each sequence: its longest context."""
    prefix_of: Ints
    """(N,) index of each request's sequence, of which the request's prompt is the beginning."""
    order: Ints
    """(N,) order in which the requests are sent: P requests apart, two have the same sequence."""


def share_prefixes(context_lens: Ints, requests_per_prefix: int, seed: int) -> SharedPrefixes:
    """Let requests of similar contexts share a sequence, so that the sequences have few tokens in total."""
    rng = np.random.default_rng(seed)
    num_rows = len(context_lens)
    longest_first = np.argsort(-context_lens, kind="stable")
    prefix_of = np.empty(num_rows, np.int64)
    prefix_of[longest_first] = np.arange(num_rows) // requests_per_prefix
    prefix_lens = context_lens[longest_first[::requests_per_prefix]]
    # Requests that read the same blocks in one step must not be near each other in the batch: the second
    # would read them from the GPU's cache instead of its memory.
    places = rng.permutation(len(prefix_lens))
    turns = np.empty(num_rows, np.int64)
    for prefix in range(len(prefix_lens)):
        members = np.flatnonzero(prefix_of == prefix)
        turns[members] = rng.permutation(len(members))
    return SharedPrefixes(prefix_lens, prefix_of, np.lexsort((places[prefix_of], turns)))
