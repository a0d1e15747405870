"""The machine of a worker or of the coordinator, as the record of a run keeps it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc

from common.host_facts import read_host_facts
from common.json_document import as_number
from common.source_commit import read_commit
from common.text import printable
from coordinator.transport.worker_answers import AnswerError, ask_host, details_of
from protos import worker_pb2 as pb

TIMEOUT_S = 6.0
"""A worker answers within 5 s, also when a driver hangs."""
MAX_ENTRIES = 64
MAX_TEXT_LEN = 200


@dataclass(frozen=True, slots=True)
class Accelerators:
    """Equal accelerators of one machine."""

    name: str
    driver_version: str
    memory_bytes: int
    max_sm_clock_mhz: int | None
    num_devices: int
    ecc: bool | None = None
    """Whether errors in their memory are corrected; None: not reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHost:
    """Facts about one machine; text is printable and bounded."""

    hostname: str = ""
    commit: str = ""
    """Of the source tree; empty for an installed package."""
    python_version: str = ""
    package_versions: dict[str, str] = field(default_factory=dict)
    num_cores: int = 0
    num_usable_cores: int = 0
    cpu_quota_cores: float | None = None
    """CPU limit of a container; None: it has none, or the worker is older."""
    memory_bytes: int | None = None
    accelerators: tuple[Accelerators, ...] = ()
    """Those that the process may use."""
    hardware: dict[str, str] = field(default_factory=dict)
    """Processors, caches, disks, network cards, operating system, by name; of workers only."""
    not_told: tuple[str, ...] = ()
    """Why something is missing."""
    engine_hosts: tuple["WorkerHost", ...] = ()
    """Machines of the other nodes of an engine over several, by node rank."""

    @classmethod
    def of(cls, host: pb.HostInfo, *, is_other: bool = False) -> "WorkerHost":
        """Select and clean the facts of another process.

        Args:
            host: The answer to GetHost, or a part of it.
            is_other: It is one of `engine_hosts`, which has none itself.
        """
        others = host.engine_hosts[:MAX_ENTRIES]
        devices = Counter(
            (
                _clean(device.name),
                _clean(device.driver_version),
                device.memory_bytes,
                device.max_sm_clock_mhz if device.HasField("max_sm_clock_mhz") else None,
                device.ecc if device.HasField("ecc") else None,
            )
            for device in host.accelerators[:MAX_ENTRIES]
        )
        packages = sorted(host.package_versions.items())[:MAX_ENTRIES]
        return cls(
            hostname=_clean(host.hostname),
            commit=_clean(host.commit),
            python_version=_clean(host.python_version),
            package_versions={_clean(name): _clean(version) for name, version in packages},
            num_cores=host.num_cores,
            num_usable_cores=host.num_usable_cores,
            # NaN and 0, which no quota is.
            cpu_quota_cores=as_number(host.cpu_quota_cores) or None,
            memory_bytes=host.memory_bytes if host.HasField("memory_bytes") else None,
            accelerators=tuple(
                Accelerators(name, driver, memory, clock, num, ecc)
                for (name, driver, memory, clock, ecc), num in devices.items()
            ),
            hardware={
                _clean(name): _clean(text) for name, text in sorted(host.hardware.items())[:MAX_ENTRIES]
            },
            not_told=_clean_all(host.not_told[:MAX_ENTRIES]),
            engine_hosts=() if is_other else tuple(cls.of(other, is_other=True) for other in others),
        )

    @classmethod
    def of_this_process(cls) -> "WorkerHost":
        """Describe the coordinator's machine, on which accelerators do not matter."""
        return cls.of(pb.HostInfo(commit=read_commit(), **read_host_facts()._asdict()))


async def read_host(channel: grpc.aio.Channel) -> WorkerHost:
    """Call GetHost once; a worker that does not answer properly has only the reason in `not_told`."""
    try:
        return WorkerHost.of(await ask_host(channel, TIMEOUT_S))
    except grpc.aio.AioRpcError as error:
        reason = f"GetHost: {error.code().name}: {details_of(error)}"
    except AnswerError as error:
        reason = str(error)
    return WorkerHost(not_told=(_clean(reason),))


def _clean(text: str) -> str:
    return printable(text, MAX_TEXT_LEN)


def _clean_all(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(_clean, texts))
