"""Readings of GPUs, over the stand-in for NVIDIA's binding of test_nvml.py."""

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protos import worker_pb2 as pb
from tests.worker.machine.test_nvml import GIB, NVMLError, binding, refuse
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.machine import gpu_sampler
from worker.machine.gpu_sampler import GpuSampler
from worker.servicer import WorkerServicer


def stand_in(num_devices: int = 2, **changed: object) -> SimpleNamespace:
    """Make a binding whose devices draw 500.5 W and 501.5 W, and so on."""
    power = {"nvmlDeviceGetPowerUsage": lambda handle: 500_500 + 1_000 * handle}
    return binding(num_devices, **(power | changed))


def read_once(
    monkeypatch: pytest.MonkeyPatch, nvml: object, now_s: Callable[[], float] = lambda: 1.0
) -> list[pb.GpuLoad]:
    """Run a sampler on its thread until that has ended or has read once; returns the latest reading."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    sampler = GpuSampler(now_s)
    with sampler:
        thread = next((thread for thread in threading.enumerate() if thread.name == "gpus"), None)
        for _ in range(6000):
            if thread is None or not thread.is_alive() or sampler.latest():
                break
            thread.join(0.01)
    if thread is not None:
        thread.join(60)
    return sampler.latest()


def test_each_visible_gpu_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's milliwatts become watts; of three devices only the one that may be used is read."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    expected = pb.GpuLoad(
        index=1, power_w=501.5, sm_clock_mhz=345, used_memory_bytes=64 * GIB, temperature_c=41
    )
    assert [expected] == read_once(monkeypatch, stand_in(3))


def test_the_readings_are_told_with_the_engines_load() -> None:
    """The load of a worker has the sampler's GPUs beside the engine's requests."""
    gpus = [pb.GpuLoad(index=0, power_w=700)]
    sampler = cast(Any, SimpleNamespace(latest=lambda: gpus))
    servicer = WorkerServicer(CountingEngine(CountingConfig()), 0, 60, gpus=sampler)
    assert gpus == list(servicer.read_load().gpus)


def test_a_value_that_a_device_does_not_tell_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without power, clock and temperature the memory is still told."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = stand_in(
        1, nvmlDeviceGetPowerUsage=refuse, nvmlDeviceGetClockInfo=refuse, nvmlDeviceGetTemperature=refuse
    )
    assert [pb.GpuLoad(index=0, used_memory_bytes=64 * GIB)] == read_once(monkeypatch, nvml)


def test_a_machine_without_gpus_has_no_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the binding, without a driver and without devices the thread ends and nothing is told."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    for nvml in (None, stand_in(nvmlInit=fail), stand_in(0)):
        assert [] == read_once(monkeypatch, nvml)


def test_an_old_reading_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that has not answered for more than 5 s leaves no readings."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(1))  # type: ignore[arg-type]
    monkeypatch.setattr(gpu_sampler, "INTERVAL_S", 60.0)
    now_s = [1.0]
    sampler = GpuSampler(lambda: now_s[0])
    with sampler:
        for _ in range(6000):
            if sampler.latest():
                break
            threading.Event().wait(0.01)
        now_s[0] = 6.0
        assert 1 == len(sampler.latest())
        now_s[0] = 6.1
        assert [] == sampler.latest()
