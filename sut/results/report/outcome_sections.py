"""Sections of the page: the verdict with its reasons, and what was run."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.json_document import JsonObject, as_list, as_mapping, as_mappings, is_number
from sut.log_files import RECORD
from sut.results.loadgen_figures import TPOT_P99, TTFT_P99
from sut.results.report.markup import (
    BYTES_AS_GIB,
    COUNT,
    NOT_KNOWN,
    NS_AS_MS,
    RATE,
    SECONDS,
    Column,
    Html,
    Number,
    Unit,
    element,
    escaped,
    folded,
    joined,
    note,
    number,
    table,
)
from sut.results.report.run_json import MAX_ENTRIES, RunJson

MAX_TEXT_CELL = 2000
MAX_SHOWN = 4
"""Entries of a list that the table of changed flags shows; the table of all flags has the others."""


class _Card(NamedTuple):
    """One of LoadGen's figures at the head of the page."""

    title: str
    unit: Unit
    suffix: str


_CARDS = {
    "result_completed_tokens_per_second": _Card("Output tokens", COUNT, "tokens/s"),
    "result_tokens_per_second": _Card("Output tokens", COUNT, "tokens/s"),
    "result_completed_samples_per_sec": _Card("Completed samples", RATE, "samples/s"),
    "result_samples_per_second": _Card("Samples", RATE, "samples/s"),
    TTFT_P99: _Card("TTFT p99", NS_AS_MS, "ms"),
    TPOT_P99: _Card("TPOT p99", NS_AS_MS, "ms"),
}


def verdict_section(record: RunJson) -> Html:
    """Show the outcome, its reasons, LoadGen's headline figures and the checks."""
    outcome = record.text("verdict", "outcome")
    badge = element(
        "span", outcome, class_=f"badge {outcome.lower()}", data_source="run.json#/verdict/outcome"
    )
    title = f"{record.text('scenario')} {record.text('mode')}"
    parts = [element("h1", element("span", title), badge), *_reasons(record)]
    cards = [
        _card(record, name, card) for name, card in _CARDS.items() if record.get("loadgen", name) is not None
    ]
    parts += [element("div", joined(cards), class_="cards")] if cards else [_no_figures(record)]
    return element("section", *parts, *_checks(record), id="verdict")


def _reasons(record: RunJson) -> Iterator[Html]:
    """List why the run is not VALID and what to look at, then why it is no submission run."""
    lines = []
    if reason := record.text("verdict", "reason"):
        lines.append(element("li", escaped(reason, MAX_TEXT_CELL), class_="fail"))
    for _, check in record.entries("verdict", "checks"):
        if check.get("passed") is True and check.get("warning") is True:
            lines.append(
                element("li", element("b", str(check.get("name"))), ": ", _seen(check), class_="warn")
            )
    if lines:
        yield element("ul", joined(lines), class_="reasons")
    yield from _deviations(record)


def _deviations(record: RunJson) -> Iterator[Html]:
    """List why the run is no submission run."""
    if texts := as_list(record.get("verdict", "deviations"))[:100]:
        lines = joined(element("li", escaped(text, MAX_TEXT_CELL)) for text in texts)
        title = f"No submission run: {len(texts)} deviation{'s' * (len(texts) > 1)}"
        yield folded(title, element("ul", lines, class_="deviations"))


def _seen(check: JsonObject) -> Html:
    return escaped(check.get("seen", ""), MAX_TEXT_CELL)


def _card(record: RunJson, name: str, card: _Card) -> Html:
    value = element("b", number(record.number("loadgen", name), card.unit))
    bound = record.get("loadgen_bounds", name, "value")
    parts = [element("span", card.title, class_="title"), element("span", value, f" {card.suffix}")]
    if is_number(bound):
        limit = number(record.number("loadgen_bounds", name, "value"), card.unit, trims=True)
        kind = "limit" if record.text("loadgen_bounds", name, "name") == "limit" else "target"
        parts.append(element("span", f"{kind} ", limit, f" {card.suffix}", class_="bound"))
    return element("div", *parts, class_="card")


def _no_figures(record: RunJson) -> Html:
    done = number(record.number("summary", "answer_tokens", "count"), COUNT)
    return note("LoadGen reported no result figures for this run. Requests complete at its end: ", done, ".")


def _checks(record: RunJson) -> Iterator[Html]:
    rows = []
    num_passed = 0
    for _, check in record.entries("verdict", "checks"):
        passed, warned = check.get("passed") is True, check.get("warning") is True
        num_passed += passed
        mark = "FAIL" if not passed else "warn" if warned else "ok"
        rows.append(
            (str(check.get("name", "")), element("span", mark, class_=f"mark {mark.lower()}"), _seen(check))
        )
    if rows:
        columns = (Column("check", True), Column("result", True), Column("seen", True))
        yield folded(f"Checks of the verdict: {num_passed} of {len(rows)} passed", table(columns, rows))


