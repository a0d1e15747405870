"""Lists in which parts of the configuration the sides of a comparison differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from common.text import printable
from sut.results.comparison.compared_runs import ComparedRun, Side
from sut.results.submission.recorded_runs import as_list, as_mappings, entry, machines_of

MAX_VALUE_LEN = 120
"""Characters of a value that are shown; whole values are compared."""
MAX_VALUES = 4
"""Different values of one side that are shown."""
# Equal characters that are shown before the first one that differs.
_CONTEXT_LEN = 16
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
    found = []
    for name in names:
        values = [frozenset(run.get(name, "-") for run in runs) for runs in by_side]
        if len(set(values)) > 1:
            found.append(Difference(printable(name, MAX_VALUE_LEN), tuple(_shown(values))))
    return found


def _shown(values_by_side: Sequence[frozenset[str]]) -> list[str]:
    """Shorten each side's values so that they show where they differ."""
    common = frozenset.intersection(*values_by_side)
    texts = []
    for values in values_by_side:
        ordered = sorted(values, key=lambda value: (value in common, value))
        more = len(ordered) - MAX_VALUES
        texts.append(" | ".join(ordered[:MAX_VALUES]) + (f" and {more} more" if more > 0 else ""))
    num_equal = _num_equal(texts)
    start = num_equal - _CONTEXT_LEN if num_equal > 2 * _CONTEXT_LEN else 0
    dots = "..." if start else ""
    return [dots + printable(text[start:], MAX_VALUE_LEN) for text in texts]


def _num_equal(texts: Sequence[str]) -> int:
    """Return how many characters at the beginning of all texts are equal."""
    columns = enumerate(zip(*texts, strict=False))
    return next((k for k, column in columns if len(set(column)) > 1), min(map(len, texts)))


def _flat(run: ComparedRun) -> dict[str, str]:
    """Return what was run as texts by name; the workers as the set of their values."""
    found = {name: text for part in _PARTS for name, text in _entries(part, entry(run.record, part))}
    workers = as_mappings(entry(run.record, "summary", "workers"))
    found["workers"] = str(len(workers))
    infos = [info for worker in workers for info in as_mappings(worker.get("stream_infos"))]
    answers = [host for worker in workers for host in as_mappings(worker.get("hosts"))]
    hosts = [machine for host in answers for machine in machines_of(host)]
    found |= _values_of_all("worker", infos)
    found |= _values_of_all("worker host", [_selected(host) for host in hosts])
    return found


def _selected(host: Mapping[str, object]) -> Mapping[str, object]:
    parts = {name: host.get(name) for name in (*_HOST_PARTS, "package_versions")}
    return parts | {"accelerators": as_list(host.get("accelerators"))}


def _values_of_all(name: str, documents: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Join the values of several workers, each once."""
    found = [dict(_entries(name, document)) for document in documents]
    keys = {key for values in found for key in values}
    return {key: ", ".join(sorted({values.get(key, "-") for values in found})) for key in keys}


def _entries(name: str, document: object) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a JSON document by their dotted names."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            if key not in _NOT_COMPARED:
                yield from _entries(f"{name}.{key}", value)
    else:
        yield name, str(document)
