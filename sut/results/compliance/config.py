"""Flags of `tokenfleet compliance`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.flags import Flag, Flags, Parser, add_flags, build


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplianceConfig(Flags):
    """What scoring the answers of a run needs."""

    reference_data: Annotated[
        Path | None, Flag("parquet file of the run's data; TEST07 needs it to score the answers")
    ] = None
    tokenizer: Annotated[
        Path | None, Flag("directory with the model's tokenizer.json; TEST07 needs it", metavar="DIR")
    ] = None


def parse(argv: list[str]) -> tuple[Path, ComplianceConfig]:
    """Read the command line; returns the run's directory and the flags.

    Raises:
        ValueError: Names flag, value and bound.
    """
    parser = Parser(
        allow_abbrev=False, description="Decide TEST07 or TEST09 from the log of a run of tokenfleet."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of the run")
    add_flags(parser, ComplianceConfig)
    values = parser.parse_args(argv)
    return values.run_dir, build(ComplianceConfig, values)
