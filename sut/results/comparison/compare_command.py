"""Implements `tokenfleet report compare`: two or more sides of repeated runs beside each other.

Exit codes: 0 compared, 2 bad input.
"""

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.atomic_files import whole_file
from common.command_exit import run_command
from common.flags import Flag, FlagError, Flags, Parser, add_flags, build
from common.named_refusals import naming_output
from common.text import print_table
from sut.results.comparison.compared_runs import SIDE_ARGUMENT, read_sides
from sut.results.comparison.comparison import Comparison, compare
from sut.results.comparison.comparison_page import format_page
from sut.results.comparison.comparison_text import as_json, format_text

MAX_SIDES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(Flags):
    """Where a comparison is written to, beside the table on stdout."""

    json: Annotated[Path | None, Flag("file for all values, JSON; must not exist", metavar="FILE")] = None
    html: Annotated[Path | None, Flag("file for the page; must not exist", metavar="FILE")] = None


def main(argv: list[str]) -> int:
    """Compare and return the exit code."""
    return run_command("report compare", _compare, argv)


def _compare(argv: list[str]) -> int:
    paths, config = parse(argv)
    comparison = compare(read_sides(paths))
    _write(comparison, config)
    print_table(format_text(comparison))
    return 0


def parse(argv: list[str]) -> tuple[list[Path], CompareConfig]:
    """Read the command line; returns the directories of the sides and the flags.

    Raises:
        ValueError: Names flag, value and bound.
    """
    parser = Parser(
        allow_abbrev=False,
        description="Compare repeated runs of one scenario; the first side is the baseline.",
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar=SIDE_ARGUMENT,
        help="directory of a run, or a directory with the repeats of one side; two or more",
    )
    add_flags(parser, CompareConfig)
    values = parser.parse_args(argv)
    if not 2 <= len(values.runs) <= MAX_SIDES:
        raise FlagError(SIDE_ARGUMENT, f"2 to {MAX_SIDES} are compared, not {len(values.runs)}")
    config = build(CompareConfig, values)
    for flag, path in (("--json", config.json), ("--html", config.html)):
        _check_new(flag, path)
    if config.json is not None and config.json == config.html:
        raise FlagError("--html", "is also the file of --json", config.html)
    return values.runs, config


def _check_new(flag: str, path: Path | None) -> None:
    if path is None:
        return
    if path.exists():
        raise FlagError(flag, "exists, and is not overwritten", path)
    if not path.parent.is_dir():
        raise FlagError(flag, f"{path.parent} is not a directory", path)


def _write(comparison: Comparison, config: CompareConfig) -> None:
    """Write the files, all of them whole or none.

    Raises:
        FlagError: A file cannot be written.
    """
    texts: list[tuple[str, Path, str]] = []
    if config.json is not None:
        texts.append(("--json", config.json, json.dumps(as_json(comparison), indent=1) + "\n"))
    if config.html is not None:
        texts.append(("--html", config.html, format_page(comparison)))
    # Each gets its name when all have been written.
    with contextlib.ExitStack() as files:
        for flag, path, text in texts:
            with naming_output(flag, path):
                files.enter_context(whole_file(path)).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m sut.results.comparison.compare_command"
    sys.exit(main(sys.argv[1:]))
