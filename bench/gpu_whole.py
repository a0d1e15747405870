"""bench.gpu whole: Offline, Server and the highest valid Server rate in one pass, few loads, on one GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from bench.bounds import check_above, check_at_least
from bench.gpu_figures import ratio_lines, start_lines, table
from bench.gpu_found import Found
from bench.gpu_load import Plan, offline
from bench.gpu_loadgen import draw_arrivals
from bench.gpu_offline import Keep, Offline, Place, differences_of, latency_lines
from bench.gpu_rounds import Rounds
from bench.gpu_sides import SIDES

OURS, ASYNC = "ours", "async"
VALID = "VALID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(Offline):
    """All sides, Offline and Server, over one data set."""

    share: float = 0.8
    """Rate of the Server rounds, of the requests/s that ours made Offline."""
    seconds: float = 50.0
    """How long their requests arrive."""
    peak_shares: str = "1.0,1.1,1.2"
    """Rates at which ours is tried, ascending, until one is not VALID; of the same requests/s."""
    peak_seconds: float = 150.0
    max_qps: float = 50.0
    """No rate is higher: the data set has a row for each request."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names flag, value and bound.
        """
        # No super(): a dataclass with slots is made anew.
        Offline.check(self)
        check_above(self, "share", "seconds", "peak_seconds", "max_qps")
        check_at_least(self, rounds=1)
        if OURS not in self.names:
            raise ValueError(f"--sides: {self.sides!r} lacks {OURS}, whose rate the others are asked for")
        try:
            shares = self.shares
        except ValueError as error:
            raise ValueError(f"--peak-shares: {self.peak_shares!r} is no list of numbers") from error
        if any(share <= 0 for share in shares) or shares != sorted(shares):
            raise ValueError(f"--peak-shares: {self.peak_shares!r} does not ascend from above 0")

    @property
    def shares(self) -> list[float]:
        """Rates to try, as shares."""
        return [float(word) for word in self.peak_shares.split(",")] if self.peak_shares else []

    @property
    def num_rows(self) -> int:
        """One for each request of the largest plan."""
        return max(self.requests, ceil(self.max_qps * max(self.seconds, self.peak_seconds)))


def show_whole(plan: Whole, place: Place, keep: Keep) -> Found:
    """Run all rounds and print what they say: the reference, ours, the others, the reference once more.

    Raises:
        RuntimeError: LoadGen's dry run failed.
    """
    rounds = Rounds(place.setting, place.watch_log, place.clock, keep, SIDES)
    requests = offline(plan.requests)
    first, last = range(plan.rounds), range(plan.rounds, 2 * plan.rounds)
    reference = plan.names[0]

    def visit(name: str, jobs: Sequence[tuple[Plan, int]]) -> None:
        rounds.visit(name, place.gpus[:1], [requests] * plan.warm_rounds, jobs)

    if reference != OURS:
        visit(reference, [(requests, number) for number in first])
    visit(OURS, [(requests, number) for number in (*first, *last)])
    server = _server(plan, place, rounds, plan.share, plan.seconds, "server")
    if server is not None:
        visit(OURS, [(server, number) for number in first])
        _climb(plan, place, rounds)
        if ASYNC in plan.names:
            visit(ASYNC, [(server, number) for number in first])
    for name in plan.names:
        if name not in (reference, OURS, ASYNC):
            visit(name, [(requests, number) for number in first])
    if reference != OURS:
        visit(reference, [(requests, number) for number in last])
    rounds.release()
    _print(plan, place, rounds.found)
    return rounds.found


def _server(
    plan: Whole, place: Place, rounds: Rounds, share: float, seconds: float, name: str
) -> Plan | None:
    """Plan arrivals at a share of what ours made Offline; None where it made nothing."""
    made = rounds.found.part("offline").counted(OURS)
    if not made:
        rounds.found.not_run.append(f"{name}: no Offline round of {OURS}")
        return None
    target_qps = share * median(one.requests / one.seconds for one in made)
    if target_qps > plan.max_qps:
        rounds.found.not_run.append(
            f"{name}: {target_qps:.2f} queries/s are above --max-qps {plan.max_qps:g}"
        )
        return None
    setting = place.setting
    num_requests = max(round(target_qps * seconds), 2)
    arrivals = draw_arrivals(setting.processes, num_requests, target_qps, setting.directory, name)
    place.clock.say(f"{name}: {num_requests} arrivals at {target_qps:.2f}/s")
    return arrivals


def _climb(plan: Whole, place: Place, rounds: Rounds) -> None:
    """Try ours at rising rates until LoadGen does not call one VALID."""
    found = rounds.found
    found.more["valid_qps"] = 0.0
    for share in plan.shares:
        arrivals = _server(plan, place, rounds, share, plan.peak_seconds, f"peak-{share:g}")
        if arrivals is None:
            return
        rounds.visit(OURS, place.gpus[:1], [], [(arrivals, 0)])
        tried = found.part(arrivals.name).counted(OURS)
        if not tried or tried[0].verdict != VALID:
            return
        found.more["valid_qps"] = arrivals.target_qps


def _print(plan: Whole, place: Place, found: Found) -> None:
    lines = []
    for name in dict.fromkeys(one.plan for one in found.rounds):
        part = found.part(name)
        lines += ["", name, table(part, plan.names)]
        latencies = [ASYNC, OURS] if part.counted(ASYNC) else [OURS]
        lines += ratio_lines(part, plan.names) if name == "offline" else latency_lines(part, latencies)
    valid_qps = found.more.get("valid_qps", 0.0)
    lines += ["", f"highest rate that was VALID: {valid_qps:.2f}/s, arrivals for {plan.peak_seconds:g} s"]
    place.clock.say("\n".join([*lines, "", *start_lines(found), *differences_of(place)]))
