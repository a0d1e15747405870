"""The lists of metrics in docs/metrics.md, generated from their declarations.

`python -m tests.metric_lists` rewrites them.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from common.metrics import Metric
from coordinator.recording.run_metrics import RUN_METRICS
from worker.worker_metrics import WORKER_METRICS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
LISTS: dict[str, Sequence[Metric]] = {"worker": WORKER_METRICS, "coordinator": RUN_METRICS}
MAX_LINE_LEN = 110
# The second part of each pair is what a name with this word is measured in.
UNITS = {
    "seconds": "seconds",
    "bytes": "bytes",
    "watts": "watts",
    "hertz": "hertz",
    "celsius": "degrees Celsius",
    "ratio": "share, 0 to 1",
    "second": "per second",
}
_LIST = re.compile(r"(?<=<!-- metrics: )(\w+) -->\n.*?(?=<!-- end of metrics -->)", re.DOTALL)


def filled(page: str) -> str:
    """Return the page with its lists as the declarations have them."""
    return _LIST.sub(lambda match: f"{match[1]} -->\n{_render(LISTS[match[1]])}", page)


def unit(metric: Metric) -> str:
    """Return the unit that the name tells; a name without one counts things."""
    return UNITS.get(metric.name.rpartition("_")[2], "number")


def _render(metrics: Sequence[Metric]) -> str:
    return "".join(map(_entry, metrics))


def _entry(metric: Metric) -> str:
    labels = [f"labels {', '.join(metric.labels)}"] if metric.labels else []
    facts = "; ".join([f"{metric.kind}, {unit(metric)}", *labels])
    text = f"- `{metric.exposed_name}` ({facts}): {metric.help}"
    return f"{textwrap.fill(text, MAX_LINE_LEN, subsequent_indent='  ', break_on_hyphens=False)}\n"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
