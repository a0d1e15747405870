"""What the guards cost, from windows of one run in which they were on and off by turns."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

BOUND = 0.02
"""Of the coordinator's CPU time: what the guards may cost in a run without faults."""
MARGIN_S = 3.0
"""What is left out at each end of a run, but never more than a tenth: requests come in, and run out."""
MIN_PAIRS = 30
"""Below that the standard error itself is a guess."""
SIGMAS = 1.96
"""Standard errors to each side that hold 95 % of a normal distribution, which the mean of many pairs has."""


class Window(NamedTuple):
    """A stretch of one coordinator's run."""

    guarded: int
    """1: the guards were on; 0: off."""
    cpu_ns: int
    """Of the whole process, all its threads."""
    frames: int
    """Frames of tokens that came in."""
    tokens: int
    wall_ns: int


class Pair(NamedTuple):
    """Two neighbouring windows."""

    on: Window
    off: Window


class Cost(NamedTuple):
    """CPU time that the guards take in a frame, as a share of a frame's without them."""

    share: float
    standard_error: float
    num_pairs: int
    on_us_per_frame: float
    off_us_per_frame: float
    on_ms_per_s: float
    off_ms_per_s: float
    frames_per_s: float
    tokens_per_s: float

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "Cost":
        """Estimate it from at least two pairs.

        The mean, not the median: what happens once a second or each ten falls into few windows.
        """
        ons = [pair.on.cpu_ns / pair.on.frames for pair in pairs]
        offs = [pair.off.cpu_ns / pair.off.frames for pair in pairs]
        differences = [on - off for on, off in zip(ons, offs, strict=True)]
        off_ns = statistics.mean(offs)
        windows = [window for pair in pairs for window in pair]
        seconds = sum(window.wall_ns for window in windows) / 1e9
        return cls(
            share=statistics.mean(differences) / off_ns,
            standard_error=statistics.stdev(differences) / math.sqrt(len(pairs)) / off_ns,
            num_pairs=len(pairs),
            on_us_per_frame=statistics.mean(ons) / 1e3,
            off_us_per_frame=off_ns / 1e3,
            on_ms_per_s=_ms_per_s([pair.on for pair in pairs]),
            off_ms_per_s=_ms_per_s([pair.off for pair in pairs]),
            frames_per_s=sum(window.frames for window in windows) / seconds,
            tokens_per_s=sum(window.tokens for window in windows) / seconds,
        )

    @property
    def low(self) -> float:
        """The share lies between this and `high` with a confidence of 95 %."""
        return self.share - SIGMAS * self.standard_error

    @property
    def high(self) -> float:
        """See `low`."""
        return self.share + SIGMAS * self.standard_error

    def plus(self, ms_per_s: float) -> "Cost":
        """Add what could not be switched off: CPU time a second, in ms; the error stays."""
        return self._replace(share=self.share + ms_per_s / self.off_ms_per_s)

    def judgement(self) -> str:
        """Say where the whole interval lies."""
        if self.num_pairs >= MIN_PAIRS and self.high < BOUND:
            return "below"
        if self.num_pairs >= MIN_PAIRS and self.low > BOUND:
            return "ABOVE"
        return "not decided: more seconds or rounds, or a quieter machine"


def steady_pairs(windows: Sequence[Window]) -> list[Pair]:
    """Take the pairs in which the run was under way.

    Args:
        windows: A run's, in order; the first two are a pair, and so on, and one left over is none.

    Returns:
        Pairs whose windows both have half of the median number of frames or more, without MARGIN_S at each
        end.
    """
    pairs = [_pair(*two) for two in zip(windows[::2], windows[1::2], strict=False)]
    busy = [window.frames for pair in pairs for window in pair if window.frames]
    least = statistics.median(busy) / 2 if busy else math.inf
    pairs = [pair for pair in pairs if min(pair.on.frames, pair.off.frames) >= least]
    if not pairs:
        return []
    pair_ns = statistics.median(pair.on.wall_ns + pair.off.wall_ns for pair in pairs)
    margin = min(math.ceil(MARGIN_S * 1e9 / pair_ns), len(pairs) // 10)
    return pairs[margin : len(pairs) - margin]


def _pair(first: Window, second: Window) -> Pair:
    return Pair(first, second) if first.guarded else Pair(second, first)


def _ms_per_s(windows: Sequence[Window]) -> float:
    return sum(window.cpu_ns for window in windows) / sum(window.wall_ns for window in windows) * 1e3
