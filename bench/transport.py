"""`python -m bench.transport`: what the way of the tokens costs, every side in the same run.

See bench/README.md for what is measured and how to read it.
"""

import argparse
import dataclasses
import statistics
from datetime import UTC, datetime
from functools import partial

from bench.command import describe_machine, parse_comparison, run_command, say, write_record
from bench.interleaved import collect
from bench.sides import OURS, SIDES, Figures
from bench.workload import Load, add_flags, load_of
from sut.settings import Scenario

DEFAULT_ROUNDS = 5
# One short round: whether everything works, and the order of magnitude.
QUICK: dict[str, object] = {"rounds": 1, "seconds": 2.0, "answer_tokens": 128}
COLUMNS = {
    "tokens_per_s": "tokens/s",
    "in_flight": "in flight",
    "tpot_ms": "TPOT ms",
    "coordinator_cpu_s_per_mtok": "coord s/Mtok",
    "workers_cpu_s_per_mtok": "workers s/Mtok",
    "added_p50_ms": "added p50 ms",
    "added_p99_ms": "added p99 ms",
}
RATIOS = ("coordinator_cpu_s_per_mtok", "workers_cpu_s_per_mtok", "added_p50_ms", "added_p99_ms")
LATENCIES = ("added_p50_ms", "added_p99_ms")
NOTES = """\
coord: CPU time of the coordinator process, LoadGen included, all threads, read from outside on every side
       alike, from LoadGen's power_begin to its power_end; no start-up is in it, so none is subtracted
added: from the engine's hand-over of a first or last token to the return of FirstTokenComplete or
       QuerySamplesComplete; every answer of every round was compared token by token
saturated: tokens took over 1.1 steps each: the side did not hold the rate, its latency would be a queue's"""
Rounds = dict[str, list[Figures]]


def main(argv: list[str]) -> int:
    """Measure, print, write; 0 done, 1 a side failed, 2 bad input."""
    try:
        args = _parse(argv)
        load = load_of(args, Load())
    except ValueError as error:
        say(f"bench.transport: {error}")
        return 2
    machine = describe_machine()
    try:
        figures_of = partial(Figures.of, step_ms=load.step_ms)
        rounds, num_tokens = collect(SIDES, load, Scenario.SERVER, args.rounds, figures_of, _row)
    except RuntimeError as error:
        say(f"bench.transport: {error}")
        return 1
    say(table(rounds))
    write_record(args.output, compose_record(machine, load, rounds, num_tokens))
    return 0


def table(rounds: Rounds) -> str:
    """Lay out medians and ratios for a person."""
    num_rounds = len(rounds[OURS])
    lines = ["", f"median of {num_rounds} rounds", _head(), *(_row(name, rounds[name]) for name in rounds)]
    lines += ["", f"median of the rounds' ratios to {OURS}", _head(RATIOS)]
    for name in rounds:
        ratios = ratios_to_ours(rounds, name)
        cells = (_cell(None if ratios[key] is None else f"{ratios[key]:.2f}") for key in RATIOS)
        lines.append(f"{name:<10}{''.join(cells)}")
    lines += ["", *(f"{side.name:<10}{side.what}" for side in SIDES), "", NOTES]
    return "\n".join(lines)


def ratios_to_ours(rounds: Rounds, name: str) -> dict[str, float | None]:
    """Compare a side with ours, round by round.

    Returns:
        Per figure the median of the rounds' ratios; None for a latency of a saturated side.
    """
    pairs = list(zip(rounds[name], rounds[OURS], strict=True))
    hidden = is_saturated(rounds[name]) or is_saturated(rounds[OURS])
    return {
        key: None
        if hidden and key in LATENCIES
        else statistics.median(getattr(theirs, key) / getattr(ours, key) for theirs, ours in pairs)
        for key in RATIOS
    }


def is_saturated(figures: list[Figures]) -> bool:
    """Say whether a side fell behind in half of its rounds or more."""
    return 2 * sum(f.saturated for f in figures) >= len(figures)


def compose_record(machine: dict[str, str], load: Load, rounds: Rounds, num_tokens: int) -> dict[str, object]:
    """Compose what --output gets: medians, ratios and every round's figures."""
    sides = {
        side.name: {
            "what": side.what,
            "saturated": is_saturated(rounds[side.name]),
            "median": {key: _median(rounds[side.name], key) for key in COLUMNS},
            f"median_ratio_to_{OURS}": ratios_to_ours(rounds, side.name),
            "rounds": [dataclasses.asdict(figures) for figures in rounds[side.name]],
        }
        for side in SIDES
    }
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "load": dataclasses.asdict(load),
        "requests": load.num_requests,
        "tokens": num_tokens,
        "sides": sides,
    }


def _median(figures: list[Figures], key: str) -> float:
    values: list[float] = [getattr(f, key) for f in figures]
    return statistics.median(values)


def _head(keys: tuple[str, ...] = tuple(COLUMNS)) -> str:
    return f"{'':<10}" + "".join(f"{COLUMNS[key]:>16}" for key in keys)


def _row(name: str, figures: list[Figures]) -> str:
    cells = []
    for key in COLUMNS:
        hidden = key in LATENCIES and is_saturated(figures)
        cells.append(_cell(None if hidden else f"{_median(figures, key):,.2f}"))
    return f"{name:<10}{''.join(cells)}"


def _cell(text: str | None) -> str:
    return f"{'saturated' if text is None else text:>16}"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.transport", allow_abbrev=False, description="Compare ways to bring tokens home."
    )
    add_flags(parser, Load())
    return parse_comparison(parser, argv, DEFAULT_ROUNDS, QUICK)


if __name__ == "__main__":
    run_command(main)
