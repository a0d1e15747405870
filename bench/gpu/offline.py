"""bench.gpu offline and server: the same requests through every side, interleaved."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.command import check_above, check_at_least
from bench.gpu.figures import (
    compiled_lines,
    differences,
    ratio_lines,
    read_config,
    read_start,
    start_lines,
    table,
)
from bench.gpu.found import Found
from bench.gpu.gpu_rounds import Place, Rounds
from bench.gpu.load import Lengths, Plan, last_value, offline
from bench.gpu.loadgen import draw_arrivals, draw_offline
from common.flags import FlagError

OFFLINE_SIDES = ("bare", "ours", "async", "serve")
SERVER_SIDES = ("async", "ours", "serve")
GROUPED_SIDES = ("grouped",)
# SGLang needs an environment of its own: its sides are not measured beside vLLM's in one command.
SGLANG_OFFLINE_SIDES = ("sglang-bare", "sglang")
SGLANG_SERVER_SIDES = ("sglang-async", "sglang")
WARMED_UP = ("ours", "grouped", "sglang")
"""Sides that warm up before they accept requests."""
_ENGINE_LOG = re.compile(r"\d+-([a-z-]+)\.log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline(Lengths):
    """Flags of the Offline part: all requests at once."""

    sides: str = ",".join(OFFLINE_SIDES)
    """Sides; the first is the reference of the ratios."""
    rounds: int = 2
    """Rounds of each side in each of its turns, 1 or more."""
    turns: int = 2
    """2: the sides are loaded in the order A B B A, so that a drift favors none. 1: A B."""
    warm_rounds: int = 1
    """Warm-up rounds after each load, 0 or more; excluded from all figures."""
    warm_requests: int = 0
    """Requests of a warm-up round, all at once; 0: all of --requests."""
    round_timeout_s: float = 600.0
    """Longest duration of a round in s, above 0."""
    sglang: str = ""
    """Flags of SGLang for its sides, in one word."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        Lengths.__post_init__(self)
        check_at_least(self, rounds=1, warm_rounds=0)
        check_above(self, "round_timeout_s")
        self._check_order()
        self._check_sides(OFFLINE_SIDES + GROUPED_SIDES + SGLANG_OFFLINE_SIDES)

    def _check_order(self) -> None:
        if self.turns not in (1, 2):
            raise FlagError("--turns", f"{self.turns} is neither 1 nor 2")
        if self.warm_requests and not 2 <= self.warm_requests <= self.requests:
            raise FlagError(
                "--warm-requests", f"{self.warm_requests} is neither 0 nor within 2 .. {self.requests}"
            )

    def _check_sides(self, known: tuple[str, ...]) -> None:
        for name in self.names:
            if name not in known:
                raise FlagError("--sides", f"{name!r} is not one of {', '.join(known)}")
            if self.names.count(name) > 1:
                raise FlagError("--sides", f"{name} is given {self.names.count(name)} times")

    @property
    def names(self) -> list[str]:
        """Return the names of the sides."""
        return self.sides.split(",")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server(Offline):
    """Flags of the Server part: requests at the times of LoadGen's schedule."""

    sides: str = ",".join(SERVER_SIDES)
    """Sides; the first is the reference of the comparison."""
    target_qps: float = 10.0
    """Rate of LoadGen's schedule in queries/s, above 0."""
    seconds: float = 60.0
    """Time over which requests arrive in s, above 0."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        # No super(): slots=True creates a new class, so that super() without arguments fails.
        Lengths.__post_init__(self)
        check_at_least(self, rounds=1, warm_rounds=0)
        check_above(self, "round_timeout_s", "target_qps", "seconds")
        self._check_order()
        self._check_sides(SERVER_SIDES + GROUPED_SIDES + SGLANG_SERVER_SIDES)

    @property
    def num_rows(self) -> int:
        """Return the requests of a round: LoadGen issues every row equally often, here once."""
        return max(round(self.target_qps * self.seconds), 2)


Keep = Any
"""Called with all figures so far."""
Compare = Callable[[Found, list[str]], list[str]]
"""Formats the comparison of the sides."""


def show_offline(plan: Offline, place: Place, keep: Keep) -> Found:
    """Run the rounds and print their figures.

    Raises:
        RuntimeError: LoadGen's dry run failed.
    """
    setting = place.setting
    requests = draw_offline(setting.processes, plan.requests, setting.directory)
    return _run(plan, place, requests, keep, ratio_lines)


def show_server(plan: Server, place: Place, keep: Keep) -> Found:
    """Run the rounds and print their figures.

    Raises:
        RuntimeError: LoadGen's dry run failed.
    """
    setting = place.setting
    requests = draw_arrivals(setting.processes, plan.num_rows, plan.target_qps, setting.directory)
    place.clock.say(f"{plan.num_rows} arrivals within {requests.due_ns[-1] / 1e9:.1f} s")
    return _run(plan, place, requests, keep, latency_lines)


def _run(plan: Offline, place: Place, requests: Plan, keep: Keep, compare: Compare) -> Found:
    """Measure the sides and print their figures, also if the command is interrupted."""
    for line in notes(plan, place):
        place.clock.say(line)
    rounds = Rounds(place, keep)
    try:
        _visit_all(plan, rounds, requests)
    finally:
        _print(plan.names, place, rounds.found, compare(rounds.found, plan.names))
    return rounds.found


def notes(plan: Offline, place: Place) -> Iterator[str]:
    """Say which figures a newcomer would misread."""
    cold = [name for name in plan.names if name not in WARMED_UP]
    if cold and not plan.warm_rounds:
        yield (
            f"no warm-up round: {', '.join(cold)} may compile in the first round of each load; "
            "the worker of the product warms up while it is loaded"
        )
    if "--enable-prefix-caching" in place.setting.flags:
        yield "prefix caching: rounds have equal prompts, so all after the first of a load find them cached"
    num_slots = last_value(place.setting.flags, "--max-num-seqs")
    is_at_once = not isinstance(plan, Server) and num_slots.isdecimal()
    if is_at_once and plan.requests <= int(num_slots):
        yield f"all {plan.requests} requests run at once: tokens/s before the tail is the rate of the prefill"


def _visit_all(plan: Offline, rounds: Rounds, requests: Plan) -> None:
    """Measure the sides in the order A B B A, or A B with one turn."""
    num_warm = min(plan.warm_requests or plan.requests, plan.num_rows)
    warm_ups = [offline(num_warm)] * plan.warm_rounds
    for turn in range(plan.turns):
        numbers = range(turn * plan.rounds, (turn + 1) * plan.rounds)
        for name in plan.names[::-1] if turn else plan.names:
            rounds.visit(name, warm_ups, [(requests, number) for number in numbers])
    rounds.release()


def _print(names: list[str], place: Place, found: Found, more: list[str]) -> None:
    lines = [table(found, names), "", *more, *compiled_lines(found), "", *start_lines(found)]
    place.clock.say("\n".join([*lines, *differences_of(place)]))


def differences_of(place: Place) -> list[str]:
    """List the differences between the sides' configurations."""
    return [f"configurations differ in {line}" for line in differences(first_configs(place))]


