"""Composes the live view of a run as lines of text, with rich, for a terminal of any size."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rich.color import ColorSystem
from rich.console import Console
from rich.text import Text

from coordinator.recording.run_snapshot import (
    LatencyFigures,
    LiveFigures,
    RunPhase,
    Snapshot,
    WorkerFigures,
)
from coordinator.scheduling.failover import Loss

COLOR_SYSTEMS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
}
"""By rich's names."""
BAR_WIDTH = 24
MAX_QUIET_S = 5.0
"""A worker with requests and without a frame for longer is shown as slow."""
MIN_WORKER_ROWS = 3
_UNKNOWN = "?"


class Screen:
    """Composes the lines of a terminal."""

    def __init__(self) -> None:
        """Detect the colors of stderr's terminal; NO_COLOR turns them off."""
        self._console = Console(stderr=True, force_terminal=True)
        name = None if self._console.no_color else self._console.color_system
        self._colors = None if name is None else COLOR_SYSTEMS[name]

    def lines(self, snapshot: Snapshot, num_columns: int, num_lines: int) -> list[str]:
        """Return at most `num_lines` lines of at most `num_columns` characters, with escapes for colors."""
        return [self._line(text, num_columns) for text in compose(snapshot, num_columns, num_lines)]

    def _line(self, text: Text, num_columns: int) -> str:
        """Cut a line and add its escapes; Console.print would also wrap it, at several times the cost."""
        plain = text.plain
        if plain.isascii() and not text.spans:
            cut = plain[:num_columns]
            if not text.style:
                return cut
            return self._console.get_style(text.style).render(cut, color_system=self._colors)
        text.truncate(num_columns)
        segments = text.render(self._console)
        return "".join(
            part.text if part.style is None else part.style.render(part.text, color_system=self._colors)
            for part in segments
        )


def compose(snapshot: Snapshot, num_columns: int, num_lines: int) -> list[Text]:
    """Compose the lines; what matters less is left out when there are too many."""
    head = [_title(snapshot)]
    foot: list[Text] = []
    if snapshot.run is not None:
        head += _run_lines(snapshot.run)
        foot = [_loss_line(loss) for loss in snapshot.run.losses]
    head, foot = head[:num_lines], foot[: max(num_lines - len(head), 0)]
    room = num_lines - len(head) - len(foot)
    if room < MIN_WORKER_ROWS:
        # The summary line matters more than an old loss.
        foot = foot[-max(num_lines - len(head) - 1, 0) :] if num_lines > len(head) + 1 else []
        room = num_lines - len(head) - len(foot)
    # The workers are free by then, and no link to them is live.
    workers = [] if snapshot.phase is RunPhase.GRADING else snapshot.workers
    return [*head, *_worker_lines(workers, num_columns, room), *foot]


def _title(snapshot: Snapshot) -> Text:
    text = Text(snapshot.title, style="bold")
    text.append(f"  {snapshot.phase} ", style="bold cyan")
    text.append(duration(snapshot.phase_s), style="cyan")
    return text


def _run_lines(run: LiveFigures) -> Iterator[Text]:
    yield _bar(run)
    yield Text(
        f"{_rate(run.tokens_per_s)} tokens/s  in flight {run.num_in_flight:,}  waiting {run.num_waiting:,}"
    )
    has_limits = any(latency.limit_ns is not None for latency in run.latencies)
    limits = f"{'limit':>10}  over limit (early stopping)" if has_limits else ""
    yield Text(f"{'from issue':<11}{'p50':>10}{'p99':>10}{limits}", style="dim")
    for latency in run.latencies:
        yield _latency_line(latency)
    note = ", which LoadGen's TTFT includes" if has_limits else ""
    yield Text(f"issue up to {ms(run.lateness_ns)} late in the last 10 s{note}")


