"""Whether a soak was passed: memory and descriptors that stay, losses that were kills, exact answers."""

from typing import Any, NamedTuple

from bench.process_usage import Growth
from bench.runs import loadgen_window_s
from bench.soak.killed_workers import Kill
from bench.soak.soak_run import NUM_SAMPLES, Leftover, Sample
from coordinator.scheduling.request_columns import DONE

WARM_UP = 0.2
"""Of LoadGen's test: arenas, pools and LoadGen's own records are first filled."""
MAX_GROWTH = 0.05
MAX_GROWTH_KIB = 10 * 1024
LOADGEN_QUERY_BYTES = 116
"""What LoadGen 6.0.17 itself keeps of a Server query until the end of its test: RSS over queries 10,000 to
100,000 of a SUT that answers at once."""
RECORD_QUERY_BYTES = DONE.itemsize + 2 * 8
"""What the coordinator keeps of it: a row, and the delays of the frames of its first token and its end."""
MAX_MORE_FDS = 4
"""A worker on its way back may hold an old and a new connection; a leak per kill would be dozens."""
LOSS_TIMEOUT_S = 8.0
"""A kill is seen as a loss within this: --worker-timeout-s, and some."""
BACK_TIMEOUT_S = 15.0
"""A worker killed this long before LoadGen's end must have been taken back."""


class Check(NamedTuple):
    """One line of the soak's verdict."""

    name: str
    passed: bool
    seen: str


class Returns(NamedTuple):
    """What became of the kills."""

    detect_ms: list[float]
    """From each kill to the loss that it is."""
    num_missed: int
    """Kills before LoadGen's end that were no loss."""
    num_unexplained: int
    """Losses that were no kill."""
    num_back: int
    """Times that a worker was taken back."""
    num_late: int
    """Kills so late that the worker need not have been taken back."""


def judge(left: Leftover) -> list[Check]:
    """Judge all of it."""
    checks = [_outcome(left), _answers(left), _losses(left), _taken_back(left)]
    kept = steady(left)
    if len(kept) < 2:
        return [*checks, Check("memory", False, f"{len(kept)} samples after the warm-up")]
    return [*checks, _memory(left, kept), _descriptors(kept)]


def samples_of_test(left: Leftover, from_share: float = 0.0) -> list[Sample]:
    """List the samples of LoadGen's test, from a share of its time on."""
    begin_s, end_s = loadgen_window_s(left.detail)
    from_s = begin_s + from_share * (end_s - begin_s)
    return [sample for sample in left.samples if from_s <= sample.at_s <= end_s]


def steady(left: Leftover) -> list[Sample]:
    """List the samples after the warm-up."""
    return samples_of_test(left, WARM_UP)


def returns(left: Leftover) -> Returns:
    """Match kills with losses: a kill is the first loss of its worker after it, in time."""
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
    return Check("taken back", found.num_back >= due, f"{found.num_back} times, {due} were due")


def _memory(left: Leftover, kept: list[Sample]) -> Check:
    rss = Growth.of([s.at_s for s in kept], [s.usage.rss_kib for s in kept])
    bound_kib = max(MAX_GROWTH * rss.first, MAX_GROWTH_KIB)
    records_kib = _records_kib(left, kept)
    seen = (
        f"RSS {rss.first / 1024:.1f} -> {rss.last / 1024:.1f} MiB, {rss.total:+.0f} KiB, "
        f"{records_kib:.0f} of them records of queries, {rss.total - records_kib:+.0f} not "
        f"(bound {bound_kib:.0f}); slope {rss.per_minute:+.1f} KiB/min, most {rss.highest / 1024:.1f} MiB"
    )
    return Check("memory", rss.total - records_kib < bound_kib, seen)


def _records_kib(left: Leftover, kept: list[Sample]) -> float:
    """Compute what every run of as many queries keeps of them, whether workers are lost or not."""
    begin_s, end_s = loadgen_window_s(left.detail)
    share = (kept[-1].at_s - kept[0].at_s) / (end_s - begin_s)
    num_queries = left.record["summary"]["latency_ns"]["count"] * share
    return float(num_queries * (LOADGEN_QUERY_BYTES + RECORD_QUERY_BYTES) / 1024)


def _descriptors(kept: list[Sample]) -> Check:
    fds = Growth.of([s.at_s for s in kept], [s.usage.fds for s in kept])
    seen = f"{fds.first:.0f} first, {fds.last:.0f} last, {fds.highest:.0f} most"
    return Check("descriptors", fds.total <= MAX_MORE_FDS, seen)
