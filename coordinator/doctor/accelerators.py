"""Rules over the accelerators that workers tell of -> rows."""

from collections.abc import Callable, Mapping, Sequence

from coordinator.doctor.findings import Check, Finding, Level, Row, differing
from coordinator.doctor.visits import Visit
from protos import worker_pb2 as pb

GIB = 1 << 30
GROUP = "accelerators"
# A context of another process is some hundred MiB; an engine takes most of a device.
MAX_OTHERS_GIB = 1.0
# Of NVML's reasons those that say heat, power supply or a broken board; a power cap is usual under load.
_ALARMING = frozenset({"HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown", "SwThermalSlowdown"})
_Devices = Sequence[pb.Accelerator]


def diagnose_accelerators(visits: Sequence[Visit]) -> list[Row]:
    """Judge the accelerators of workers; no row where nobody tells of any."""
    devices = {v.address: list(v.host.accelerators) for v in visits if v.host is not None}
    if not any(devices.values()):
        return []
    rows: list[Row] = []
    for name, read, advice in _EQUAL:
        values = {place: read(its) for place, its in devices.items()}
        rows += Check(GROUP, name).rows(*differing(values, Level.WARN, advice))
    return [*rows, *_uncorrected(devices), *_slowed(devices), *_taken(devices)]


def _each(read: Callable[[pb.Accelerator], str]) -> Callable[[_Devices], str]:
    """Make a reader of what the devices of a worker have in common, or of all that they have."""
    return lambda devices: " and ".join(dict.fromkeys(map(read, devices))) or "none"


def _ecc(device: pb.Accelerator) -> str:
    if not device.HasField("ecc"):
        return "not told"
    return "on" if device.ecc else "off"


def _max_clock(device: pb.Accelerator) -> str:
    return f"{device.max_sm_clock_mhz} MHz" if device.HasField("max_sm_clock_mhz") else "not told"


_UNEQUAL = "fine if you mean it; equal systems are easier to compare and to submit"
_EQUAL: tuple[tuple[str, Callable[[_Devices], str], str], ...] = (
    ("number", lambda devices: str(len(devices)), _UNEQUAL),
    ("name", _each(lambda device: device.name), _UNEQUAL),
    ("memory", _each(lambda device: f"{device.memory_bytes / GIB:.1f} GiB"), _UNEQUAL),
    ("driver", _each(lambda device: device.driver_version), "install the same driver everywhere"),
    ("ECC", _each(_ecc), "nvidia-smi -e 1, and reset the device: alike everywhere"),
    ("top SM clock", _each(_max_clock), "nvidia-smi -q -d CLOCK there: alike everywhere"),
)


def _uncorrected(devices: Mapping[str, _Devices]) -> list[Row]:
    advice = "reset or replace the device: its memory has lost bits"
    findings = [
        Finding(place, Level.FAIL, f"{device.uncorrected_errors} on device {device.index}", advice)
        for place, its in devices.items()
        for device in its
        if device.uncorrected_errors
    ]
    return Check(GROUP, "memory errors").rows(findings, "none uncorrected since the drivers were loaded")


def _slowed(devices: Mapping[str, _Devices]) -> list[Row]:
    advice = "look at cooling and power there: nvidia-smi -q -d PERFORMANCE"
    findings = [
        Finding(place, Level.WARN, f"device {device.index}: {', '.join(alarming)}", advice)
        for place, its in devices.items()
        for device in its
        if (alarming := sorted(_ALARMING.intersection(device.clock_reasons)))
    ]
    hottest = max(device.temperature_c for its in devices.values() for device in its)
    return Check(GROUP, "clocks").rows(findings, f"no device is slowed down; the hottest has {hottest} C")


def _taken(devices: Mapping[str, _Devices]) -> list[Row]:
    """Judge memory that others hold, where the driver says which is the worker's own."""
    told = [(p, d) for p, its in devices.items() for d in its if d.HasField("own_memory_bytes")]
    findings = []
    for place, device in told:
        others_gib = (device.used_memory_bytes - device.own_memory_bytes) / GIB
        if others_gib > MAX_OTHERS_GIB:
            seen = f"{others_gib:.1f} GiB of device {device.index}"
            findings.append(Finding(place, Level.WARN, seen, "nvidia-smi there says who; end them"))
    num_untold = sum(map(len, devices.values())) - len(told)
    fine = f"nothing that counts on {len(told)} devices"
    if num_untold:
        fine += f"; of {num_untold} the driver does not say what is the worker's own"
    return Check(GROUP, "held by others").rows(findings, fine)
