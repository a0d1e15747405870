"""Composes a comparison as one HTML page that loads nothing, in the style of a run's report."""

from sut.results.comparison.comparison import Claim, Comparison
from sut.results.comparison.comparison_text import (
    MAX_DIFFERENCES,
    describe_side,
    describe_total,
    table_cells,
)
from sut.results.report.markup import Column, Html, element, joined, note, table
from sut.results.report.page_frame import compose_document


def format_page(comparison: Comparison) -> str:
    """Return the page."""
    first = comparison.sides[0].runs[0]
    title = f"Comparison: {first.text('scenario')} {first.text('mode')}"
    sections = [
        element("section", element("h1", title), _sides(comparison), _claims(comparison), id="claims"),
        element("section", element("h2", "Figures"), *_figures(comparison), id="figures"),
        element("section", element("h2", "Configuration"), *_differences(comparison), id="configuration"),
    ]
    return compose_document(title, element("main", *sections))


def _sides(comparison: Comparison) -> Html:
    rows = [[side.name, describe_side(side)] for side in comparison.sides]
    return table([Column("side", is_text=True), Column("runs", is_text=True)], rows)


def _claims(comparison: Comparison) -> Html:
    claims = [element("li", claim.text, class_=_kind(claim)) for claim in comparison.claims]
    return joined([element("ul", *claims, class_="reasons"), *map(note, comparison.notes)])


def _kind(claim: Claim) -> str | None:
    return "warn" if claim.is_more_than_noise else None


def _figures(comparison: Comparison) -> list[Html]:
    heading, *rows = table_cells(comparison)
    columns = [Column(title, is_text=not number) for number, title in enumerate(heading)]
    text = (
        "* tested: a sentence above says whether the difference is more than noise. "
        "Values are means over the runs of a side, with their range."
    )
    return [table(columns, rows), note(text)]


def _differences(comparison: Comparison) -> list[Html]:
    if not comparison.differences:
        return [note("No difference of configuration in run.json.")]
    columns = [Column("entry", is_text=True)]
    columns += [Column(side.name, is_text=True) for side in comparison.sides]
    rows = [[one.name, *one.values] for one in comparison.differences[:MAX_DIFFERENCES]]
    return [table(columns, rows), note(describe_total(comparison.differences))]
