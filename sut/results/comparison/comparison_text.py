"""Formats a comparison as text and as JSON."""

from collections import Counter
from collections.abc import Sequence
from textwrap import wrap

from sut.results.comparison.compared_runs import Side
from sut.results.comparison.comparison import ComparedSide, Comparison, FigureRow
from sut.results.comparison.configuration_differences import Difference

MAX_DIFFERENCES = 60
"""Differences of configuration that text and page show; the JSON file has all."""
_MAX_CELL_LEN = 48


def format_text(comparison: Comparison) -> str:
    """Return the table for a terminal."""
    first = comparison.sides[0].runs[0]
    lines = [f"== comparison, {first.text('scenario')} {first.text('mode')} =="]
    lines += [f"   {side.name}  {describe_side(side)}" for side in comparison.sides]
    lines += ["", *(f"   {claim.text}" for claim in comparison.claims)]
    lines += [f"   {line}" for note in comparison.notes for line in wrap(note, 100)]
    lines += ["", *_figure_lines(comparison)]
    lines += ["", *_difference_lines(comparison)]
    return "\n".join(lines)


def describe_side(side: Side) -> str:
    """Return directory, number of runs and outcomes of a side."""
    outcomes = Counter(run.text("verdict", "outcome") for run in side.runs)
    counts = ", ".join(f"{num} {outcome}" for outcome, num in sorted(outcomes.items()))
    num = len(side.runs)
    return f"{side.path}: {num} run{'' if num == 1 else 's'}, {counts}"


def describe_values(values: Sequence[float]) -> str:
    """Return mean and range of the runs of a side."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:,.5g}"
    return f"{mean:,.5g} ({min(values):,.5g} to {max(values):,.5g})"


def describe_ratio(compared: ComparedSide) -> str:
    """Return the ratio to the baseline with its interval."""
    if compared.ratio is None:
        return ""
    if compared.interval is None:
        return f"{compared.ratio:.4f}"
    interval = compared.interval
    return f"{interval.ratio:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def table_cells(comparison: Comparison) -> list[list[str]]:
    """Return the table of figures, heading first."""
    others = comparison.sides[1:]
    baseline = comparison.sides[0].name
    heading = [
        "figure",
        *(side.name for side in comparison.sides),
        *(f"{s.name} / {baseline}" for s in others),
    ]
    return [heading, *(_cells(row) for row in comparison.rows)]


def as_json(comparison: Comparison) -> dict[str, object]:
    """Return the comparison as a JSON document."""
    return {
        "format": 1,
        "sides": [_side_json(side) for side in comparison.sides],
        "claims": [claim._asdict() for claim in comparison.claims],
        "notes": list(comparison.notes),
        "figures": [_row_json(row) for row in comparison.rows],
        "differences": [
            {"name": one.name, "values": dict(zip(_names(comparison), one.values, strict=True))}
            for one in comparison.differences
        ],
    }


def _names(comparison: Comparison) -> list[str]:
    return [side.name for side in comparison.sides]


def _cells(row: FigureRow) -> list[str]:
    mark = "*" if row.is_tested else ""
    values = [describe_values(side.values) for side in row.sides]
    unit = "" if row.figure.unit in row.figure.name else f", {row.figure.unit}"
    return [f"{row.figure.name}{mark}{unit}", *values, *map(describe_ratio, row.sides[1:])]


def _figure_lines(comparison: Comparison) -> list[str]:
    cells = table_cells(comparison)
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    table = [
        "   " + "  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    ]
    return [*table, "   * tested: a sentence above says whether the difference is more than noise"]


def _difference_lines(comparison: Comparison) -> list[str]:
    differences = comparison.differences
    if not differences:
        return ["   no difference of configuration in run.json"]
    lines = [_difference_line(comparison, one) for one in differences[:MAX_DIFFERENCES]]
    return [f"   {describe_total(differences)}:", *lines]


def describe_total(differences: Sequence[Difference]) -> str:
    """Return the number of differences, and how many of them are shown."""
    shown = (
        f", the first {MAX_DIFFERENCES} of them (all: --json)" if len(differences) > MAX_DIFFERENCES else ""
    )
    noun = "difference" if len(differences) == 1 else "differences"
    return f"{len(differences)} {noun} of configuration{shown}"


def _difference_line(comparison: Comparison, difference: Difference) -> str:
    values = [
        f"{name} {value[:_MAX_CELL_LEN]}"
        for name, value in zip(_names(comparison), difference.values, strict=True)
    ]
    return f"   {difference.name}: {'; '.join(values)}"


def _side_json(side: Side) -> dict[str, object]:
    return {
        "name": side.name,
        "path": str(side.path),
        "runs": [
            {
                "directory": str(run.directory),
                "run_id": run.text("run_id"),
                "started_utc": run.text("started_utc"),
                "outcome": run.text("verdict", "outcome"),
            }
            for run in side.runs
        ],
    }


def _row_json(row: FigureRow) -> dict[str, object]:
    return {
        "name": row.figure.name,
        "unit": row.figure.unit,
        "tested": row.is_tested,
        "sides": [
            {
                "side": one.side,
                "values": list(one.values),
                "ratio": one.ratio,
                "interval": one.interval._asdict() if one.interval else None,
            }
            for one in row.sides
        ],
    }
