"""Rounds in which every side does the same work, each round in another order."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.command import say
from bench.processes import Processes
from bench.rounds import Fleet, Round, Side
from bench.workload import Work, Workload
from sut.settings import Scenario

Figures = TypeVar("Figures")
Take = Callable[[int, Side, Round], None]
"""Takes the round's number, the side and what its run left."""


def interleave(sides: tuple[Side, ...], load: Work, scenario: Scenario, num_rounds: int, take: Take) -> int:
    """Run every side in every round; nothing that was started outlives the call.

    Returns:
        The tokens of a round.

    Raises:
        RuntimeError: A side failed or gave another answer than was asked for.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Processes() as processes:
        directory = Path(name)
        workload = Workload(load, directory)
        arrivals = "at once" if scenario is Scenario.OFFLINE else f"at {load.target_qps:.1f}/s"
        say(
            f"load          {scenario}, {load.num_requests} requests {arrivals}, "
            f"{workload.num_tokens} tokens, {load.workers} workers, steps of {load.step_ms:g} ms; "
            f"{num_rounds} rounds"
        )
        fleets = [Fleet(side, processes, workload, scenario, directory) for side in sides]
        for fleet in fleets:
            fleet.wait()
        for number in range(num_rounds):
            for index in order_of(number, len(sides)):
                take(number, sides[index], fleets[index].run_round(number))
        return workload.num_tokens


def collect(
    sides: tuple[Side, ...],
    load: Work,
    scenario: Scenario,
    num_rounds: int,
    figures_of: Callable[[Round], Figures],
    row: Callable[[str, list[Figures]], str],
) -> tuple[dict[str, list[Figures]], int]:
    """Interleave, and keep each round's figures; a line says each as it comes.

    Returns:
        Each side's figures, and the tokens of a round.

    Raises:
        RuntimeError: A side failed or gave another answer than was asked for.
    """
    rounds: dict[str, list[Figures]] = {side.name: [] for side in sides}

    def take(number: int, side: Side, run: Round) -> None:
        figures = figures_of(run)
        rounds[side.name].append(figures)
        say(f"round {number + 1}     {row(side.name, [figures])}")

    return rounds, interleave(sides, load, scenario, num_rounds, take)


def order_of(number: int, num_sides: int) -> list[int]:
    """Give the order of a round: none always comes first, or after the same one."""
    turn = number % num_sides
    order = [*range(turn, num_sides), *range(turn)]
    return order[::-1] if number % 2 else order
