"""Readings of the GPUs that this process may use, taken once a second on a thread: NVML may take long."""

import os
import threading
import time
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import NamedTuple, Self, TypeVar

from protos import worker_pb2 as pb
from worker.machine.gpus import VARIABLE
from worker.machine.nvml import is_visible

INTERVAL_S = 1.0
MAX_AGE_S = 5.0
"""An older reading is not used: the driver does not answer."""
_T = TypeVar("_T")


class _Readings(NamedTuple):
    """One reading of each GPU."""

    at_s: float
    gpus: list[pb.GpuLoad]


class GpuSampler:
    """Reads the GPUs within a `with` block; one per process."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """Prepare; reading begins with the `with` block.

        Args:
            now_s: The clock.
        """
        self._now_s = now_s
        self._readings = _Readings(now_s(), [])
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="gpus", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop reading; does not wait: the driver may hang."""
        self._ended.set()

    def latest(self) -> list[pb.GpuLoad]:
        """Return the latest readings; empty without GPUs, and while the driver does not answer.

        Thread: any; does not block.
        """
        readings = self._readings
        return readings.gpus if self._now_s() - readings.at_s <= MAX_AGE_S else []

    def _run(self) -> None:
        """Thread: gpus. Ends at once on a machine without NVIDIA's binding or driver."""
        try:
            import pynvml
        except ModuleNotFoundError:
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        try:
            devices = GpuReader(pynvml)
            while devices.handles and not self._ended.is_set():
                self._readings = _Readings(self._now_s(), devices.read())
                self._ended.wait(INTERVAL_S)
        finally:
            pynvml.nvmlShutdown()


class GpuReader:
    """Reads devices with an initialized NVML."""

    def __init__(self, nvml: ModuleType) -> None:
        """Find the devices that CUDA_VISIBLE_DEVICES names; all of them without it."""
        self._nvml = nvml
        self.handles = {
            index: handle
            for index in range(nvml.nvmlDeviceGetCount())
            if (handle := self._visible(index)) is not None
        }
        """NVML's handle of each device, by its index."""

    def read(self) -> list[pb.GpuLoad]:
        """Read every device; a value that it does not tell is absent."""
        return [self._read(index, handle) for index, handle in self.handles.items()]

    def _visible(self, index: int) -> object | None:
        """Return the handle of a device; None if this process may not use it, or it fails."""
        nvml = self._nvml
        handle = self._try(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        uuid = None if handle is None else self._try(lambda: nvml.nvmlDeviceGetUUID(handle))
        visible = os.environ.get(VARIABLE)
        if uuid is None or visible is None:
            return None if uuid is None else handle
        entries = [entry.strip() for entry in visible.split(",")]
        return handle if is_visible(entries, index, uuid) else None

    def _read(self, index: int, handle: object) -> pb.GpuLoad:
        nvml = self._nvml
        power_mw = self._try(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        memory = self._try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2))
        return pb.GpuLoad(
            index=index,
            power_w=None if power_mw is None else power_mw / 1e3,
            sm_clock_mhz=self._try(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            used_memory_bytes=None if memory is None else memory.used,
            temperature_c=self._try(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        )

    def _try(self, read: Callable[[], _T]) -> _T | None:
        """Read a value; None if the device or the driver does not tell it."""
        try:
            return read()
        except self._nvml.NVMLError:
            return None