def configuration_section(record: RunJson) -> Html:
    """Show what was run: the run, its data, flags, versions, hashes and hosts."""
    pairs = [
        ("Run", record.text("run_id")),
        ("Started (UTC)", record.text("started_utc")),
        ("Duration of the test", number(record.number("wall_s"), SECONDS, with_suffix=True)),
        ("Before the test", number(record.number("ready_s"), SECONDS, with_suffix=True)),
        ("Coordinator CPU time", number(record.number("coordinator_cpu_s"), SECONDS, with_suffix=True)),
        ("Of it in the test", number(record.number("test_cpu_s"), SECONDS, with_suffix=True)),
        ("Round", record.text("round") or "seeds of no known round"),
        ("Data set", _dataset(record)),
        (
            "Workers",
            f"{record.num_entries('summary', 'workers')}: {'; '.join(_engines(record)) or 'not known'}",
        ),
    ]
    facts, flags = element("div", _pairs(pairs)), element("div", *_flags(record))
    parts = [
        element("h2", "What was run"),
        element("div", facts, flags, class_="split"),
        folded("All flags", _pairs([(_flag(name), _value(record, name)) for name in record.names("config")])),
        folded(
            "Sampling parameters",
            _pairs([(name, record.text("generation", name)) for name in record.names("generation")]),
        ),
        folded("Versions and hashes", _pairs(_versions(record))),
        folded("Hosts", _hosts(record)),
    ]
    return element("section", *parts, id="configuration")


def _pairs(pairs: Sequence[tuple[str, object]]) -> Html:
    rows = [
        (name, value if isinstance(value, Html) else escaped(value, MAX_TEXT_CELL)) for name, value in pairs
    ]
    columns = (Column("", True), Column("", True))
    return table(columns, rows, kind="pairs")


def _dataset(record: RunJson) -> Html:
    samples = number(record.number("dataset", "num_samples"), COUNT)
    return element("span", record.text("dataset", "path"), ", ", samples, " samples")


def _engines(record: RunJson) -> list[str]:
    """List the engines of the workers, each once."""
    found: dict[str, None] = {}
    for _, row in record.entries("summary", "workers"):
        if info := as_mapping(row.get("info")):
            engine = f"{info.get('engine', '')} {info.get('engine_version', '')}".strip()
            model = f"model {info['model']}" if info.get("model") else ""
            found[", ".join(word for word in (engine, model) if word)] = None
    return list(found)[:20]


def _flags(record: RunJson) -> Iterator[Html]:
    """Show the flags that differ from their defaults."""
    changed = record.get("changed_flags")
    if isinstance(changed, list):
        yield element("h3", "Flags that differ from their defaults")
        yield _pairs([(_flag(name), _value(record, str(name), MAX_SHOWN)) for name in changed[:200]])
    else:
        yield note(
            "run.json does not tell which flags differ from their defaults; all flags are listed below."
        )


def _flag(name: object) -> str:
    return f"--{str(name).replace('_', '-')}"


def _value(record: RunJson, name: str, max_shown: int = MAX_ENTRIES) -> str:
    value = record.get("config", name)
    if isinstance(value, list):
        more = len(value) - max_shown
        return ", ".join(map(str, value[:max_shown])) + (f" and {more:,} more" if more > 0 else "")
    return "not set" if value is None else str(value)


def _versions(record: RunJson) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [
        (name, record.text("versions", name)) for name in record.names("versions")
    ]
    found += [
        ("specification (run hash)", record.text("spec_hash")),
        ("data set (SHA-256)", record.text("dataset", "sha256")),
    ]
    models = {str(info.get("model_hash")) for info in _infos(record) if info.get("model_hash")}
    found += [("model hash", model_hash) for model_hash in sorted(models)[:10]]
    return found + [
        (f"{name} (SHA-256)", record.text("files_sha256", name)) for name in record.names("files_sha256")
    ]


def _infos(record: RunJson) -> Iterator[JsonObject]:
    for _, row in record.entries("summary", "workers"):
        if info := as_mapping(row.get("info")):
            yield info


def _hosts(record: RunJson) -> Html:
    """List the coordinator's machine and the workers' machines, each once."""
    paths: dict[tuple[str, ...], list[tuple[str | int, ...]]] = {}
    for role, path in [("coordinator", ("host",)), *_worker_hosts(record)]:
        paths.setdefault((role, *_host_cells(record.get(*path))), []).append(path)
    rows = [[*cells, *_host_numbers(record, cells[1], found)] for cells, found in paths.items()]
    titles = ("role", "host", "processor", "accelerators", "driver", "system", "Python", "commit")
    columns = [*(Column(title, True) for title in titles), *map(Column, ("cores", "memory GiB", "processes"))]
    return table(columns, rows)


def _worker_hosts(record: RunJson) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """List the places of each worker's machines, at the opening of its last stream."""
    for index, _ in record.entries("summary", "workers"):
        num_streams = record.num_entries("summary", "workers", index, "hosts")
        latest = ("summary", "workers", index, "hosts", max(num_streams - 1, 0))
        yield "worker", latest
        for other in range(record.num_entries(*latest, "engine_hosts")):
            yield "engine's other node", (*latest, "engine_hosts", other)


def _host_cells(host: object) -> tuple[str, ...]:
    """Return what names a machine as texts: host name, processor, accelerators, driver, system, versions."""
    facts = as_mapping(host)
    devices, named = as_mappings(facts.get("accelerators")), as_mapping(facts.get("hardware"))
    names = ", ".join(f"{one.get('num_devices')} x {one.get('name')}" for one in devices)
    drivers = ", ".join(sorted({str(one.get("driver_version")) for one in devices}))
    found = (
        facts.get("hostname"),
        named.get("processor_model"),
        names,
        drivers,
        named.get("operating_system"),
    )
    versions = (facts.get("python_version"), facts.get("commit"))
    return tuple(str(cell or NOT_KNOWN) for cell in (*found, *versions))


def _host_numbers(record: RunJson, hostname: str, paths: list[tuple[str | int, ...]]) -> Iterator[Html]:
    yield number(record.number(*paths[0], "num_cores"), COUNT)
    yield number(record.number(*paths[0], "memory_bytes"), BYTES_AS_GIB)
    yield number(Number(len(paths), f"{RECORD}#processes/{hostname}"), COUNT)
