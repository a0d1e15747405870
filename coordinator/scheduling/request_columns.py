"""Column types of the request table, and the types of its arguments and results."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
"""(R,) rows of the request table."""
TokenCounts = NDArray[np.int64]
"""(R,) number of tokens of each request."""
TimesNs = NDArray[np.int64]
"""(R,) nanoseconds: times of the coordinator's monotonic clock, or differences of them."""

ROW = np.dtype(
    [
        ("sample", "i8"),
        ("worker", "i4"),
        ("losses", "u2"),
        ("stalled_losses", "u2"),
        ("prompt_len", "i8"),
        ("prefill_len", "i8"),
        ("given_tokens", "i8"),
        ("num_tokens", "i8"),
        ("issued_ns", "i8"),
        ("sent_ns", "i8"),
        ("given_ns", "i8"),
        ("first_ns", "i8"),
        ("query", "i8"),
    ]
)
"""One request in flight; times are by the coordinator's monotonic clock.

losses: how often the request has lost its worker; stalled_losses: how often since its last token;
prefill_len: tokens that its worker must prefill before the first token; given_tokens: tokens that it had when
its current worker got it; sent_ns: when it was first sent; given_ns: when its current worker got it;
first_ns: when its first token arrived, or 0; query: its number in the order of issue, from 0.
"""
FACTS = {name: ROW[name] for name in ROW.names or () if name != "worker"}
"""Columns of ROW that a table stores as they are; the worker is stored with the generation."""

DONE = np.dtype(
    [
        ("sample", "i4"),
        ("worker", "i4"),
        ("reason", "u1"),
        ("losses", "u2"),
        ("prompt_len", "i4"),
        ("num_tokens", "i4"),
        ("issued_ns", "i8"),
        ("sent_ns", "i8"),
        ("first_ns", "i8"),
        ("done_ns", "i8"),
        ("query", "i8"),
    ]
)
"""The record of a finished request; fields as in ROW. reason: a value of pb.FinishReason."""


def ttft_ns(requests: NDArray[np.void]) -> TimesNs:
    """Return the time from issue to the first token of the requests that have one, of dtype ROW or DONE."""
    found: TimesNs = (requests["first_ns"] - requests["issued_ns"])[requests["first_ns"] > 0]
    return found


def tpot_ns(done: NDArray[np.void]) -> TimesNs:
    """Return the time per token after the first of the finished requests with several tokens, dtype DONE."""
    several = done[(done["first_ns"] > 0) & (done["num_tokens"] > 1)]
    found: TimesNs = (several["done_ns"] - several["first_ns"]) // (several["num_tokens"] - 1)
    return found


# An array over bytes is read-only.
_NUMBERS = np.frombuffer(np.arange(1 << 14).tobytes(), np.int64)


def counting_numbers(num: int) -> NDArray[np.int64]:
    """Return 0 to `num` - 1, read-only; a slice costs a quarter of np.arange."""
    return _NUMBERS[:num] if num <= len(_NUMBERS) else np.arange(num)


class NewRequests(NamedTuple):
    """R requests that are assigned to their first worker."""

    loadgen_ids: NDArray[np.uint64]
    """(R,) LoadGen's response ids: pointers, which are never sent to a worker."""
    samples: NDArray[np.int64]
    """(R,) indices into the data set."""
    prompt_lens: TokenCounts
    issued_ns: TimesNs
    sent_ns: int
    queries: NDArray[np.int64]
    """(R,) numbers in the order of issue."""


class Arrivals(NamedTuple):
    """First tokens and completions in a frame."""

    first_slots: list[int]
    """Requests whose first token arrived."""
    finished_slots: list[int]
    """Requests that are complete."""
    finish_reasons: list[int]
    """Values of pb.FinishReason, one per finished slot."""
    prefilled_tokens: int
    """Prompt tokens of the requests whose prefill on this worker has ended."""
    queries: list[int]
    """Numbers in the order of issue, of the first slots and then of the finished ones."""


class Reportable(NamedTuple):
    """Requests as arguments of LoadGen's calls."""

    loadgen_ids: list[int]
    addresses: list[int]
    """Memory addresses of the first tokens; valid until the next `assign`."""
    counts: list[int]
    """Number of tokens received for each."""
