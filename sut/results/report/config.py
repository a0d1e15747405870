"""Flags of `tokenfleet report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.flags import Flag, Flags, Parser, add_flags, build


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig(Flags):
    """Where the report of a run goes."""

    output: Annotated[
        Path | None, Flag("file of the page", default_text="report.html in the run's directory")
    ] = None
    plots: Annotated[
        Path | None, Flag("directory for each plot as SVG and PNG", metavar="DIR", default_text="no plots")
    ] = None
    overwrite: Annotated[bool, Flag("replace files of an earlier report")] = False


def parse(argv: list[str]) -> tuple[Path, ReportConfig]:
    """Read the command line; returns the run's directory and the flags.

    Raises:
        ValueError: Names flag, value and bound.
    """
    parser = Parser(
        allow_abbrev=False, description="Write the report of a run of tokenfleet as one HTML file."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of the run")
    add_flags(parser, ReportConfig)
    values = parser.parse_args(argv)
    return values.run_dir, build(ReportConfig, values)
