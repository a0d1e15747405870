"""bench.gpu climb: the highest rate for which LoadGen is VALID, in Server or Interactive, on one GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite

from bench.command import check_above, check_at_least
from bench.gpu.figures import start_lines, table
from bench.gpu.found import Found
from bench.gpu.gpu_rounds import Place, Rounds
from bench.gpu.load import Lengths, Plan, offline
from bench.gpu.loadgen import draw_arrivals
from bench.gpu.offline import Keep, latency_lines
from bench.gpu.sides import Ours
from common.flags import FlagError
from sut.early_stopping import min_passing_queries
from sut.settings import Scenario

OURS = Ours.name
VALID = "VALID"
# Source: LoadGen's default target_latency_percentile of Server.
PERCENTILE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb(Lengths):
    """Ascending rates for the product; the climb ends at the first rate that is not VALID."""

    scenario: str = "server"
    """Scenario: server or interactive."""
    rates: str = "4,6,8"
    """Queries/s."""
    seconds: float = 130.0
    """Time over which requests arrive."""
    warm_rounds: int = 1
    round_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        Lengths.__post_init__(self)
        check_at_least(self, warm_rounds=0)
        check_above(self, "round_timeout_s", "seconds")
        lowest = ascending("--rates", self.rates)[0]
        least = min_passing_queries(0, PERCENTILE)
        if (num := num_arrivals(lowest, self.seconds)) < least:
            reason = f"{num} queries at {lowest:g}/s are fewer than {least}: LoadGen would call none VALID"
            raise FlagError("--seconds", reason)
        if self.scenario not in (Scenario.SERVER, Scenario.INTERACTIVE):
            raise FlagError("--scenario", f"{self.scenario!r} is neither server nor interactive")

    @property
    def num_rows(self) -> int:
        """Return the rows of the data set: one per request of the largest plan."""
        return max(self.requests, ceil(ascending("--rates", self.rates)[-1] * self.seconds))


def ascending(name: str, text: str) -> list[float]:
    """Parse ascending numbers above 0.

    Raises:
        FlagError: The values are not numbers or do not ascend.
    """
    try:
        values = [finite(word) for word in text.split(",")]
    except ValueError as error:
        raise FlagError(name, f"{text!r} is not a list of numbers") from error
    if min(values) <= 0 or values != sorted(set(values)):
        raise FlagError(name, f"{text!r} is not ascending with all values above 0")
    return values


def num_arrivals(target_qps: float, seconds: float) -> int:
    """Return the number of queries of a run."""
    return max(round(target_qps * seconds), 2)


def finite(text: str) -> float:
    """Parse a number.

    Raises:
        ValueError: It is not a number, or not finite.
    """
    value = float(text)
    if not isfinite(value):
        raise ValueError(text)
    return value


def show_climb(plan: Climb, place: Place, keep: Keep) -> Found:
    """Run the climb and print its figures.

    Raises:
        RuntimeError: LoadGen's dry run failed.
    """
    rounds = Rounds(place, keep)
    try:
        rounds.visit(OURS, [offline(plan.requests)] * plan.warm_rounds, [])
        climb(rounds, place, ascending("--rates", plan.rates), plan.seconds, Scenario(plan.scenario))
        rounds.release()
    finally:
        place.clock.say("\n".join([*_climb_lines(rounds.found), *start_lines(rounds.found)]))
    return rounds.found


def _climb_lines(found: Found) -> list[str]:
    lines = []
    for name in dict.fromkeys(one.plan for one in found.rounds if not one.warm_up):
        part = found.part(name)
        lines += [f"\n{name}", table(part, [OURS]), *latency_lines(part, [OURS])]
    return [*lines, "", *([highest(found)] if "valid_qps" in found.more else [])]


def climb(
    rounds: Rounds, place: Place, rates: Sequence[float], seconds: float, scenario: Scenario = Scenario.SERVER
) -> None:
    """Run the product at rising rates until one is not VALID; store the highest VALID rate."""
    found = rounds.found
    found.more |= {"valid_qps": None, "not_valid_qps": None, "valid_seconds": seconds}
    for target_qps in rates:
        name = f"{scenario}-{target_qps:.2f}"
        arrivals = draw(place, target_qps, seconds, name)._replace(scenario=scenario)
        rounds.visit(OURS, [], [(arrivals, 0)])
        tried = found.part(name).counted(OURS)
        if not tried:
            return
        if tried[0].verdict != VALID:
            found.more["not_valid_qps"] = target_qps
            return
        found.more["valid_qps"] = target_qps


def draw(place: Place, target_qps: float, seconds: float, name: str) -> Plan:
    """Plan arrivals at a rate for `seconds`.

    Raises:
        RuntimeError: LoadGen's dry run failed.
    """
    num_requests = num_arrivals(target_qps, seconds)
    place.clock.say(f"{name}: {num_requests} arrivals at {target_qps:.2f}/s")
    setting = place.setting
    return draw_arrivals(setting.processes, num_requests, target_qps, setting.directory, name)


def highest(found: Found) -> str:
    """Return a line with the highest VALID rate of a climb, and the first rate that is not VALID."""
    more = found.more
    valid = "none" if more["valid_qps"] is None else f"{more['valid_qps']:.2f}/s"
    above = more["not_valid_qps"]
    beyond = "no rate was found that is not VALID" if above is None else f"not VALID: {above:.2f}/s"
    return f"highest VALID rate: {valid}, {beyond}, arrivals for {more['valid_seconds']:g} s"
