"""What outlives a stream: its part of the run's record."""

from array import array
from dataclasses import dataclass, field


@dataclass(slots=True)
class StreamCounts:
    """Kept of every stream until the end of the run; a stream itself takes some 7 KiB."""

    num_frames: int = 0
    """Frames of tokens received."""
    num_tokens: int = 0
    """Tokens received in them."""
    engine_steps: int = 0
    """As of the last pong."""
    produced_tokens: int = 0
    """Tokens that the engine produced for this stream, as of the last pong."""
    asked: bool = False
    """Whether its worker was asked for its final counts."""
    settled: bool = False
    """Whether the last pong counts everything that the engine produced for this stream."""
    spec_hash: str = ""
    round_trip_ns: int = 0
    """Of the shortest ping."""
    clock_offset_ns: int = 0
    """Worker's monotonic clock minus ours; 0 where the shortest ping cannot tell it from 0."""
    report_delays_ns: "array[int]" = field(default_factory=lambda: array("q"))
    """Per frame with a first token or an end: LoadGen told (our clock) minus produced (the worker's)."""
