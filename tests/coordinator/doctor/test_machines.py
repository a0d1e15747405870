"""The doctor's rules over machines and accelerators, by hand: what they tell -> rows."""

import pytest

from coordinator.doctor.accelerators import diagnose_accelerators
from coordinator.doctor.findings import Level, Row
from coordinator.doctor.machines import diagnose_hosts, diagnose_own
from coordinator.doctor.visits import Clock, Visit, clock_of
from protos import worker_pb2 as pb

GIB = 1 << 30
MS, S = 1_000_000, 1_000_000_000
EXPERIMENTS = "-event_engine_client,-event_engine_listener"
GOOD_HOST: dict[str, object] = {
    "hostname": "n1",
    "python_version": "3.12.3",
    "package_versions": {"vllm": "0.32.0", "torch": "2.13.0"},
    "num_cores": 64,
    "num_usable_cores": 64,
    "load_average": 0.2,
    "memory_bytes": 512 * GIB,
    "available_memory_bytes": 500 * GIB,
    "soft_open_files": 65_535,
    "hard_open_files": 1_048_576,
    "environment": {"GRPC_EXPERIMENTS": EXPERIMENTS, "CUDA_VISIBLE_DEVICES": "0,1"},
}
GOOD_DEVICE: dict[str, object] = {
    "index": 0,
    "name": "NVIDIA H100 80GB HBM3",
    "driver_version": "570.1",
    "memory_bytes": 80 * GIB,
    "used_memory_bytes": 70 * GIB,
    "own_memory_bytes": 70 * GIB,
    "ecc": True,
    "uncorrected_errors": 0,
    "sm_clock_mhz": 345,
    "max_sm_clock_mhz": 1_980,
    "temperature_c": 40,
    "clock_reasons": ["SwPowerCap"],
    "clock_reasons_known": True,
}


def visit(address: str, device: dict[str, object] | None = None, **changed: object) -> Visit:
    """Make a worker on a good machine with one good device, with changes to either."""
    host = pb.HostInfo(**(GOOD_HOST | changed))  # type: ignore[arg-type]
    host.disks.add(purpose="working directory", path="/w", free_bytes=100 * GIB)
    host.accelerators.add(**(GOOD_DEVICE | (device or {})))  # type: ignore[arg-type]
    return Visit(address, info=pb.WorkerInfo(engine="vllm"), host=host, clock=Clock(0, 1))


def troubles(rows: list[Row]) -> dict[str, tuple[Level, str]]:
    """Give level and words of each check that is not well; one row each."""
    bad = [row for row in rows if row.level is not Level.OK]
    assert len(bad) == len({row.check for row in bad})
    assert all(row.advice for row in bad)
    return {row.check: (row.level, row.seen) for row in bad}


def test_good_machines_have_no_trouble() -> None:
    """Machines that differ only in what is their own give nothing but ok."""
    other = visit("b:2", environment={"GRPC_EXPERIMENTS": EXPERIMENTS, "CUDA_VISIBLE_DEVICES": "2,3"})
    assert {} == troubles(diagnose_hosts([visit("a:1"), other]))
    found = diagnose_accelerators([visit("a:1"), other])
    assert ({}, []) == (troubles(found[0]), found[1])


@pytest.mark.parametrize("ahead_ns", [0, 5_000_000_000, -5_000_000_000])
@pytest.mark.parametrize("out_ms, back_ms", [(1, 1), (0, 2), (2, 0)])
def test_clock_offset_is_within_its_error(ahead_ns: int, out_ms: int, back_ms: int) -> None:
    """However the way is shared between out and back, and however long the look took, the bound holds."""
    # Asked at 100 ms, looked for 300 ms, its monotonic clock elsewhere; ours says 1 s at 100 ms.
    read_ms = 100 + out_ms + 300
    got_ms = read_ms + back_ms
    host = pb.HostInfo(
        received_ns=7_000 * MS,
        answered_ns=7_300 * MS,
        wall_ns=(read_ms + 900) * MS + 10_000_000_000 + ahead_ns,
    )
    clock = clock_of(host, 100 * MS, got_ms * MS, (got_ms + 900) * MS + 10_000_000_000)
    # 2 ms on the way: 1 ms either side, exact where out and back are alike.
    assert Clock(ahead_ns + (out_ms - 1) * MS, MS) == clock


