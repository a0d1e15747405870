"""What a worker reports about its engine's load, and the bounds of it."""

import math

import pytest

from coordinator.transport.engine_reading import UNKNOWN, EngineReading
from protos import worker_pb2 as pb


def test_power_and_memory_are_sums_and_clock_and_temperature_means() -> None:
    """Two GPUs of 400 W and 500 W, 1,000 and 2,000 MHz, 10 and 30 bytes, 40 and 60 degrees."""
    gpus = [
        pb.GpuLoad(index=0, power_w=400, sm_clock_mhz=1000, used_memory_bytes=10, temperature_c=40),
        pb.GpuLoad(index=1, power_w=500, sm_clock_mhz=2000, used_memory_bytes=30, temperature_c=60),
    ]
    load = pb.EngineLoad(running=3, waiting=4, kv_use=0.5, gpus=gpus)
    assert EngineReading(3, 4, 0.5, 900.0, 1500.0, 40.0, 50.0) == EngineReading.of(load)


def test_what_is_not_reported_is_unknown() -> None:
    """A worker without GPUs and without a KV cache has NaN there, not 0."""
    reading = EngineReading.of(pb.EngineLoad(running=1))
    assert (1, 0) == (reading.running, reading.waiting)
    assert all(math.isnan(value) for value in reading[2:])


@pytest.mark.parametrize("kv_use", [math.nan, math.inf, -0.1, 1.1])
def test_an_impossible_value_is_unknown(kv_use: float) -> None:
    """Neither a share beyond 1 nor 10^30 W, 2^32 - 1 requests or 2^60 bytes reach a sum."""
    gpu = pb.GpuLoad(power_w=1e30, sm_clock_mhz=2**32 - 1, used_memory_bytes=2**60, temperature_c=2**32 - 1)
    load = pb.EngineLoad(running=2**32 - 1, waiting=2**32 - 1, kv_use=kv_use, gpus=[gpu] * 1000)
    reading = EngineReading.of(load)
    assert (UNKNOWN, UNKNOWN) == (reading.running, reading.waiting)
    assert all(math.isnan(value) for value in reading[2:])


def test_a_sum_is_that_of_every_gpu() -> None:
    """64 GPUs of 1 W are 64 W; of 65, or if one of them does not tell it, the sum is not known."""
    told = [pb.GpuLoad(power_w=1, used_memory_bytes=2, sm_clock_mhz=3)] * 64
    reading = EngineReading.of(pb.EngineLoad(gpus=told))
    assert (64.0, 128.0) == (reading.gpu_power_w, reading.gpu_memory_bytes)
    for gpus in ([*told, told[0]], [*told[:63], pb.GpuLoad(sm_clock_mhz=3)]):
        reading = EngineReading.of(pb.EngineLoad(gpus=gpus))
        assert math.isnan(reading.gpu_power_w)
        assert math.isnan(reading.gpu_memory_bytes)
        assert 3.0 == reading.gpu_clock_mhz
