"""The styles of all pages, in both themes."""

from importlib import resources

from sut.results.report.chart_style import variables

_PAPER = {"light": "--paper:#fff;--panel:#f6f7f9;", "dark": "--paper:#14171b;--panel:#1c2026;"}


def page_file(name: str) -> str:
    """Return a file of this folder that a page includes."""
    return resources.files("sut.results.report").joinpath(name).read_text(encoding="utf-8")


def page_style() -> str:
    """Return the style sheet; the attribute data-theme of the root selects light, dark or auto."""
    light, dark = (f"{variables(theme)}{_PAPER[theme]}color-scheme:{theme}" for theme in ("light", "dark"))
    return (
        f"{page_file('page.css')}:root{{{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root[data-theme=auto]{{{dark}}}}}\n"
        f":root[data-theme=dark]{{{dark}}}\n"
    )
