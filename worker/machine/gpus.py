"""The NVIDIA accelerators that this process may use, and their NUMA-local cores; does not initialize CUDA."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from worker.machine.cores import Cores, parse_cores

VARIABLE = "CUDA_VISIBLE_DEVICES"
PCI_DEVICES = Path("/sys/bus/pci/devices")
DEVICE_FILES = Path("/dev")


class Device(NamedTuple):
    """One accelerator."""

    name: str
    """As CUDA_VISIBLE_DEVICES names it."""
    cores: Cores
    """Cores of its NUMA node, ascending; empty if the NUMA node is not known."""


class Memory(NamedTuple):
    """An accelerator's memory, without the part reserved by the driver."""

    name: str
    """As CUDA_VISIBLE_DEVICES names it."""
    free_bytes: int
    total_bytes: int


class _Known(NamedTuple):
    """A device as the driver reports it."""

    uuid: str
    cores: Cores
    free_bytes: int
    total_bytes: int


def visible_devices() -> list[Device]:
    """List the accelerators in the order of CUDA_VISIBLE_DEVICES, or the driver's if that is not set.

    Raises:
        ValueError: CUDA_VISIBLE_DEVICES names a device twice or one that does not exist, or the driver cannot
            be queried.
    """
    return [Device(name, known.cores if known else ()) for name, known in _visible()]


def visible_memory() -> list[Memory]:
    """List the current memory in the order of `visible_devices`; MIG slices are left out.

    Raises:
        ValueError: See visible_devices.
    """
    return [Memory(name, known.free_bytes, known.total_bytes) for name, known in _visible() if known]


def _visible() -> list[tuple[str, _Known | None]]:
    known = _known_devices()
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return [(str(index), device) for index, device in enumerate(known)]
    names = [name.strip() for name in asked.split(",") if name.strip()]
    indices = [_index_of(name, known) for name in names]
    for name, index in zip(names, indices, strict=True):
        if indices.count(index) > 1:
            raise ValueError(f"{VARIABLE}: {asked!r} names accelerator {name} more than once")
    found = [known[index] if isinstance(index, int) else None for index in indices]
    return list(zip(names, found, strict=True))


def _index_of(name: str, known: list[_Known]) -> int | str:
    """Find a device by index or by the beginning of its UUID, as CUDA does; MIG names are returned unchanged.

    Raises:
        ValueError: No device has this index.
    """
    if name.isdecimal():
        if int(name) >= len(known):
            raise ValueError(f"{VARIABLE}: names accelerator {name}, but the driver has {len(known)}")
        return int(name)
    return next((index for index, device in enumerate(known) if device.uuid.startswith(name)), name)


def _known_devices() -> list[_Known]:
    with _driver() as nvml:
        if nvml is None:
            return []
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        return [_ask(nvml, handle) for handle in handles]


def _ask(nvml: Any, handle: Any) -> _Known:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    cores = _cores_near(nvml.nvmlDeviceGetPciInfo(handle).busId)
    return _Known(nvml.nvmlDeviceGetUUID(handle), cores, memory.free, memory.total - memory.reserved)


@contextmanager
def _driver() -> Iterator[Any]:
    """Initialize NVML inside a `with` block; yields None if the machine has no device.

    Raises:
        ValueError: The machine has a device but NVML cannot be used.
    """
    if not any(DEVICE_FILES.glob("nvidia[0-9]*")):
        yield None
        return
    try:
        import pynvml
    except ImportError as error:
        raise ValueError("accelerators: cannot be listed: the package nvidia-ml-py is missing") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise ValueError(f"accelerators: the NVIDIA driver does not answer: {error}") from error
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _cores_near(bus_id: str) -> Cores:
    """Read the cores of a PCI device's NUMA node; empty if the kernel does not report them.

    NVML writes the PCI domain with eight digits, Linux with four.
    """
    domain, _, rest = bus_id.lower().partition(":")
    path = PCI_DEVICES / f"{domain[-4:]}:{rest}" / "local_cpulist"
    text = path.read_text("ascii").strip() if path.exists() else ""
    return parse_cores(text) if text else ()
