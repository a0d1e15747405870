"""bench.gpu whole: Offline, Server and the highest valid Server rate in one pass, few loads, on one GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from bench.bounds import check_above
from bench.gpu_climb import OURS, ascending, climb, draw, highest
from bench.gpu_figures import ratio_lines, start_lines, table
from bench.gpu_found import Found
from bench.gpu_load import Plan, offline
from bench.gpu_offline import Keep, Offline, Place, differences_of, latency_lines
from bench.gpu_rounds import Rounds
from bench.gpu_sides import SIDES

ASYNC = "async"


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
        if OURS not in self.names:
            raise ValueError(f"--sides: {self.sides!r} lacks {OURS}, whose rate the others are asked for")
        ascending("--peak-shares", self.peak_shares)

    @property
    def shares(self) -> list[float]:
        """Rates to try, as shares."""
        return ascending("--peak-shares", self.peak_shares)

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
    if made_qps := _made_qps(rounds.found, plan):
        server = draw(place, plan.share * made_qps, plan.seconds, "server")
        visit(OURS, [(server, number) for number in first])
        climb(rounds, place, [share * made_qps for share in plan.shares], plan.peak_seconds)
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


def _made_qps(found: Found, plan: Whole) -> float:
    """Compute the requests/s that ours made Offline; 0 where the data set has too few rows for the rates."""
    made = found.part("offline").counted(OURS)
    if not made:
        found.not_run.append(f"Server: no Offline round of {OURS}")
        return 0.0
    made_qps = median(one.requests / one.seconds for one in made)
    most_qps = made_qps * max(plan.share, *plan.shares)
    if most_qps > plan.max_qps:
        found.not_run.append(f"Server: {most_qps:.2f} queries/s are above --max-qps {plan.max_qps:g}")
        return 0.0
    return made_qps


def _print(plan: Whole, place: Place, found: Found) -> None:
    lines = []
    for name in dict.fromkeys(one.plan for one in found.rounds):
        part = found.part(name)
        lines += ["", name, table(part, plan.names)]
        latencies = [ASYNC, OURS] if part.counted(ASYNC) else [OURS]
        lines += ratio_lines(part, plan.names) if name == "offline" else latency_lines(part, latencies)
    if "valid_qps" in found.more:
        lines += ["", highest(found)]
    place.clock.say("\n".join([*lines, "", *start_lines(found), *differences_of(place)]))
