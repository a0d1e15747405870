"""Lists in which parts of the configuration the sides of a comparison differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from common.text import printable
from sut.results.comparison.compared_runs import ComparedRun, Side
from sut.results.submission.recorded_runs import as_list, as_mappings, entry

MAX_VALUE_LEN = 120
MAX_VALUES = 4
"""Different values of one side that are shown."""
# Parts of run.json that describe what was run.
_PARTS = ("config", "generation", "dataset", "versions", "round", "spec_hash", "host")
# Entries that name the run itself, or what a machine did at that moment.
_NOT_COMPARED = ("output_dir", "not_told", "instance_id", "pid", "state", "path", "port")
_HOST_PARTS = ("hostname", "commit", "python_version", "num_cores", "num_usable_cores", "memory_bytes")


class Difference(NamedTuple):
    """An entry in which the sides differ."""

    name: str
    values: tuple[str, ...]
    """One per side; different values of its runs are joined."""


def find_differences(sides: Sequence[Side]) -> list[Difference]:
    """Return the entries that are not equal in all runs of all sides, ordered by name."""
    by_side = [[_flat(run) for run in side.runs] for side in sides]
    names = sorted({name for runs in by_side for run in runs for name in run})
    found = [Difference(name, tuple(_joined(name, runs) for runs in by_side)) for name in names]
    return [one for one in found if len(set(one.values)) > 1]


def _joined(name: str, runs: Sequence[Mapping[str, str]]) -> str:
    values = sorted({run.get(name, "-") for run in runs})
    more = len(values) - MAX_VALUES
    return " | ".join(values[:MAX_VALUES]) + (f" and {more} more" if more > 0 else "")


def _flat(run: ComparedRun) -> dict[str, str]:
    """Return what was run as texts by name; the workers as the set of their values."""
    found = {name: text for part in _PARTS for name, text in _entries(part, entry(run.record, part))}
    workers = as_mappings(entry(run.record, "summary", "workers"))
    found["workers"] = str(len(workers))
    infos = [info for worker in workers for info in as_mappings(worker.get("stream_infos"))]
    hosts = [host for worker in workers for host in as_mappings(worker.get("hosts"))]
    found |= _values_of_all("worker", infos)
    found |= _values_of_all("worker host", [_selected(host) for host in hosts])
    return found


def _selected(host: Mapping[str, object]) -> Mapping[str, object]:
    parts = {name: host.get(name) for name in (*_HOST_PARTS, "package_versions")}
    return parts | {"accelerators": as_list(host.get("accelerators"))}


def _values_of_all(name: str, documents: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Join the values of several workers, each once."""
    values: dict[str, set[str]] = {}
    for document in documents:
        for key, text in _entries(name, document):
            values.setdefault(key, set()).add(text)
    return {key: ", ".join(sorted(texts)[:MAX_VALUES]) for key, texts in values.items()}


def _entries(name: str, document: object) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a JSON document by their dotted names."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            if key not in _NOT_COMPARED:
                yield from _entries(f"{name}.{key}", value)
    else:
        yield printable(name, MAX_VALUE_LEN), printable(str(document), MAX_VALUE_LEN)
