"""Writes a comparison as one HTML page that needs no network."""

import html
from collections.abc import Iterable, Sequence

from sut.results.comparison.comparison import Claim, Comparison
from sut.results.comparison.comparison_text import describe_side, table_cells

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --warn: #b45309; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
.noise { opacity: .75; } .more { font-weight: 600; color: var(--warn); }
"""


def format_page(comparison: Comparison) -> str:
    """Return the page."""
    first = comparison.sides[0].runs[0]
    title = f"Comparison, {first.text('scenario')} {first.text('mode')}"
    sides = [[side.name, describe_side(side)] for side in comparison.sides]
    names = [side.name for side in comparison.sides]
    differences = [["entry", *names], *([one.name, *one.values] for one in comparison.differences)]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _table([["side", "runs"], *sides]),
        "<h2>Differences</h2>",
        _list(_claim(claim) for claim in comparison.claims),
        _list(html.escape(note) for note in comparison.notes),
        "<h2>Figures</h2>",
        _table(table_cells(comparison)),
        "<p>* tested: a sentence above says whether the difference is more than noise. "
        "Values are means over the runs, with their range.</p>",
        "<h2>Configuration</h2>",
        _table(differences) if comparison.differences else "<p>No difference in run.json.</p>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _claim(claim: Claim) -> str:
    kind = "more" if claim.is_more_than_noise else "noise"
    return f'<span class="{kind}">{html.escape(claim.text)}</span>'


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _table(cells: Sequence[Sequence[str]]) -> str:
    heading, *rows = cells
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
