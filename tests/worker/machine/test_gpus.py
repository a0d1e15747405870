"""CUDA_VISIBLE_DEVICES with a stand-in for the driver; no accelerator is needed."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.machine import gpus
from worker.machine.gpus import Device


def nvml(uuids: list[str]) -> Any:
    """Make a stand-in for pynvml with a device for each UUID."""

    class NVMLError(Exception):
        pass

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(uuids),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: uuids[handle],
        nvmlDeviceGetPciInfo=lambda handle: SimpleNamespace(busId=f"00000000:0{handle}:00.0"),
        nvmlMemory_v2=2,
        nvmlDeviceGetMemoryInfo=lambda handle, _: SimpleNamespace(
            free=(60 + handle) << 30, total=81 << 30, reserved=1 << 30
        ),
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up three devices; the first two are near cores 0 to 3, the third has no local_cpulist."""
    devices = tmp_path / "pci"
    for index in range(2):
        place = devices / f"0000:0{index}:00.0"
        place.mkdir(parents=True)
        (place / "local_cpulist").write_text("0-3\n")
    files = tmp_path / "dev"
    files.mkdir()
    (files / "nvidia0").touch()
    monkeypatch.setattr(gpus, "PCI_DEVICES", devices)
    monkeypatch.setattr(gpus, "DEVICE_FILES", files)
    monkeypatch.setitem(sys.modules, "pynvml", nvml(["GPU-aaa", "GPU-bbb", "GPU-ccc"]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return files


@pytest.mark.usefixtures("machine")
def test_all_are_visible_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable all three in the driver's order; with it the named ones in its order."""
    near, nowhere = (0, 1, 2, 3), ()
    assert [Device("0", near), Device("1", near), Device("2", nowhere)] == gpus.visible_devices()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-a")
    assert [Device("2", nowhere), Device("GPU-a", near)] == gpus.visible_devices()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [] == gpus.visible_devices()


@pytest.mark.usefixtures("machine")
def test_memory_is_that_of_the_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver reserves 1 of 81 GiB; MIG slices are left out."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,MIG-1,GPU-a")
    expected = [("2", 62 << 30, 80 << 30), ("GPU-a", 60 << 30, 80 << 30)]
    assert expected == [tuple(memory) for memory in gpus.visible_memory()]


@pytest.mark.usefixtures("machine")
def test_slices_of_an_accelerator_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """MIG names are kept unchanged; two different ones are two devices."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    assert [Device("MIG-1", ()), Device("MIG-2", ())] == gpus.visible_devices()


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("value", ["0,1,0", "1,GPU-bbb", "MIG-1,MIG-1"])
def test_an_accelerator_named_twice_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A device named twice, by index, UUID or both, is refused: two replicas would share it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with pytest.raises(ValueError, match=f"CUDA_VISIBLE_DEVICES: '{value}' names accelerator .* than once"):
        gpus.visible_devices()


@pytest.mark.usefixtures("machine")
def test_an_accelerator_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index 3 of three devices is refused."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES: names accelerator 3, but the driver has 3"):
        gpus.visible_devices()


def test_a_machine_without_a_driver_has_none(machine: Path) -> None:
    """Without a device file the list is empty and NVML is not used."""
    (machine / "nvidia0").unlink()
    assert [] == gpus.visible_devices()


@pytest.mark.usefixtures("machine")
def test_devices_that_cannot_be_asked_about_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device file without the NVML library is an error; replicas would share one device."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ValueError, match="nvidia-ml-py is missing"):
        gpus.visible_devices()
