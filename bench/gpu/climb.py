"""bench.gpu climb: the highest rate for which LoadGen is VALID, in Server or Interactive, on one GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite

from bench.command import check_above, check_at_least
from bench.gpu.figures import compiled_lines, start_lines, table
from bench.gpu.found import Found
from bench.gpu.gpu_rounds import Place, Rounds
from bench.gpu.load import Lengths, Plan, offline
from bench.gpu.offline import Keep, latency_lines
from bench.gpu.sides import Ours
from common.flags import FlagError
from sut.early_stopping import allowed_over_latency, min_passing_queries
from sut.settings import Scenario

OURS = Ours.name
VALID = "VALID"
# Source: LoadGen's default target_latency_percentile of Server.
PERCENTILE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb(Lengths):
    """Ascending rates for the product: up to the first that is not VALID, or down to the first that is."""

    scenario: str = "server"
    """Scenario: server or interactive."""
    rates: str = "4,6,8"
    """Rates to try, in queries/s, with commas."""
    begin_at: float = 0.0
    """Rate to begin at; 0: the lowest one, or with --give-up the highest."""
    seconds: float = 130.0
    """Time over which requests arrive in s, above 0."""
    queries: int = 0
    """Queries at each rate, in place of --seconds; 0: --seconds."""
    give_up: bool = False
    """End the run of a rate once LoadGen cannot call it VALID any more, whatever its other queries do."""
    warm_rounds: int = 1
    """Warm-up rounds before the first rate, 0 or more."""
    round_timeout_s: float = 600.0
    """Longest duration of a run in s beyond its arrivals, above 0."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        Lengths.__post_init__(self)
        check_at_least(self, warm_rounds=0, queries=0)
        check_above(self, "round_timeout_s", "seconds")
        rates = ascending("--rates", self.rates)
        if self.begin_at and self.begin_at not in rates:
            raise FlagError("--begin-at", f"{self.begin_at:g} is not one of {self.rates}")
        least = min_passing_queries(0, PERCENTILE)
        if (num := num_arrivals(rates[0], self.seconds_at(rates[0]))) < least:
            reason = f"{num} queries at {rates[0]:g}/s are fewer than {least}: LoadGen would call none VALID"
            raise FlagError("--queries" if self.queries else "--seconds", reason)
        if self.scenario not in (Scenario.SERVER, Scenario.INTERACTIVE):
            raise FlagError("--scenario", f"{self.scenario!r} is neither server nor interactive")

    @property
    def first_qps(self) -> float:
        """Return the rate to begin at; from above where a rate that is not VALID takes little time."""
        return self.begin_at or ascending("--rates", self.rates)[-1 if self.give_up else 0]

    def seconds_at(self, target_qps: float) -> float:
        """Return the time over which requests arrive at a rate."""
        return self.queries / target_qps if self.queries else self.seconds

    @property
    def num_rows(self) -> int:
        """Return the rows of the data set: one per request of the largest plan."""
        highest_qps = ascending("--rates", self.rates)[-1]
        return max(self.requests, self.queries or ceil(highest_qps * self.seconds))


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
    """Run the climb and print its figures."""
    rounds = Rounds(place, keep)
    try:
        rounds.visit(OURS, [offline(plan.requests)] * plan.warm_rounds, [])
        climb(rounds, place, plan)
        rounds.release()
    finally:
        place.clock.say("\n".join([*_climb_lines(rounds.found), *start_lines(rounds.found)]))
    return rounds.found


def _climb_lines(found: Found) -> list[str]:
    lines = []
    for name in dict.fromkeys(one.plan for one in found.rounds if not one.warm_up):
        part = found.part(name)
        lines += [f"\n{name}", table(part, [OURS]), *latency_lines(part, [OURS])]
    lines += [f"\n{one.plan}\n{one.reason}" for one in found.given_up]
    return [*lines, "", *compiled_lines(found), *([highest(found)] if "valid_qps" in found.more else [])]


def climb(rounds: Rounds, place: Place, plan: Climb) -> None:
    """Run the product at one rate after another; store the highest VALID rate and the lowest other one."""
    found = rounds.found
    rates = ascending("--rates", plan.rates)
    is_valid: dict[float, bool] = {}
    target_qps: float | None = plan.first_qps
    found.more |= {
        "valid_qps": None,
        "not_valid_qps": None,
        "valid_seconds": plan.seconds_at(plan.first_qps),
    }
    while target_qps is not None:
        arrivals = arriving_at(plan, target_qps)
        place.clock.say(f"{arrivals.name}: {len(arrivals.samples)} arrivals at {target_qps:g}/s")
        rounds.visit(OURS, [], [(arrivals, 0)])
        part = found.part(arrivals.name)
        tried = part.counted(OURS)
        if not tried and not part.given_up:
            return
        is_valid[target_qps] = bool(tried) and tried[0].verdict == VALID
        _note(found, plan, is_valid)
        rounds.keep()
        target_qps = next_rate(rates, is_valid, from_above=plan.give_up)


def arriving_at(plan: Climb, target_qps: float) -> Plan:
    """Plan arrivals at a rate; their order and times are LoadGen's in the run itself."""
    num = num_arrivals(target_qps, plan.seconds_at(target_qps))
    return offline(num)._replace(
        name=f"{plan.scenario}-{target_qps:g}",
        scenario=Scenario(plan.scenario),
        target_qps=target_qps,
        max_over_latency=allowed_over_latency(num, PERCENTILE) if plan.give_up else None,
    )


def _note(found: Found, plan: Climb, is_valid: Mapping[float, bool]) -> None:
    valid = max((rate for rate, passed in is_valid.items() if passed), default=None)
    others = [rate for rate, passed in is_valid.items() if not passed]
    found.more |= {"valid_qps": valid, "not_valid_qps": min(others, default=None)}
    found.more["valid_seconds"] = plan.seconds_at(min(others) if valid is None else valid)


def next_rate(rates: Sequence[float], is_valid: Mapping[float, bool], *, from_above: bool) -> float | None:
    """Return the rate to run next, or None if the highest VALID one is known.

    Args:
        rates: Ascending.
        is_valid: Whether LoadGen called a rate VALID, for each rate that was run.
        from_above: Take the highest rate that may still be VALID, otherwise the one above the highest VALID
            one. Without a VALID rate it is always the highest.
    """
    valid = max((rate for rate, passed in is_valid.items() if passed), default=0.0)
    other = min((rate for rate, passed in is_valid.items() if not passed), default=inf)
    between = [rate for rate in rates if valid < rate < other]
    if not between:
        return None
    return between[-1] if from_above or not valid else between[0]


def highest(found: Found) -> str:
    """Return a line with the highest VALID rate of a climb, and the first rate that is not VALID."""
    more = found.more
    valid = "none" if more["valid_qps"] is None else f"{more['valid_qps']:g}/s"
    above = more["not_valid_qps"]
    beyond = "no rate was found that is not VALID" if above is None else f"not VALID: {above:g}/s"
    return f"highest VALID rate: {valid}, {beyond}, arrivals for {more['valid_seconds']:g} s"
