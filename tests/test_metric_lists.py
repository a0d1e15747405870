"""The declared metrics: their page, their names and the queries of the dashboard."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import CollectorRegistry

from common.metrics import Metric, MetricKind, Series
from common.metrics_endpoint import families
from tests.metric_lists import LISTS, PAGE, filled
from worker.worker_metrics import WORKER_METRICS

DASHBOARD = Path(__file__).resolve().parent.parent / "deploy" / "metrics" / "grafana.json"
METRICS = [metric for metrics in LISTS.values() for metric in metrics]
NAME = re.compile(r"\btokenfleet_\w+")
PROMTOOL = shutil.which("promtool")


def queries(panel: Any = None) -> Iterator[tuple[str, str]]:
    """List title and query of each target of the dashboard."""
    found = json.loads(DASHBOARD.read_text(encoding="utf-8")) if panel is None else panel
    for target in found.get("targets", []):
        yield found["title"], target["expr"]
    for inner in found.get("panels", []):
        yield from queries(inner)


def test_the_page_lists_every_metric_as_declared() -> None:
    """Type, unit, labels and help are the declared ones; `python -m tests.metric_lists` writes them."""
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page
    assert "- `tokenfleet_worker_tokens_total` (counter, number; labels replica): Tokens that" in page
    assert "- `tokenfleet_coordinator_ttft_seconds` (histogram, seconds): " in page


def test_names_follow_the_conventions_of_prometheus() -> None:
    """Names are unique and in snake case; only the exposed name of a counter ends with _total."""
    names = [metric.exposed_name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert [] == [name for name in names if not re.fullmatch("tokenfleet(_[a-z]+)+", name)]
    assert {m.exposed_name for m in METRICS if m.kind is MetricKind.COUNTER} == {
        name for name in names if name.endswith("_total")
    }


class _Ones(CollectorRegistry):
    """One series of each metric: every label is "a", every number 1."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        values = {m.name: (1.0,) * (len(m.bounds) + 2) if m.bounds else 1.0 for m in self._metrics}
        readings = {m.name: [Series(("a",) * len(m.labels), values[m.name])] for m in self._metrics}
        yield from families(self._metrics, readings)


def promtool_findings(text: bytes) -> tuple[int, bytes]:
    """Have promtool check the text of a scrape; returns its exit code and what it says."""
    command = [str(PROMTOOL), "check", "metrics"]
    checked = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    return checked.returncode, checked.stdout


@pytest.mark.skipif(PROMTOOL is None, reason="Debian's package prometheus is not installed")
@pytest.mark.parametrize("program", LISTS)
def test_promtool_has_nothing_to_say_of_the_metrics(program: str) -> None:
    """`promtool check metrics` finds no fault with the text of any declared metric."""
    text = generate_latest(_Ones(LISTS[program]))
    assert all(f" {metric.exposed_name}".encode() in text for metric in LISTS[program])
    assert (0, b"") == promtool_findings(text)


def test_a_worker_s_metrics_tell_the_replica() -> None:
    """The first label of each is `replica`, so that a node can put its replicas' metrics together."""
    assert {"replica"} == {metric.labels[0] for metric in WORKER_METRICS}


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    """Every name in a query is exported, a histogram's with its suffix; each query has a title."""
    exposed = {metric.exposed_name for metric in METRICS}
    exposed |= {f"{m.name}_bucket" for m in METRICS if m.kind is MetricKind.HISTOGRAM}
    asked = {name for _, query in queries() for name in NAME.findall(query)}
    assert asked and asked <= exposed
    assert all(title for title, _ in queries())
