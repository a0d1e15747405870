"""Checks of the accelerators that workers report."""

from collections.abc import Callable, Mapping, Sequence

from coordinator.doctor.findings import Check, Finding, Level, Row, differing
from coordinator.doctor.visits import Visit
from protos import worker_pb2 as pb

GIB = 1 << 30
GROUP = "accelerators"
# A context of another process takes some hundred MiB, an engine most of a device.
MAX_OTHERS_GIB = 1.0
# NVML's clock reasons for heat, power supply or a broken board; a power cap is usual under load.
_ALARMING = frozenset({"HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown", "SwThermalSlowdown"})
_Devices = Sequence[pb.Accelerator]


def diagnose_accelerators(visits: Sequence[Visit]) -> tuple[list[Row], list[str]]:
    """Check the accelerators of all machines.

    Returns:
        The rows, none if no worker reports any accelerator, and the checks that were not made.
    """
    machines = {place: host for visit in visits for place, host in visit.machines.items()}
    devices = {place: list(host.accelerators) for place, host in machines.items()}
    if not any(devices.values()):
        return [], ["accelerators: no worker reports any"]
    rows: list[Row] = []
    for name, read, advice in _EQUAL:
        values = {place: read(its) for place, its in devices.items()}
        rows += Check(GROUP, name).rows(*differing(values, Level.WARN, advice))
    taken, skipped = _taken(devices)
    return [*rows, *_uncorrected(devices), *_slowed(devices), *taken], skipped


def _each(read: Callable[[pb.Accelerator], str]) -> Callable[[_Devices], str]:
    """Build a reader that joins the different values of a worker's devices."""
    return lambda devices: " and ".join(dict.fromkeys(map(read, devices))) or "none"


def _ecc(device: pb.Accelerator) -> str:
    if not device.HasField("ecc"):
        return "not reported"
    return "on" if device.ecc else "off"


def _max_clock(device: pb.Accelerator) -> str:
    return f"{device.max_sm_clock_mhz} MHz" if device.HasField("max_sm_clock_mhz") else "not reported"


_UNEQUAL = "allowed; equal systems are easier to compare and to submit"
_EQUAL: tuple[tuple[str, Callable[[_Devices], str], str], ...] = (
    ("number", lambda devices: str(len(devices)), _UNEQUAL),
    ("name", _each(lambda device: device.name), _UNEQUAL),
    ("memory", _each(lambda device: f"{device.memory_bytes / GIB:.1f} GiB"), _UNEQUAL),
    ("driver", _each(lambda device: device.driver_version), "install the same driver everywhere"),
    ("ECC", _each(_ecc), "use the same setting everywhere: nvidia-smi -e 1, then reset the device"),
    (
        "top SM clock",
        _each(_max_clock),
        "use the same setting everywhere: nvidia-smi -q -d CLOCK on that machine",
    ),
)


def _uncorrected(devices: Mapping[str, _Devices]) -> list[Row]:
    advice = "reset or replace the device: its memory has lost bits"
    findings = [
        Finding(place, Level.FAIL, f"{device.uncorrected_errors} on device {device.index}", advice)
        for place, its in devices.items()
        for device in its
        if device.uncorrected_errors
    ]
    findings += _unreported(devices, lambda device: device.HasField("uncorrected_errors"))
    return Check(GROUP, "memory errors").rows(findings, "none uncorrected since the drivers were loaded")


def _slowed(devices: Mapping[str, _Devices]) -> list[Row]:
    advice = "check cooling and power on that machine: nvidia-smi -q -d PERFORMANCE"
    findings = [
        Finding(place, Level.WARN, f"device {device.index}: {', '.join(alarming)}", advice)
        for place, its in devices.items()
        for device in its
        if (alarming := sorted(_ALARMING.intersection(device.clock_reasons)))
    ]
    findings += _unreported(devices, lambda device: device.clock_reasons_known)
    temperatures = [d.temperature_c for its in devices.values() for d in its if d.HasField("temperature_c")]
    hottest = f"{max(temperatures)} C" if temperatures else "not reported"
    return Check(GROUP, "clocks").rows(findings, f"no device is slowed down; highest temperature {hottest}")


def _unreported(
    devices: Mapping[str, _Devices], is_reported: Callable[[pb.Accelerator], bool]
) -> list[Finding]:
    """Warn of each device whose driver does not report what a check needs."""
    advice = "the driver does not tell: check the device by hand with nvidia-smi -q on that machine"
    return [
        Finding(place, Level.WARN, f"not reported by device {device.index}", advice)
        for place, its in devices.items()
        for device in its
        if not is_reported(device)
    ]


def _taken(devices: Mapping[str, _Devices]) -> tuple[list[Row], list[str]]:
    """Check memory that other processes hold, if the driver reports the worker's share of any device."""
    reported = [(p, d) for p, its in devices.items() for d in its if d.HasField("own_memory_bytes")]
    findings = []
    for place, device in reported:
        others_gib = (device.used_memory_bytes - device.own_memory_bytes) / GIB
        if others_gib > MAX_OTHERS_GIB:
            seen = f"{others_gib:.1f} GiB of device {device.index}"
            findings.append(
                Finding(
                    place,
                    Level.WARN,
                    seen,
                    "find the processes with nvidia-smi on that machine, and end them",
                )
            )
    if not reported:
        return [], ["accelerators, held by others: no driver reports a worker's share, as in a container"]
    num_unreported = sum(map(len, devices.values())) - len(reported)
    fine = f"at most {MAX_OTHERS_GIB:g} GiB on {len(reported)} devices"
    if num_unreported:
        fine += f"; for {num_unreported} the driver does not report the worker's share"
    return Check(GROUP, "held by others").rows(findings, fine), []
