"""Requests with times made by hand."""

import numpy as np

from coordinator.scheduling.request_columns import DONE
from sut.results.timing.request_records import StreamTimes

ORIGIN = 1_000_000
AHEAD = 10**12
"""The worker's clock minus ours, as the ping tells exactly: its round trip takes no time."""
PING = [[ORIGIN, ORIGIN + AHEAD, ORIGIN]]
Begin = tuple[int, int, int, int, int, int, int]
End = tuple[int, int, int, int]


def done(*rows: dict[str, int]) -> np.ndarray:
    """Make finished requests; times are since ORIGIN, and what is not given is that of a common request."""
    found = np.zeros(len(rows), DONE)
    for number, row in enumerate(rows):
        values = {"query": number, "worker": 0, "reason": 1, "prompt_len": 9, "num_tokens": 5} | row
        for name, value in values.items():
            found[name][number] = value + ORIGIN if name.endswith("_ns") else value
    return found


def stream(
    begins: list[Begin], ends: list[End], pings: list[list[int]] | None = None, call_ns: int = 0
) -> StreamTimes:
    """Make a stream.

    Args:
        begins: query, arrival, report; frame, received, admitted, first token, all since ORIGIN on our clock.
        ends: query, report; frame, last token, likewise.
        pings: As ClockOffsets takes them; None: one that tells the difference exactly.
        call_ns: How long each call of LoadGen takes.
    """
    own = np.array([[ORIGIN, ORIGIN, ORIGIN + AHEAD, ORIGIN + AHEAD, ORIGIN + AHEAD, ORIGIN + AHEAD]])
    begun = np.array(begins, np.int64).reshape(-1, 7)
    begun[:, 1:] += own
    ended = np.array(ends, np.int64).reshape(-1, 4)
    ended[:, 1:] += [[ORIGIN, ORIGIN + AHEAD, ORIGIN + AHEAD]]
    begun = np.insert(begun, 3, begun[:, 2] + call_ns, axis=1)
    ended = np.insert(ended, 2, ended[:, 1] + call_ns, axis=1)
    return StreamTimes(0, 3, np.array(PING if pings is None else pings, np.int64), begun, ended)
