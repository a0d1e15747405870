"""Lists in which parts of the configuration the sides of a comparison differ."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from common.json_document import as_list, entry
from common.text import printable
from sut.results.comparison.compared_runs import ComparedRun, Side
from sut.results.recorded_workers import infos_of, machines_of_worker, workers_of

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
_MISSING = "-"
_HOST_PARTS = (
    *("hostname", "commit", "python_version", "num_cores", "num_usable_cores", "cpu_quota_cores"),
    "memory_bytes",
)


class Difference(NamedTuple):
    """An entry in which the sides differ."""

    name: str
    values: tuple[str, ...]
    """One per side; different values of its runs are joined, with the number of runs that have each."""


def find_differences(sides: Sequence[Side]) -> list[Difference]:
    """Return the entries that are not equal in all runs of all sides, ordered by name."""
    by_side = [[_flat(run) for run in side.runs] for side in sides]
    names = sorted({name for runs in by_side for run in runs for name in run})
    found = []
    for name in names:
        values = [Counter(run.get(name, _MISSING) for run in runs) for runs in by_side]
        if len(set().union(*values)) > 1:
            found.append(Difference(printable(name, MAX_VALUE_LEN), tuple(_shown(values))))
    return found


def _shown(values_by_side: Sequence[Counter[str]]) -> list[str]:
    """Shorten each side's values so that they show where they differ; runs that differ are counted."""
    common = set(values_by_side[0]).intersection(*values_by_side[1:])
    texts = []
    for values in values_by_side:
        ordered = sorted(values, key=lambda value: (value in common, value))
        more = len(ordered) - MAX_VALUES
        parts = [f"{values[value]} x {value}" if len(values) > 1 else value for value in ordered[:MAX_VALUES]]
        texts.append(" | ".join(parts) + (f" and {more} more" if more > 0 else ""))
    num_equal = _num_equal(texts)
    start = num_equal - _CONTEXT_LEN if num_equal > 2 * _CONTEXT_LEN else 0
    dots = "..." if start else ""
    return [dots + printable(text[start:], MAX_VALUE_LEN) for text in texts]


def _num_equal(texts: Sequence[str]) -> int:
    """Return how many characters at the beginning of all texts are equal."""
    columns = enumerate(zip(*texts, strict=False))
    return next((k for k, column in columns if len(set(column)) > 1), min(map(len, texts)))


def _flat(run: ComparedRun) -> dict[str, str]:
    """Return what was run as texts by name; the workers as their values with the number of each."""
    found = {name: text for part in _PARTS for name, text in _entries(part, entry(run.record, part))}
    workers = workers_of(run.record)
    found |= run.settings
    found["workers"] = str(len(workers))
    found |= values_of_workers("worker", [infos_of(worker) for worker in workers])
    hosts = [[_selected(machine) for machine in machines_of_worker(worker)] for worker in workers]
    return found | values_of_workers("worker host", hosts)


def _selected(host: Mapping[str, object]) -> Mapping[str, object]:
    parts = {name: host.get(name) for name in (*_HOST_PARTS, "package_versions")}
    return parts | {"accelerators": as_list(host.get("accelerators"))}


def values_of_workers(name: str, documents: Sequence[Sequence[Mapping[str, object]]]) -> dict[str, str]:
    """Join the values of several workers: how many workers have each, if they have not one.

    Args:
        name: Of the documents.
        documents: Those of each worker, one for each of its streams.
    """
    by_worker = [[dict(_entries(name, document)) for document in own] for own in documents if own]
    keys = {key for own in by_worker for values in own for key in values}
    return {
        key: _counted(", ".join(sorted({values.get(key, _MISSING) for values in own})) for own in by_worker)
        for key in keys
    }


def _counted(values: Iterable[str]) -> str:
    """Join values, each once, with the number of workers that have it; one that all have as it is."""
    counts = sorted(Counter(values).items())
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{num} x {value}" for value, num in counts)


def _entries(name: str, document: object) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a JSON document by their dotted names; null is a missing entry."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            if key not in _NOT_COMPARED:
                yield from _entries(f"{name}.{key}", value)
    else:
        yield name, _MISSING if document is None else str(document)
