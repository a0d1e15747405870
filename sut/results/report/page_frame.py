"""What all pages have in common: head, policy and style, in both themes."""

import base64
import hashlib
from importlib import resources

from sut.results.report.chart_style import variables
from sut.results.report.markup import Html, element, joined

_PAPER = {"light": "--paper:#fff;--panel:#f6f7f9;", "dark": "--paper:#14171b;--panel:#1c2026;"}


def page_file(name: str) -> str:
    """Return a file of this folder that a page includes."""
    return resources.files("sut.results.report").joinpath(name).read_text(encoding="utf-8")


def compose_document(title: str, body: Html, script: str = "") -> str:
    """Return a page that loads nothing and runs no script but this one."""
    head = joined(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            element("title", f"tokenfleet report: {title}"),
            Html(f"<style>{_page_style()}</style>"),
        ]
    )
    root = '<!DOCTYPE html>\n<html lang="en" data-theme="auto">'
    return f"{root}\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n"


def _policy(script: str) -> str:
    allowed = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed = f"script-src 'sha256-{digest}'; "
    return f"default-src 'none'; style-src 'unsafe-inline'; {allowed}base-uri 'none'; form-action 'none'"


def _page_style() -> str:
    """Return the style sheet; the attribute data-theme of the root selects light, dark or auto."""
    light, dark = (f"{variables(theme)}{_PAPER[theme]}color-scheme:{theme}" for theme in ("light", "dark"))
    return (
        f"{page_file('page.css')}:root{{{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root[data-theme=auto]{{{dark}}}}}\n"
        f":root[data-theme=dark]{{{dark}}}\n"
    )
