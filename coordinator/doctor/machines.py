"""Checks of the machines of the coordinator and the workers."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coordinator.doctor.findings import Check, Finding, Level, Row, differing
from coordinator.doctor.visits import Clock, Visit
from coordinator.transport.fleet import needed_open_files
from protos import worker_pb2 as pb

GIB = 1 << 30
# A run compares no system clocks, but log lines, the date in run.json and the validity of certificates depend
# on them. Machines with NTP differ by milliseconds: a difference of a second means that a clock is not set.
WARN_CLOCK_S, FAIL_CLOCK_S = 0.1, 1.0
# vLLM's own server raises its soft limit to this value (vllm 0.32.0, utils/system_utils.py, set_ulimit).
VLLM_OPEN_FILES = 65_535
# One connection, its listening socket, logs, and the files of the interpreter.
MIN_OPEN_FILES = 256
# vLLM's compile caches and logs; the model is already on the disk of a worker that is ready.
MIN_WORKER_DISK_GIB = 5
# run.json, LoadGen's logs; an hour at 1.14 million tokens/s is 16.4 GB of outputs.arrows.
FAIL_OUTPUT_DISK_GIB, WARN_OUTPUT_DISK_GIB = 1, 20
# 67,536 requests in flight, each of 10,240 tokens, took 2.92 GiB (bench/results, burst).
MIN_OWN_MEMORY_GIB = 4
# LoadGen's thread and the event loop's run at the same time.
MIN_QUOTA_CORES = 2
MIN_WORKER_MEMORY_GIB = 2
# A machine should be idle before a run.
MAX_LOAD_PER_CORE = 0.5
# Variables that usually differ between machines and replicas.
_LOCAL = re.compile(
    r"CUDA_VISIBLE_DEVICES|NVIDIA_.*|VLLM_(HOST_IP|PORT|CPU_OMP_THREADS_BIND|CACHE_ROOT)|HF_.*|.*_proxy"
    r"|NCCL_SOCKET_IFNAME|PYTHON.*|LD_LIBRARY_PATH",
    re.IGNORECASE,
)


class Known(NamedTuple):
    """An environment variable that costs time or changes answers."""

    name: str
    values: str
    """Pattern of the values that do."""
    why: str


_SET = "(?!0$).+"
_KNOWN = (
    Known("CUDA_LAUNCH_BLOCKING", _SET, "each kernel waits for the one before"),
    Known("NCCL_(P2P|SHM)_DISABLE", _SET, "the GPUs of a replica communicate on a slower path"),
    Known("NCCL_DEBUG", "INFO|TRACE", "NCCL writes logs"),
    Known("NVIDIA_TF32_OVERRIDE", ".+", "overrides the precision that torch asks for"),
    Known("TRITON_INTERPRET", _SET, "kernels run in Python"),
    Known("VLLM_(TRACE_FUNCTION|BATCH_INVARIANT|DEBUG_WORKSPACE|DEBUG_MFU_METRICS)", _SET, "vLLM is slower"),
    Known("VLLM_(GC_DEBUG|DEBUG_DUMP_PATH)", _SET, "vLLM writes debug output"),
    Known("VLLM_LOGGING_LEVEL", "(?i)debug", "vLLM logs each step"),
    Known("PYTHON(DEVMODE|ASYNCIODEBUG|TRACEMALLOC)", _SET, "Python is slower"),
    Known("PYTHONMALLOC", ".*debug", "Python is slower"),
    Known("MALLOC_(CHECK|PERTURB)_", _SET, "every allocation is checked or overwritten"),
    Known("GRPC_TRACE", ".+", "gRPC writes logs"),
    Known("GRPC_VERBOSITY", "(?i)debug|info", "gRPC writes logs"),
    Known(
        "GRPC_EXPERIMENTS",
        r"(?!-event_engine_client,-event_engine_listener$).*",
        "gRPC's default pollers cost the coordinator 13 % more (protos/__init__.py)",
    ),
)


def diagnose_hosts(visits: Sequence[Visit]) -> list[Row]:
    """Check the machines of the workers.

    Args:
        visits: Workers that answer, without nodes: their replicas report the same machine.
    """
    hosts = {visit.address: visit.host for visit in visits if visit.host is not None}
    rows = _reported(visits)
    if not hosts:
        return rows
    rows += _clocks({visit.address: visit.clock for visit in visits if visit.clock is not None})
    machines = {place: host for visit in visits for place, host in visit.machines.items()}
    rows += _versions(machines)
    needed = {v.address: VLLM_OPEN_FILES if v.info.engine == "vllm" else MIN_OPEN_FILES for v in visits}
    least = min(host.soft_open_files for host in hosts.values())
    rows += Check("machines", "open files").rows(
        _few_open_files(hosts, needed, Level.WARN), f"soft limit at least {least:,}"
    )
    rows += _disks(hosts)
    given = {place: host.num_usable_cores for place, host in machines.items()}
    rows += _cpu_quota("machines", machines, given)
    return rows + _common("machines", hosts, MIN_WORKER_MEMORY_GIB)


def diagnose_own(host: pb.HostInfo, num_workers: int, output_is_writable: bool) -> list[Row]:
    """Check the coordinator's machine.

    Args:
        host: With the disk of the output directory.
        num_workers: Workers of the run.
        output_is_writable: Whether a run can create its directory.
    """
    hosts = {"": host}
    needed = needed_open_files(num_workers)
    rows = Check("coordinator", "open files").rows(
        _few_open_files(hosts, {"": needed}, Level.FAIL),
        f"soft limit {host.soft_open_files:,}, {needed} needed",
    )
    (disk,) = host.disks
    rows += _output_directory(disk, output_is_writable)
    rows += _cpu_quota("coordinator", hosts, {"": MIN_QUOTA_CORES})
    return [*rows, *_common("coordinator", hosts, MIN_OWN_MEMORY_GIB)]


def _cpu_quota(group: str, hosts: Mapping[str, pb.HostInfo], needed: Mapping[str, int]) -> list[Row]:
    """Check that a container's CPU limit allows as many cores as the process needs."""
    quotas = {
        place: host.cpu_quota_cores for place, host in hosts.items() if host.HasField("cpu_quota_cores")
    }
    findings = [
        Finding(
            place,
            Level.WARN,
            f"{cores:g} cores, below {needed[place]}: a process that has used them waits for the next 0.1 s",
            f"raise the CPU limit of the container to {needed[place]} cores or more",
        )
        for place, cores in quotas.items()
        if cores < needed[place]
    ]
    return Check(group, "CPU quota").rows(findings, f"{min(quotas.values()):g} cores" if quotas else "none")