@pytest.mark.parametrize(
    "clock, level",
    [
        (Clock(S // 10, 0), Level.OK),
        (Clock(S // 10 + 1, 0), Level.WARN),
        (Clock(-S, 0), Level.WARN),
        (Clock(-S - 1, 0), Level.FAIL),
        # Only what is certain counts.
        (Clock(2 * S, S), Level.WARN),
        (Clock(S, S), Level.OK),
    ],
)
def test_clock_bounds(clock: Clock, level: Level) -> None:
    """Above 0.1 s is a warning and above 1 s a failure, either way, less the error."""
    odd = visit("b:2")
    odd.clock = clock
    rows = [row for row in diagnose_hosts([visit("a:1"), odd]) if row.check == "clock"]
    assert [level] == [row.level for row in rows]


def test_silence_is_a_warning() -> None:
    """A worker that does not know the question, or could not look somewhere, does not fail."""
    older, partly = visit("a:1"), visit("b:2", not_told=["accelerator 3: NVML: GPU is lost"])
    older.host = None
    rows = diagnose_hosts([older, partly, visit("c:3")])
    assert [
        (Level.WARN, "a:1: does not report its machine"),
        (Level.WARN, "b:2: accelerator 3: NVML: GPU is lost"),
    ] == [(row.level, row.seen) for row in rows if row.check == "reported"]
    assert ["reported"] == [row.check for row in diagnose_hosts([older])]


@pytest.mark.parametrize(
    "changed, check, seen",
    [
        ({"soft_open_files": 1_024}, "open files", "soft limit 1,024 (hard 1,048,576), below 65,535"),
        ({"available_memory_bytes": GIB}, "memory", "1.0 GiB available, less than 2"),
        ({"load_average": 33.0}, "load", "load average 33.0 on 64 cores"),
        ({"python_version": "3.11.7"}, "versions", "Python 3.11.7 where a:1 has 3.12.3"),
        (
            {"package_versions": {"vllm": "0.32.0"}},
            "versions",
            "torch none where a:1 has 2.13.0",
        ),
        (
            {"environment": {"GRPC_EXPERIMENTS": EXPERIMENTS, "NCCL_DEBUG": "INFO"}},
            "environment",
            "NCCL_DEBUG=INFO: NCCL writes logs",
        ),
        (
            {"environment": {"GRPC_EXPERIMENTS": EXPERIMENTS, "NCCL_ALGO": "Ring"}},
            "environment",
            "NCCL_ALGO: Ring where a:1 has none",
        ),
    ],
)
def test_what_is_wrong_with_a_machine_is_a_warning(changed: dict[str, object], check: str, seen: str) -> None:
    """The machine that is short of something, or other than the rest, is named with what it has."""
    rows = diagnose_hosts([visit("a:1"), visit("b:2", **changed)])
    assert {check: (Level.WARN, f"b:2: {seen}")} == troubles(rows)


@pytest.mark.parametrize(
    "name, value",
    [
        ("CUDA_LAUNCH_BLOCKING", "1"),
        ("GRPC_EXPERIMENTS", ""),
        ("GRPC_EXPERIMENTS", "event_engine_client"),
        ("GRPC_VERBOSITY", "debug"),
        ("MALLOC_CHECK_", "3"),
        ("NCCL_P2P_DISABLE", "1"),
        ("PYTHONMALLOC", "debug"),
        ("PYTHONDEVMODE", "1"),
        ("VLLM_LOGGING_LEVEL", "DEBUG"),
        ("VLLM_BATCH_INVARIANT", "1"),
    ],
)
def test_variable_that_costs_something_is_told_of_everywhere(name: str, value: str) -> None:
    """Set alike on every worker it is no difference, and a warning all the same; so it is here."""
    environment = {name: value}
    rows = diagnose_hosts([visit("a:1", environment=environment), visit("b:2", environment=environment)])
    ((level, seen),) = troubles(rows).values()
    assert (Level.WARN, True) == (level, seen.startswith(f"a:1, b:2: {name}={value}: "))
    assert "environment" in troubles(own(environment=environment))


@pytest.mark.parametrize("name", ["CUDA_LAUNCH_BLOCKING", "NCCL_P2P_DISABLE", "VLLM_BATCH_INVARIANT"])
def test_variable_that_is_off_costs_nothing(name: str) -> None:
    """The value 0 switches it off."""
    assert {} == troubles(diagnose_hosts([visit("a:1", environment={name: "0"})]))


def own(
    free_gib: float = 100,
    writable: bool = True,
    num_workers: int = 2,
    **changed: object,
) -> list[Row]:
    """Judge a coordinator's machine."""
    host = pb.HostInfo(**(GOOD_HOST | changed))  # type: ignore[arg-type]
    host.disks.add(purpose="output directory", path="/out", free_bytes=int(free_gib * GIB))
    return diagnose_own(host, num_workers, writable)


def test_coordinator_is_not_to_be_stopped_by_a_cpu_quota() -> None:
    """Less than the two cores of LoadGen's and the event loop's threads is a warning."""
    assert {} == troubles(own(cpu_quota_cores=2.0))
    line = "0.5 cores, below 2: a process that has used them waits for the next 0.1 s"
    assert {"CPU quota": (Level.WARN, line)} == troubles(own(cpu_quota_cores=0.5))


def test_a_worker_is_not_to_be_stopped_by_a_cpu_quota() -> None:
    """Its quota allows all cores that it may use, also on the other nodes of its engine."""
    assert {} == troubles(diagnose_hosts([visit("a:1"), visit("b:2", cpu_quota_cores=64.0)]))
    head = visit("a:1", cpu_quota_cores=64.0)
    assert head.host is not None
    other = pb.HostInfo(**(GOOD_HOST | {"cpu_quota_cores": 48.5}))  # type: ignore[arg-type]
    head.host.engine_hosts.append(other)
    line = "48.5 cores, below 64: a process that has used them waits for the next 0.1 s"
    ((level, seen),) = troubles(diagnose_hosts([head])).values()
    assert (Level.WARN, f"a:1 node rank 1: {line}") == (level, seen)


def test_coordinator_needs_files_and_disk() -> None:
    """Its limits depend on the number of workers; a directory that cannot be written fails."""
    assert {} == troubles(own())
    # 64 and 3 for each of 72 workers.
    assert {} == troubles(own(num_workers=72, soft_open_files=280))
    expected = (Level.FAIL, "soft limit 279 (hard 1,048,576), below 280")
    assert {"open files": expected} == troubles(own(num_workers=72, soft_open_files=279))
    assert {"output directory": (Level.WARN, "19.0 GiB free at /out")} == troubles(own(free_gib=19))
    assert {"output directory": (Level.FAIL, "0.5 GiB free at /out")} == troubles(own(free_gib=0.5))
    assert {"output directory": (Level.FAIL, "/out cannot be written")} == troubles(own(writable=False))


@pytest.mark.parametrize(
    "device, check, level, seen",
    [
        (
            {"name": "NVIDIA H200"},
            "name",
            Level.WARN,
            "NVIDIA H200 where a:1 has NVIDIA H100 80GB HBM3",
        ),
        ({"driver_version": "580.2"}, "driver", Level.WARN, "580.2 where a:1 has 570.1"),
        ({"memory_bytes": 140 * GIB}, "memory", Level.WARN, "140.0 GiB where a:1 has 80.0 GiB"),
        ({"ecc": False}, "ECC", Level.WARN, "off where a:1 has on"),
        ({"max_sm_clock_mhz": 1_755}, "top SM clock", Level.WARN, "1755 MHz where a:1 has 1980 MHz"),
        ({"uncorrected_errors": 2}, "memory errors", Level.FAIL, "2 on device 0"),
        ({"uncorrected_errors": None}, "memory errors", Level.WARN, "not reported by device 0"),
        ({"clock_reasons_known": False}, "clocks", Level.WARN, "not reported by device 0"),
        (
            {"clock_reasons": ["HwThermalSlowdown", "SwPowerCap"]},
            "clocks",
            Level.WARN,
            "device 0: HwThermalSlowdown",
        ),
        ({"own_memory_bytes": 68 * GIB}, "held by others", Level.WARN, "2.0 GiB of device 0"),
    ],
)
def test_what_is_wrong_with_a_device_is_named(
    device: dict[str, object], check: str, level: Level, seen: str
) -> None:
    """Devices that differ are a warning, lost bits a failure."""
    rows, _ = diagnose_accelerators([visit("a:1"), visit("b:2", device)])
    assert {check: (level, f"b:2: {seen}")} == troubles(rows)


def test_the_other_nodes_of_an_engine_are_checked() -> None:
    """A machine that serves no port is named by the address of its head and its node rank."""
    head, other = visit("a:1"), visit("b:2", {"ecc": False}, python_version="3.11.7").host
    assert head.host is not None
    assert other is not None
    head.host.engine_hosts.append(other)
    ecc = {"ECC": (Level.WARN, "a:1 node rank 1: off where a:1 has on")}
    python = {"versions": (Level.WARN, "a:1 node rank 1: Python 3.11.7 where a:1 has 3.12.3")}
    assert (ecc, python) == (troubles(diagnose_accelerators([head])[0]), troubles(diagnose_hosts([head])))


def test_fewer_devices_are_a_warning() -> None:
    """A worker that tells of two where others have one is named; without any device there is no row."""
    two, none = visit("b:2"), visit("c:3")
    assert two.host is not None
    assert none.host is not None
    two.host.accelerators.add(**(GOOD_DEVICE | {"index": 1}))  # type: ignore[arg-type]
    rows = troubles(diagnose_accelerators([visit("a:1"), two])[0])
    assert {"number": (Level.WARN, "b:2: 2 where a:1 has 1")} == rows
    none.host.ClearField("accelerators")
    assert ([], ["accelerators: no worker reports any"]) == diagnose_accelerators([none])
    assert "number" in troubles(diagnose_accelerators([visit("a:1"), visit("d:4"), none])[0])


def test_memory_of_nobody_known_is_not_called_good() -> None:
    """Where no driver names a process of the worker's, as in a container, there is no row but a line.

    With one other device that is known, the row says of how many it is.
    """
    unknown = visit("a:1")
    assert unknown.host is not None
    unknown.host.accelerators[0].ClearField("own_memory_bytes")
    rows, skipped = diagnose_accelerators([unknown])
    assert "held by others" not in {row.check for row in rows}
    assert ["accelerators, held by others: no driver reports a worker's share, as in a container"] == skipped
    rows, skipped = diagnose_accelerators([unknown, visit("b:2")])
    (row,) = [row for row in rows if row.check == "held by others"]
    assert (Level.OK, []) == (row.level, skipped)
    assert "at most 1 GiB on 1 devices; for 1 the driver does not report the worker's share" == row.seen


def test_a_temperature_that_nobody_reports_is_no_0() -> None:
    """A device without a sensor leaves the check without a temperature."""
    (row,) = [
        row
        for row in diagnose_accelerators([visit("a:1", {"temperature_c": None})])[0]
        if row.check == "clocks"
    ]
    assert "no device is slowed down; highest temperature not reported" == row.seen


def test_what_no_machine_reports_is_not_called_good() -> None:
    """Where memory and disks are not known there is no row of them; `reported` names what is missing."""
    silent = visit("a:1", available_memory_bytes=None, not_told=["memory: no MemAvailable in /proc/meminfo"])
    assert silent.host is not None
    silent.host.ClearField("disks")
    rows = diagnose_hosts([silent])
    assert not {"memory", "disk"} & {row.check for row in rows}
    assert {"reported": (Level.WARN, "a:1: memory: no MemAvailable in /proc/meminfo")} == troubles(rows)
