"""Bounds what a worker reports about its engine's load.

The load decides nothing. A value out of bounds therefore counts as unknown and does not end the stream.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from protos import worker_pb2 as pb

UNKNOWN = -1
"""Number of requests that is not known."""
MAX_REQUESTS = 1 << 30
MAX_GPUS = 64
"""Of more than these there is no sum, and the means are those of the first ones."""
MAX_POWER_W = 1e5
MAX_CLOCK_MHZ = 1e5
MAX_MEMORY_BYTES = float(1 << 50)
MAX_TEMPERATURE_C = 1e3


class EngineReading(NamedTuple):
    """The load of one worker's engine; a float is NaN where it is not known."""

    running: int = UNKNOWN
    waiting: int = UNKNOWN
    kv_use: float = math.nan
    """Share of the KV cache in use, 0 to 1."""
    gpu_power_w: float = math.nan
    """Sum over the GPUs of the worker's machine, as is the memory; NaN unless each of them tells it."""
    gpu_clock_mhz: float = math.nan
    """Mean over those GPUs, as is the temperature."""
    gpu_memory_bytes: float = math.nan
    gpu_temperature_c: float = math.nan

    @classmethod
    def of(cls, load: pb.EngineLoad) -> "EngineReading":
        """Select and bound the values of another process."""
        gpus = load.gpus[:MAX_GPUS]
        powers = _known((gpu.power_w for gpu in gpus if gpu.HasField("power_w")), MAX_POWER_W)
        clocks = _known((gpu.sm_clock_mhz for gpu in gpus if gpu.HasField("sm_clock_mhz")), MAX_CLOCK_MHZ)
        memories = (gpu.used_memory_bytes for gpu in gpus if gpu.HasField("used_memory_bytes"))
        degrees = (gpu.temperature_c for gpu in gpus if gpu.HasField("temperature_c"))
        kv_uses = _known([load.kv_use] if load.HasField("kv_use") else [], 1.0)
        return cls(
            running=load.running if load.running <= MAX_REQUESTS else UNKNOWN,
            waiting=load.waiting if load.waiting <= MAX_REQUESTS else UNKNOWN,
            kv_use=_mean(kv_uses),
            gpu_power_w=_sum(powers, len(load.gpus)),
            gpu_clock_mhz=_mean(clocks),
            gpu_memory_bytes=_sum(_known(memories, MAX_MEMORY_BYTES), len(load.gpus)),
            gpu_temperature_c=_mean(_known(degrees, MAX_TEMPERATURE_C)),
        )


NO_READING = EngineReading()


def _known(values: Iterable[float], bound: float) -> list[float]:
    """Leave out values below 0, above a bound, and NaN."""
    return [value for value in values if 0 <= value <= bound]


def _sum(values: list[float], num: int) -> float:
    """Add the values of `num` GPUs; a sum without one of them would pass for that of all."""
    return sum(values) if num and len(values) == num else math.nan


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