def _output_directory(disk: pb.Disk, is_writable: bool) -> list[Row]:
    findings = []
    if not is_writable:
        findings.append(Finding("", Level.FAIL, f"{disk.path} cannot be written", "correct --output-dir"))
    free_gib = disk.free_bytes / GIB
    if free_gib < WARN_OUTPUT_DISK_GIB:
        level = Level.FAIL if free_gib < FAIL_OUTPUT_DISK_GIB else Level.WARN
        advice = "free space or correct --output-dir; an hour at 1 million tokens/s writes 15 GiB of answers"
        findings.append(Finding("", level, f"{free_gib:.1f} GiB free at {disk.path}", advice))
    return Check("coordinator", "output directory").rows(findings, f"{free_gib:,.0f} GiB free at {disk.path}")


def _common(group: str, hosts: Mapping[str, pb.HostInfo], min_gib: float) -> list[Row]:
    """Check memory, load and environment."""
    return [*_memory(group, hosts, min_gib), *_load(group, hosts), *_environment(group, hosts)]


def _memory(group: str, hosts: Mapping[str, pb.HostInfo], min_gib: float) -> list[Row]:
    """Check the available memory; no row if nobody knows it, which the check `reported` says."""
    free = {
        p: h.available_memory_bytes / GIB for p, h in hosts.items() if h.HasField("available_memory_bytes")
    }
    if not free:
        return []
    findings = [
        Finding(
            place,
            Level.WARN,
            f"{gib:.1f} GiB available, less than {min_gib:g}",
            "end processes that use the memory",
        )
        for place, gib in free.items()
        if gib < min_gib
    ]
    return Check(group, "memory").rows(findings, f"at least {min(free.values()):,.1f} GiB available")


def _load(group: str, hosts: Mapping[str, pb.HostInfo]) -> list[Row]:
    findings = [
        Finding(
            place,
            Level.WARN,
            f"load average {host.load_average:.1f} on {host.num_cores} cores",
            "find out what runs on that machine: it should be idle before a run",
        )
        for place, host in hosts.items()
        if host.load_average > MAX_LOAD_PER_CORE * host.num_cores
    ]
    most = max(host.load_average / max(host.num_cores, 1) for host in hosts.values())
    return Check(group, "load").rows(findings, f"at most {most:.2f} of each core over the last minute")