def first_configs(place: Place) -> dict[str, dict[str, str]]:
    """Read the configuration from the log of each side's first engine, if it was logged."""
    configs: dict[str, dict[str, str]] = {}
    for log in _engine_logs(place):
        if config := read_config(log):
            configs.setdefault(log.stem.partition("-")[2], config)
    return configs


def engines_say(place: Place) -> dict[str, Any]:
    """Read configuration and start-up lines from the logs of all loads, for the record."""
    return {log.stem: {"config": read_config(log), "start": read_start(log)} for log in _engine_logs(place)}


def _engine_logs(place: Place) -> list[Path]:
    """List the engine logs of all loads, in order; logs of coordinators and clients have longer names."""
    logs = [log for log in place.setting.directory.glob("*.log") if _ENGINE_LOG.fullmatch(log.name)]
    return sorted(logs, key=lambda log: int(log.name.partition("-")[0]))


def latency_lines(found: Found, names: list[str]) -> list[str]:
    """Format each side's percentiles, and their differences from the first side's within a round."""
    marks = ("p50", "p90", "p99")
    heads = [f"{what} {mark}" for what in ("TTFT", "TPOT") for mark in marks]
    lines = [f"{'round':>5} {'side':<13}" + "".join(f"{head:>10}" for head in heads) + "  ms"]
    for one in found.rounds:
        if not one.warm_up:
            cells = [*one.ttft_ms.values(), *one.tpot_ms.values()]
            numbers = "".join(f"{cell:>10.2f}" for cell in cells)
            left_out = "  unequal work: left out" if one.is_unequal else ""
            lines.append(f"{one.number:>5} {one.side:<13}{numbers}  {one.verdict}{left_out}")
    lines += [_against(found, side, names[0], mark) for side in names[1:] for mark in marks]
    return lines + [line for side in names[1:] for line in _request_lines(found, side, names[0])]


def _request_lines(found: Found, side: str, reference: str) -> Iterator[str]:
    """Compare the TTFT of each request with that of the same request on the other side."""
    beside = {one.number: one.request_ttft_ms for one in found.counted(reference)}
    for one in found.counted(side):
        ours, others = one.request_ttft_ms, beside.get(one.number, [])
        if ours and len(ours) == len(others):
            more_ms = [mine - other for mine, other in zip(ours, others, strict=True)]
            yield (
                f"{side} against {reference}, round {one.number}, TTFT of each of {len(more_ms)} requests: "
                f"median {median(more_ms):+.2f} ms, mean {fmean(more_ms):+.2f} ms"
            )


def _against(found: Found, side: str, reference: str, mark: str) -> str:
    beside = {one.number: one for one in found.counted(reference)}
    pairs = [(one, beside[one.number]) for one in found.counted(side) if one.number in beside]
    if not pairs:
        return f"{side} against {reference}, {mark}: no round with both"
    extra_ms = [one.ttft_ms[mark] - other.ttft_ms[mark] for one, other in pairs]
    tpot = [one.tpot_ms[mark] / other.tpot_ms[mark] for one, other in pairs]
    noise = "" if len(pairs) > 1 else "; one pair, its noise is not known"
    return (
        f"{side} against {reference}, {mark}: TTFT {median(extra_ms):+.2f} ms "
        f"({' '.join(f'{value:+.2f}' for value in extra_ms)}), TPOT x {median(tpot):.4f} "
        f"({' '.join(f'{value:.4f}' for value in tpot)}){noise}"
    )