def _bar(run: LiveFigures) -> Text:
    filled = min(BAR_WIDTH * run.num_done // run.num_expected, BAR_WIDTH) if run.num_expected else 0
    text = Text("[")
    text.append("#" * filled, style="green")
    text.append("-" * (BAR_WIDTH - filled) + "] ")
    expected = f"/{run.num_expected:,}" if run.num_expected else ""
    text.append(f"{run.num_done:,}{expected} done", style="bold")
    remaining = _UNKNOWN if run.remaining_s is None else duration(run.remaining_s)
    text.append(f"  ETA {remaining}")
    return text


def _latency_line(latency: LatencyFigures) -> Text:
    is_known = latency.num_queries > 0
    over = latency.limit_ns is not None and latency.p99_ns > latency.limit_ns
    text = Text(f"{latency.name:<11}{ms(latency.p50_ns) if is_known else _UNKNOWN:>10}")
    text.append(f"{ms(latency.p99_ns) if is_known else _UNKNOWN:>10}", style="bold red" if over else "bold")
    if latency.limit_ns is None:
        return text
    text.append(f"{ms(latency.limit_ns):>10}  {latency.num_over:,}")
    if latency.num_allowed is not None:
        lost = latency.num_over > latency.num_allowed
        text.append(f" of {max(latency.num_allowed, 0):,} allowed: ")
        text.append("cannot be met" if lost else "can be met", style="bold red" if lost else "green")
    return text


def _loss_line(loss: Loss) -> Text:
    worker = loss.address if loss.is_move else f"lost {loss.address}"
    return Text(f"{worker}: {loss.requests:,} requests moved: {loss.reason}", style="red")


class _Column(NamedTuple):
    """A column of the table of workers."""

    title: str
    width: int
    """Of right-aligned text; 0: as wide as the longest text, left-aligned."""
    show: Callable[[WorkerFigures], str]


_COLUMNS = (
    _Column("worker", 0, lambda w: w.address),
    _Column("state", 0, lambda w: w.state),
    _Column("tokens/s", 10, lambda w: _rate(w.tokens_per_s)),
    _Column("running", 8, lambda w: _count(w.running)),
    _Column("waiting", 8, lambda w: _count(w.waiting)),
    _Column("KV", 6, lambda w: _share(w.kv_use)),
    _Column("last frame", 11, lambda w: "-" if w.quiet_s is None else duration(w.quiet_s)),
    _Column("host", 0, lambda w: w.host),
)


def _worker_lines(workers: Sequence[WorkerFigures], num_columns: int, room: int) -> list[Text]:
    """Compose a summary, and the table; the worst workers if there is no room for all."""
    if not workers or room < 1:
        return []
    lines = [_worker_summary(workers)]
    num_rows = room - 2
    if num_rows < 1:
        return lines
    shown = workers if len(workers) <= num_rows else sorted(workers, key=badness)[:num_rows]
    columns = _fitting(shown, num_columns)
    lines.append(Text("  ".join(column[0] for column in columns).rstrip(), style="dim"))
    for row, worker in enumerate(shown, start=1):
        lines.append(Text("  ".join(column[row] for column in columns).rstrip(), style=_style(worker)))
    return lines


def _worker_summary(workers: Sequence[WorkerFigures]) -> Text:
    live = [worker for worker in workers if worker.state == "live"]
    parts = [f"workers {len(live)}/{len(workers)} live"]
    if live:
        running = sum(max(worker.running, 0) for worker in live)
        waiting = sum(max(worker.waiting, 0) for worker in live)
        parts += [f"running {running:,}", f"waiting {waiting:,}"]
    if rates := [worker.tokens_per_s for worker in live if not math.isnan(worker.tokens_per_s)]:
        parts.append(f"tokens/s {min(rates):,.0f} to {max(rates):,.0f}")
    if kv_uses := [worker.kv_use for worker in live if not math.isnan(worker.kv_use)]:
        parts.append(f"KV up to {_share(max(kv_uses))}")
    return Text("  ".join(parts), style="bold")


def _fitting(workers: Sequence[WorkerFigures], num_columns: int) -> list[list[str]]:
    """Return title and cells of the first columns that fit; the first one always does."""
    fitting: list[list[str]] = []
    left = num_columns
    for column in _COLUMNS:
        texts = _texts(column, workers)
        if len(texts[0]) > left and fitting:
            break
        fitting.append(texts)
        left -= len(texts[0]) + 2
    return fitting


def _texts(column: _Column, workers: Sequence[WorkerFigures]) -> list[str]:
    """Return title and cells of a column, all of one width."""
    texts = [column.title, *map(column.show, workers)]
    if column.width:
        return [f"{text:>{column.width}}" for text in texts]
    width = max(map(len, texts))
    return [f"{text:<{width}}" for text in texts]


def badness(worker: WorkerFigures) -> tuple[bool, bool, float]:
    """Return a sort key: lost workers first, then slow ones, then those with the fewest tokens/s."""
    rate = 0.0 if math.isnan(worker.tokens_per_s) else worker.tokens_per_s
    return worker.state == "live", not _is_slow(worker), rate


def _is_slow(worker: WorkerFigures) -> bool:
    return worker.outstanding > 0 and (worker.quiet_s or 0.0) > MAX_QUIET_S


def _style(worker: WorkerFigures) -> str:
    if worker.state != "live":
        return "red"
    return "yellow" if _is_slow(worker) else ""


def _count(number: int) -> str:
    return f"{number:,}" if number >= 0 else _UNKNOWN


def _rate(per_s: float) -> str:
    return _UNKNOWN if math.isnan(per_s) else f"{per_s:,.0f}"


def _share(share: float) -> str:
    return _UNKNOWN if math.isnan(share) else f"{share:.0%}"


def ms(duration_ns: int) -> str:
    """Format a duration in ms, with a digit behind the point below 100 ms."""
    return f"{duration_ns / 1e6:,.{1 if duration_ns < 1e8 else 0}f} ms"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
