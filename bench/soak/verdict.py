"""Checks of a soak: constant memory and descriptors, losses that match kills, exact answers."""

from typing import Any, NamedTuple

from bench.process_usage import Growth
from bench.runs import loadgen_window_s
from bench.soak.killed_workers import Kill
from bench.soak.soak_run import NUM_SAMPLES, Leftover, Sample
from coordinator.scheduling.request_columns import DONE
from coordinator.scheduling.worker_load import NUM_BEGIN_COLUMNS, NUM_END_COLUMNS

WARM_UP = 0.2
"""Share of LoadGen's test left out: arenas, pools and LoadGen's own records are filled in it."""
MAX_GROWTH = 0.05
MAX_GROWTH_KIB = 10 * 1024
LOADGEN_QUERY_BYTES = 116
"""Bytes that LoadGen 6.0.17 keeps per Server query until the end of its test; measured as RSS over queries,
10,000 to 100,000 of them, with a SUT that answers immediately."""
RECORD_QUERY_BYTES = DONE.itemsize + 8 * (2 + NUM_BEGIN_COLUMNS + NUM_END_COLUMNS)
"""Bytes that the coordinator keeps per query: a row, and the frame delays of its first token and its end."""
MAX_MORE_FDS = 4
"""A returning worker may hold an old and a new connection; a leak per kill would be dozens of descriptors."""
LOSS_TIMEOUT_S = 8.0
"""Time within which a kill must be seen as a loss: --worker-timeout-s and a margin."""
BACK_TIMEOUT_S = 15.0
"""A worker killed at least this long before LoadGen's end must have been taken back."""


class Check(NamedTuple):
    """A check with its result."""

    name: str
    passed: bool
    seen: str


class Returns(NamedTuple):
    """Kills matched with losses."""

    detect_ms: list[float]
    """Time from each kill to its loss."""
    num_missed: int
    """Kills before LoadGen's end without a loss."""
    num_unexplained: int
    """Losses without a kill."""
    num_back: int
    """Number of times that a worker was taken back."""
    num_late: int
    """Kills so late that the worker need not have been taken back."""


def judge(left: Leftover) -> list[Check]:
    """Return all checks of a soak."""
    checks = [_outcome(left), _answers(left), _losses(left), _taken_back(left)]
    kept = steady(left)
    if len(kept) < 2:
        return [*checks, Check("memory", False, f"{len(kept)} samples after the warm-up")]
    return [*checks, _memory(left, kept), _descriptors(kept)]


def samples_of_test(left: Leftover, from_share: float = 0.0) -> list[Sample]:
    """Return the samples of LoadGen's test, starting at a share of its duration."""
    begin_s, end_s = loadgen_window_s(left.detail)
    from_s = begin_s + from_share * (end_s - begin_s)
    return [sample for sample in left.samples if from_s <= sample.at_s <= end_s]


def steady(left: Leftover) -> list[Sample]:
    """Return the samples after the warm-up."""
    return samples_of_test(left, WARM_UP)


def returns(left: Leftover) -> Returns:
    """Match kills with losses: a kill's loss is its worker's first one within LOSS_TIMEOUT_S after it."""
    summary = left.record["summary"]
    losses = list(summary["losses"])
    detect_ms: list[float] = []
    num_missed = num_late = 0
    _, end_s = loadgen_window_s(left.detail)
    for kill in left.kills:
        num_late += kill.at_s > end_s - BACK_TIMEOUT_S
        loss = next((loss for loss in losses if _is_of(loss, kill)), None)
        if loss is not None:
            losses.remove(loss)
            detect_ms.append((loss["at_ns"] - kill.at_ns) / 1e6)
        elif kill.at_s < end_s - LOSS_TIMEOUT_S:
            num_missed += 1
    num_back = sum(worker["streams"] - 1 for worker in summary["workers"])
    return Returns(detect_ms, num_missed, len(losses), num_back, num_late)


def _is_of(loss: dict[str, Any], kill: Kill) -> bool:
    since_s: float = (loss["at_ns"] - kill.at_ns) / 1e9
    return kill.address == loss["address"] and 0 <= since_s < LOSS_TIMEOUT_S


def _outcome(left: Leftover) -> Check:
    verdict = left.record["verdict"]
    seen = f"{left.exit_code}, {verdict['outcome']} {verdict['reason']}".rstrip()
    return Check("exit code", left.exit_code == 0, seen)


def _answers(left: Leftover) -> Check:
    num_done = left.record["summary"]["latency_ns"]["count"]
    whole = not left.wrong and left.num_answers == num_done and left.num_samples == NUM_SAMPLES
    first = f", first: {left.wrong[0]}" if left.wrong else ""
    seen = (
        f"{left.num_answers} logged of {num_done}, {left.num_samples} of {NUM_SAMPLES} samples, "
        f"{len(left.wrong)} wrong{first}"
    )
    return Check("exact tokens", whole, seen)


def _losses(left: Leftover) -> Check:
    found = returns(left)
    seen = f"{len(left.kills)} kills, {found.num_missed} of them not seen as a loss"
    return Check("kills seen", bool(left.kills) and not found.num_missed, seen)


def _taken_back(left: Leftover) -> Check:
    found = returns(left)
    due = len(left.kills) - found.num_late
    return Check("taken back", found.num_back >= due, f"{found.num_back} times, {due} expected")


def _memory(left: Leftover, kept: list[Sample]) -> Check:
    rss = Growth.of([s.at_s for s in kept], [s.usage.rss_kib for s in kept])
    bound_kib = max(MAX_GROWTH * rss.first, MAX_GROWTH_KIB)
    records_kib = _records_kib(left, kept)
    seen = (
        f"RSS {rss.first / 1024:.1f} -> {rss.last / 1024:.1f} MiB, {rss.total:+.0f} KiB, "
        f"{records_kib:.0f} of them records of queries, {rss.total - records_kib:+.0f} other "
        f"(bound {bound_kib:.0f}); slope {rss.per_minute:+.1f} KiB/min, highest {rss.highest / 1024:.1f} MiB"
    )
    return Check("memory", rss.total - records_kib < bound_kib, seen)


def _records_kib(left: Leftover, kept: list[Sample]) -> float:
    """Compute the memory that any run with as many queries keeps, with or without lost workers."""
    begin_s, end_s = loadgen_window_s(left.detail)
    share = (kept[-1].at_s - kept[0].at_s) / (end_s - begin_s)
    num_queries = left.record["summary"]["latency_ns"]["count"] * share
    return float(num_queries * (LOADGEN_QUERY_BYTES + RECORD_QUERY_BYTES) / 1024)


def _descriptors(kept: list[Sample]) -> Check:
    fds = Growth.of([s.at_s for s in kept], [s.usage.fds for s in kept])
    seen = f"{fds.first:.0f} first, {fds.last:.0f} last, {fds.highest:.0f} highest"
    return Check("descriptors", fds.total <= MAX_MORE_FDS, seen)
