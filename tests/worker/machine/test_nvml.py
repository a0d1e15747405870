"""Conversion of NVML's values to GetHost's fields, over a stand-in for NVIDIA's binding.

It has the functions and constants that worker/machine/nvml.py uses, with values as an H100 gives them; that
the real binding has these names and a real driver answers so, no test on a machine without a GPU can show.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from protos import worker_pb2 as pb
from worker.machine.nvml import add_accelerators, is_visible, process_tree

GIB = 1 << 30


class NVMLError(Exception):
    """As in the binding."""


class NotSupported(NVMLError):
    """As in the binding."""


class FunctionNotFound(NVMLError):
    """As in the binding."""


class LibraryNotFound(NVMLError):
    """As in the binding."""


def always(value: object) -> Callable[..., object]:
    """Make a function that returns one value for any arguments."""
    return lambda *_: value


def binding(num_devices: int = 2, **changed: object) -> SimpleNamespace:
    """Make the stand-in; a handle is the device's index."""
    ours = SimpleNamespace(pid=os.getpid(), usedGpuMemory=60 * GIB)
    other = SimpleNamespace(pid=1, usedGpuMemory=3 * GIB)
    usual: dict[str, object] = {
        "NVMLError": NVMLError,
        "NVMLError_NotSupported": NotSupported,
        "NVMLError_FunctionNotFound": FunctionNotFound,
        "NVMLError_LibraryNotFound": LibraryNotFound,
        "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
        "NVML_VOLATILE_ECC": 0,
        "NVML_CLOCK_SM": 1,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlMemory_v2": 0x02000028,
        "nvmlClocksEventReasonGpuIdle": 0x1,
        "nvmlClocksEventReasonApplicationsClocksSetting": 0x2,
        "nvmlClocksEventReasonUserDefinedClocks": 0x2,
        "nvmlClocksEventReasonSwPowerCap": 0x4,
        "nvmlClocksEventReasonHwThermalSlowdown": 0x40,
        "nvmlClocksEventReasonNone": 0x0,
        "nvmlClocksEventReasonAll": 0x47,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "570.1",
        "nvmlDeviceGetCount": lambda: num_devices,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}abc",
        "nvmlDeviceGetName": always("NVIDIA H100 80GB HBM3"),
        "nvmlDeviceGetMemoryInfo": always(SimpleNamespace(total=80 * GIB, used=64 * GIB)),
        "nvmlDeviceGetEccMode": always([1, 1]),
        "nvmlDeviceGetTotalEccErrors": lambda _, kind, counter: 10 * kind + counter,
        "nvmlDeviceGetClockInfo": always(345),
        "nvmlDeviceGetMaxClockInfo": always(1_980),
        "nvmlDeviceGetTemperature": always(41),
        "nvmlDeviceGetComputeRunningProcesses": always([ours, other]),
        "nvmlDeviceGetCurrentClocksEventReasons": always(0x47),
    }
    return SimpleNamespace(**(usual | changed))


def look(monkeypatch: pytest.MonkeyPatch, nvml: object, visible: str | None = None) -> pb.HostInfo:
    """Read the accelerators through the stand-in."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    host = pb.HostInfo()
    add_accelerators(host)
    return host


def refuse(*_: object) -> None:
    """Raise NotSupported or FunctionNotFound."""
    raise NotSupported("Not Supported")


def test_every_column_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each NVML value is in its field; own memory counts only this worker's processes."""
    host = look(monkeypatch, binding(1))
    expected = pb.Accelerator(
        index=0,
        uuid="GPU-0abc",
        name="NVIDIA H100 80GB HBM3",
        driver_version="570.1",
        memory_bytes=80 * GIB,
        used_memory_bytes=64 * GIB,
        own_memory_bytes=60 * GIB,
        ecc=True,
        uncorrected_errors=10,
        sm_clock_mhz=345,
        max_sm_clock_mhz=1_980,
        temperature_c=41,
        # All of the bits but the one for idleness.
        clock_reasons=["ApplicationsClocksSetting", "HwThermalSlowdown", "SwPowerCap"],
        clock_reasons_known=True,
    )
    assert [expected] == list(host.accelerators)
    assert [] == list(host.not_told)


def test_what_a_device_does_not_have_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without ECC, clocks or process list is reported without these fields and without an error."""
    names = ("EccMode", "TotalEccErrors", "ClockInfo", "ComputeRunningProcesses", "CurrentClocksEventReasons")
    host = look(monkeypatch, binding(1, **{f"nvmlDeviceGet{name}": refuse for name in names}))
    (device,) = host.accelerators
    for field in ("ecc", "uncorrected_errors", "sm_clock_mhz", "own_memory_bytes"):
        assert not device.HasField(field)
    assert (1_980, []) == (device.max_sm_clock_mhz, list(device.clock_reasons))
    assert not device.clock_reasons_known
    assert [] == list(host.not_told)


def test_broken_device_is_named_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that fails is reported as an error beside the other devices."""

    def lose_the_first(handle: int) -> str:
        if handle == 0:
            raise NVMLError("GPU is lost")
        return "NVIDIA H100 80GB HBM3"

    host = look(monkeypatch, binding(2, nvmlDeviceGetName=lose_the_first))
    assert [1] == [device.index for device in host.accelerators]
    assert ["accelerator 0: NVML: GPU is lost"] == list(host.not_told)


@pytest.mark.parametrize(
    "visible, indices",
    [("1", [1]), ("0,2", [0, 2]), (" 2 , 1", [1, 2]), ("GPU-1a", [1]), ("", []), ("MIG-xyz", [])],
)
def test_only_visible_devices_are_told_of(
    monkeypatch: pytest.MonkeyPatch, visible: str, indices: list[int]
) -> None:
    """CUDA_VISIBLE_DEVICES selects by index or UUID; a value that names no whole GPU is reported."""
    host = look(monkeypatch, binding(3), visible)
    assert indices == [device.index for device in host.accelerators]
    told = [] if indices or not visible else ["accelerators: CUDA_VISIBLE_DEVICES=MIG-xyz names no whole GPU"]
    assert told == list(host.not_told)


def test_index_is_no_beginning_of_another() -> None:
    """Entry 10 does not match device 1, nor 1 device 10; an empty entry matches none."""
    assert not is_visible(["10"], 1, "GPU-1")
    assert not is_visible(["1"], 10, "GPU-10")
    assert not is_visible([""], 0, "GPU-0")


def fail_with(error: type[NVMLError]) -> object:
    """Make a stand-in whose nvmlInit fails."""

    def fail() -> None:
        raise error("Driver Not Loaded")

    return binding(nvmlInit=fail)


def test_machine_without_gpus_has_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the binding or NVIDIA's library the list is empty; a driver that fails is reported."""
    assert pb.HostInfo() == look(monkeypatch, None)
    assert pb.HostInfo() == look(monkeypatch, fail_with(LibraryNotFound))
    host = look(monkeypatch, fail_with(NVMLError))
    assert ["accelerators: NVML: Driver Not Loaded"] == list(host.not_told)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that starts another, which prints its pid."""
    inner = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.communicate(timeout=240)


def test_family_is_all_that_descends(child: subprocess.Popen[bytes]) -> None:
    """A process tree has the children of the process and their children, not its parent."""
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    assert {os.getpid(), child.pid, grandchild} <= process_tree(os.getpid())
    assert {child.pid, grandchild} == process_tree(child.pid)
