"""Facts about this machine's accelerators from NVML, through nvidia-ml-py, a dependency of vLLM on GPUs."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from common.environment import MAX_VALUE_LEN
from common.text import printable
from protos import worker_pb2 as pb
from worker.machine.gpus import VARIABLE

_T = TypeVar("_T")
# Clock event reasons to ignore: that of an idle GPU, and NVML's names for no reason and for all.
_IDLE = ("GpuIdle", "None", "All")
_REASON = "nvmlClocksEventReason"


def add_accelerators(host: pb.HostInfo) -> None:
    """Add the accelerators, or the reason why they cannot be read, to a host's facts; may take seconds."""
    try:
        import pynvml
    except ModuleNotFoundError:
        # No GPU build of vLLM is installed.
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        # No driver is installed.
        return
    except pynvml.NVMLError as error:
        host.not_told.append(f"accelerators: NVML: {error}")
        return
    try:
        _Nvml(pynvml).describe(host)
    finally:
        pynvml.nvmlShutdown()


def is_visible(entries: list[str], index: int, uuid: str) -> bool:
    """Return whether an entry of CUDA_VISIBLE_DEVICES is a device's index or the beginning of its UUID."""
    return any(entry == str(index) or (entry != "" and uuid.startswith(entry)) for entry in entries)


class _Nvml:
    """Reads devices with an initialized NVML."""

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml = nvml
        self._own_pids = process_tree(os.getpid())

    def describe(self, host: pb.HostInfo) -> None:
        """Add every device that this process may use, or the error of a device that cannot be read."""
        devices = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                devices.append(self._device(index))
            except self._nvml.NVMLError as error:
                host.not_told.append(f"accelerator {index}: NVML: {error}")
        visible = os.environ.get(VARIABLE)
        if visible is not None:
            entries = [entry.strip() for entry in visible.split(",")]
            devices = [device for device in devices if is_visible(entries, device.index, device.uuid)]
            if visible and not devices:
                shown = printable(visible, MAX_VALUE_LEN)
                host.not_told.append(f"accelerators: {VARIABLE}={shown} names no whole GPU")
        host.accelerators.extend(devices)

    def _device(self, index: int) -> pb.Accelerator:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
        reasons = self._clock_reasons(handle)
        return pb.Accelerator(
            index=index,
            uuid=nvml.nvmlDeviceGetUUID(handle),
            name=nvml.nvmlDeviceGetName(handle),
            driver_version=nvml.nvmlSystemGetDriverVersion(),
            memory_bytes=memory.total,
            used_memory_bytes=memory.used,
            own_memory_bytes=self._own_memory_bytes(handle),
            ecc=self._ask(lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
            uncorrected_errors=self._ask(
                lambda: nvml.nvmlDeviceGetTotalEccErrors(
                    handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                )
            ),
            sm_clock_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            max_sm_clock_mhz=self._ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            temperature_c=self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            clock_reasons=reasons,
            clock_reasons_known=reasons is not None,
        )

    def _ask(self, read: Callable[[], _T]) -> _T | None:
        """Read a value that not every device and driver supports."""
        try:
            return read()
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):
            return None

    def _own_memory_bytes(self, handle: object) -> int | None:
        """Sum our processes' memory; None if NVML lists none of them, as in a pid namespace."""
        processes = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
        ours = [process.usedGpuMemory or 0 for process in processes if process.pid in self._own_pids]
        return sum(ours) if ours else None

    def _clock_reasons(self, handle: object) -> list[str] | None:
        bits = self._ask(lambda: self._nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        if bits is None:
            return None
        names = {
            name.removeprefix(_REASON): value
            for name, value in vars(self._nvml).items()
            if name.startswith(_REASON) and isinstance(value, int)
        }
        # UserDefinedClocks is a deprecated alias: the first name of each value is kept.
        known = {value: name for name, value in reversed(names.items()) if name not in _IDLE}
        return sorted(name for value, name in known.items() if value & bits)


def process_tree(pid: int) -> set[int]:
    """Return a process id and those of all its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "12 (a name) S 1 ...": the name may contain any characters, also parentheses.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            # The process has ended.
            continue
    members = {pid}
    while children := {child for child, parent in parents.items() if parent in members} - members:
        members |= children
    return members