def _environment(group: str, hosts: Mapping[str, pb.HostInfo]) -> list[Row]:
    """Check environment variables: those known to cost time, and those that differ."""
    environments = {place: host.environment for place, host in hosts.items()}
    costly = {
        (place, name): known
        for place, environment in environments.items()
        for name, value in sorted(environment.items())
        for known in _KNOWN
        if re.fullmatch(known.name, name) and re.fullmatch(known.values, value)
    }
    findings = [
        Finding(
            place,
            Level.WARN,
            f"{name}={environments[place][name]}: {known.why}",
            f"unset {name} and restart the process",
        )
        for (place, name), known in costly.items()
    ]
    reported = {name for _, name in costly}
    names = sorted({name for environment in environments.values() for name in environment})
    for name in names:
        if name not in reported and not _LOCAL.fullmatch(name):
            values = {place: environment.get(name, "") for place, environment in environments.items()}
            findings += differing(values, Level.WARN, "set the same value everywhere", f"{name}: ")[0]
    return Check(group, "environment").rows(findings, f"no known problem among {', '.join(names) or 'none'}")


def _reported(visits: Sequence[Visit]) -> list[Row]:
    findings = []
    for visit in visits:
        if visit.host is None:
            advice = "install the same version of tokenfleet there"
            findings.append(Finding(visit.address, Level.WARN, "does not report its machine", advice))
        else:
            advice = "check that machine by hand"
            findings += [Finding(visit.address, Level.WARN, text, advice) for text in visit.host.not_told]
    return Check("machines", "reported").rows(findings, "every worker reports its machine")


def _clocks(clocks: Mapping[str, Clock]) -> list[Row]:
    findings = []
    for place, clock in clocks.items():
        # The certain part: the offset minus the error from the round trip.
        certain_s = (abs(clock.offset_ns) - clock.error_ns) / 1e9
        if certain_s > WARN_CLOCK_S:
            level = Level.FAIL if certain_s > FAIL_CLOCK_S else Level.WARN
            advice = "set both clocks by NTP: logs, dates and certificates depend on them"
            findings.append(Finding(place, level, f"{_format_offset(clock)} against ours", advice))
    worst = max(clocks.values(), key=lambda clock: abs(clock.offset_ns))
    return Check("machines", "clock").rows(findings, f"the farthest is {_format_offset(worst)} against ours")


def _format_offset(clock: Clock) -> str:
    return f"{clock.offset_ns / 1e9:+.4f} s (+-{clock.error_ns / 1e9:.4f})"


def _versions(hosts: Mapping[str, pb.HostInfo]) -> list[Row]:
    advice = "install the same versions everywhere"
    installed = {
        place: {"Python": host.python_version} | dict(sorted(host.package_versions.items()))
        for place, host in hosts.items()
    }
    findings: list[Finding] = []
    seen = []
    for name in dict.fromkeys(name for versions in installed.values() for name in versions):
        values = {place: versions.get(name, "") for place, versions in installed.items()}
        found, usual = differing(values, Level.WARN, advice, f"{name} ")
        findings += found
        seen.append(f"{name} {usual}")
    return Check("machines", "versions").rows(findings, ", ".join(seen))


def _few_open_files(
    hosts: Mapping[str, pb.HostInfo], needed: Mapping[str, int], level: Level
) -> list[Finding]:
    return [
        Finding(
            place,
            level,
            f"soft limit {host.soft_open_files:,} (hard {host.hard_open_files:,}), below {needed[place]:,}",
            f"ulimit -n {needed[place]} before it starts",
        )
        for place, host in hosts.items()
        if host.soft_open_files < needed[place]
    ]


def _disks(hosts: Mapping[str, pb.HostInfo]) -> list[Row]:
    """Check the free space; no row if nobody knows it, which the check `reported` says."""
    disks = [(place, disk, disk.free_bytes / GIB) for place, host in hosts.items() for disk in host.disks]
    findings = [
        Finding(
            place, Level.WARN, f"{gib:.1f} GiB free for the {disk.purpose} {disk.path}", "free space there"
        )
        for place, disk, gib in disks
        if gib < MIN_WORKER_DISK_GIB
    ]
    least = min((gib for *_, gib in disks), default=0.0)
    return Check("machines", "disk").rows(findings, f"at least {least:,.0f} GiB free") if disks else []
