"""Shapes of the request table: its columns, and what goes in and comes out of it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
"""(R,) rows of the request table."""
TokenCounts = NDArray[np.int64]
"""(R,) tokens of each request."""
TimesNs = NDArray[np.int64]
"""(R,) nanoseconds of the coordinator's monotonic clock."""

ROW = np.dtype(
    [
        ("sample", "i8"),
        ("worker", "i4"),
        ("losses", "u2"),
        ("prompt_len", "i8"),
        ("prefill_len", "i8"),
        ("num_tokens", "i8"),
        ("issued_ns", "i8"),
        ("sent_ns", "i8"),
        ("given_ns", "i8"),
        ("first_ns", "i8"),
    ]
)
"""One request in flight; times are of the coordinator's monotonic clock, first_ns is 0 before a first token.

losses: how often it was taken from a worker. prefill_len: tokens its worker must prefill before it answers.
sent_ns: when it was first sent; given_ns: when its present worker got it.
"""

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
    ]
)
"""The record of a finished request; fields as in ROW. reason: a value of pb.FinishReason."""


class NewRequests(NamedTuple):
    """R requests that get their first worker."""

    loadgen_ids: NDArray[np.uint64]
    """(R,) raw pointers of LoadGen; they never leave the process."""
    samples: NDArray[np.int64]
    """(R,) indices into the data set."""
    prompt_lens: TokenCounts
    issued_ns: TimesNs
    sent_ns: int


class Arrivals(NamedTuple):
    """The rows of a frame that concern LoadGen."""

    first_slots: list[int]
    """Requests whose first token came."""
    finished_slots: list[int]
    """Requests that are complete."""
    finish_reasons: list[int]
    """Values of pb.FinishReason, one per finished slot."""
    prefilled_tokens: int
    """Prefill of the requests that answer for the first time on this worker."""


class Reportable(NamedTuple):
    """Requests as LoadGen's calls take them."""

    loadgen_ids: list[int]
    addresses: list[int]
    """Memory addresses of the first tokens; valid until the next `assign`."""
    counts: list[int]
    """Tokens received of each."""
