"""Compares the figures of the sides and states which differences are more than noise."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from sut.results.comparison.comparability import comparability_notes
from sut.results.comparison.compared_figures import ComparedFigure, error_rates, shown_figures
from sut.results.comparison.compared_runs import ComparedRun, Side
from sut.results.comparison.configuration_differences import Difference, find_differences
from sut.results.comparison.ratio_interval import RatioInterval, RepeatedFigure, ratio_interval

ERROR_RATE = 0.05
"""Largest probability with which a comparison claims any difference that does not exist."""


class ComparedSide(NamedTuple):
    """One side's values of a figure, and its ratio to the baseline."""

    side: str
    values: tuple[float, ...]
    ratio: float | None
    """Ratio to the baseline, of the estimate or of the medians; None for the baseline."""
    interval: RatioInterval | None
    """None for the baseline, and if a side has one run."""


class FigureRow(NamedTuple):
    """One figure of all sides."""

    figure: ComparedFigure
    is_tested: bool
    """Whether a difference may be claimed."""
    sides: tuple[ComparedSide, ...]


class Claim(NamedTuple):
    """One sentence about one side and one tested figure."""

    side: str
    figure: str
    is_more_than_noise: bool | None
    """None: nothing can be said."""
    text: str


class Comparison(NamedTuple):
    """The result."""

    sides: tuple[Side, ...]
    rows: tuple[FigureRow, ...]
    claims: tuple[Claim, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    """What a reader must know about the claims."""


def compare(sides: Sequence[Side]) -> Comparison:
    """Compare each further side with the first one.

    Args:
        sides: At least two, of one scenario and mode.
    """
    rates = error_rates(sides[0].runs[0].text("scenario"), ERROR_RATE / (len(sides) - 1))
    rows = [
        row for figure in shown_figures() if (row := _row(figure, sides, rates.get(figure.name))) is not None
    ]
    by_name = {row.figure.name: row for row in rows}
    ordered = [by_name[name] for name in rates if name in by_name]
    return Comparison(
        sides=tuple(sides),
        rows=tuple(rows),
        claims=tuple(_claim(row, side) for row in ordered for side in row.sides[1:]),
        differences=tuple(find_differences(sides)),
        notes=(*comparability_notes(sides), *_claim_notes(sides, ordered)),
    )


def _row(figure: ComparedFigure, sides: Sequence[Side], error_rate: float | None) -> FigureRow | None:
    """Return a row; None if a run does not have the figure."""
    values = [[figure.read(run) for run in side.runs] for side in sides]
    known = [tuple(value for value in found if value is not None) for found in values]
    if any(len(found) < len(side.runs) for found, side in zip(known, sides, strict=True)):
        return None
    compared = [ComparedSide(sides[0].name, known[0], None, None)]
    baseline = RepeatedFigure(known[0], _starts(sides[0].runs))
    for side, found in zip(sides[1:], known[1:], strict=True):
        interval = ratio_interval(
            baseline,
            RepeatedFigure(found, _starts(side.runs)),
            ERROR_RATE if error_rate is None else error_rate,
        )
        ratio = interval.ratio if interval else median(found) / median(known[0])
        compared.append(ComparedSide(side.name, found, ratio, interval))
    return FigureRow(figure, error_rate is not None, tuple(compared))


def _starts(runs: Sequence[ComparedRun]) -> list[float] | None:
    starts = [run.start_s for run in runs]
    known = [start for start in starts if start is not None]
    return known if len(known) == len(starts) else None


def _claim(row: FigureRow, compared: ComparedSide) -> Claim:
    name, baseline = row.figure.name, row.sides[0].side
    interval = compared.interval
    if interval is None:
        text = f"{name}: no claim about {compared.side} against {baseline}: a side has one run"
        return Claim(compared.side, name, None, text)
    word = row.figure.larger if interval.ratio >= 1 else row.figure.smaller
    changes = [100 * (ratio - 1) for ratio in (interval.ratio, interval.low, interval.high)]
    if interval.ratio < 1:
        changes = [-changes[0], -changes[2], -changes[1]]
    # Adding 0 turns -0.0 into 0.0.
    size = "{:.1f} % ({:.1f} to {:.1f})".format(*(round(change, 1) + 0.0 for change in changes))
    what = "more than noise" if interval.excludes_one else "not more than noise"
    text = f"{compared.side} is {size} {word} than {baseline} in {name}: {what}"
    return Claim(compared.side, name, interval.excludes_one, text)


def _claim_notes(sides: Sequence[Side], tested: Sequence[FigureRow]) -> list[str]:
    """Explain the claims: the confidence, and what they cannot exclude."""
    if not tested:
        return ["no figure that is tested in this scenario is in the runs of all sides"]
    if any(len(side.runs) < 2 for side in sides):
        return [
            "With one run a side the noise between runs is unknown: a difference of any size may be noise. "
            "Repeat both sides in turns, five runs a side or more."
        ]
    notes = [
        f"The intervals of the sentences above hold together with {1 - ERROR_RATE:.0%} confidence. Any other "
        "interval holds by itself: about one in twenty of those excludes 1 without a difference."
    ]
    intervals = [side.interval for row in tested for side in row.sides[1:] if side.interval]
    if not all(interval.removes_drift for interval in intervals):
        notes.append(
            "The runs of the sides do not alternate in time, or a side has fewer than three: a drift of the "
            "machine between them counts as a difference."
        )
    return notes
