"""The flags of `tokenfleet submission`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.flags import FlagError, Parser, one_of
from common.source_commit import ROOT
from common.text import printable
from sut.results.submission.official_checker import CHECKER_FLAG
from sut.results.submission.recorded_runs import RESULTS_FLAG, Division
from sut.results.submission.scenario_documents import MEASUREMENT_FIELDS
from sut.results.submission.source_snapshot import COMMIT_FLAG, SOURCE_FLAG
from sut.results.submission.system_description import (
    OTHER_FIELDS,
    SYSINFO_FLAG,
    required_fields,
)
from sut.results.submission.tree import ORIGINALS_FLAG, OUTPUT_FLAG

SET_FLAG = "--set"
CALIBRATION_FLAG = "--calibration"
_DESCRIPTION = "Check the runs of a submission and lay out the tree that MLCommons' checker reads."
_MAX_VALUE_LEN = 4000
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_OWN_FIELDS = ("division", "submitter")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionFlags:
    """The command line."""

    results: tuple[Path, ...]
    output: Path
    originals: Path
    division: Division
    submitter: str
    system: str
    given: dict[str, str]
    sysinfo: Path | None
    calibration: Path | None
    source: Path
    commit: str | None
    official_checker: Path | None
    draft: bool
    rehearsal: bool


def parse(argv: Sequence[str]) -> SubmissionFlags:
    """Read the command line.

    Raises:
        ValueError: Names flag, value and bound.
    """
    values = _parser().parse_args(argv)
    for flag, name in (("--submitter", values.submitter), ("--system", values.system)):
        if not _FOLDER_NAME.fullmatch(name):
            raise FlagError(flag, f"{printable(name, 100)!r} is no folder name of letters, digits and ._+-")
    given = _read_given(values.set, values.division)
    given |= {"division": str(values.division), "submitter": values.submitter}
    output: Path = values.output
    return SubmissionFlags(
        results=tuple(values.results),
        output=output,
        originals=values.originals or output.with_name(f"{output.name}-originals"),
        division=values.division,
        submitter=values.submitter,
        system=values.system,
        given={"system_name": values.system} | given,
        sysinfo=values.sysinfo,
        calibration=values.calibration,
        source=values.source,
        commit=values.commit,
        official_checker=values.official_checker,
        draft=values.draft,
        rehearsal=values.rehearsal,
    )


_SET_HELP = "a field of systems/*.json or measurements.json; may be repeated"
_SOURCE_HELP = "Git work tree with the commit that ran (default this checkout)"
_CALIBRATION_HELP = "text about the calibration of the quantization; required without --draft"
_REHEARSAL_HELP = "accept engines, counts and durations that no submission may have"


def _parser() -> Parser:
    parser = Parser(prog="tokenfleet submission", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add(
        RESULTS_FLAG,
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="output directories of runs (required)",
    )
    add(
        OUTPUT_FLAG,
        type=Path,
        required=True,
        metavar="TREE",
        help="directory to write; must not exist (required)",
    )
    add(ORIGINALS_FLAG, type=Path, metavar="DIR", help="whole accuracy logs (default TREE-originals)")
    names, default = "|".join(Division), Division.CLOSED
    add(
        "--division",
        type=one_of(Division),
        default=default,
        metavar=names,
        help=f"rules of the submission (default {default})",
    )
    add("--submitter", required=True, metavar="ORG", help="name of the organization's folder (required)")
    add(
        "--system", required=True, metavar="NAME", help="name of the system's folder and JSON file (required)"
    )
    add(SET_FLAG, action="append", default=[], metavar="KEY=VALUE", help=_SET_HELP)
    add(SYSINFO_FLAG, type=Path, metavar="FILE", help="output of mlperf-sysinfo's profile inference")
    add(CALIBRATION_FLAG, type=Path, metavar="FILE", help=_CALIBRATION_HELP)
    add(SOURCE_FLAG, type=Path, default=ROOT, metavar="DIR", help=_SOURCE_HELP)
    add(COMMIT_FLAG, metavar="SHA", help="commit of runs that name none, such as those of a container")
    add(CHECKER_FLAG, type=Path, metavar="DIR", help="clone of mlcommons/inference, whose checker is run")
    add("--draft", action="store_true", help="leave fields empty that nobody has given")
    add("--rehearsal", action="store_true", help=_REHEARSAL_HELP)
    return parser


def _read_given(texts: Sequence[str], division: Division) -> dict[str, str]:
    """Read --set; a field may be set once.

    Raises:
        FlagError: No key=value, an unknown field, or one with a flag of its own.
    """
    known = {*required_fields(division), *OTHER_FIELDS, *MEASUREMENT_FIELDS}
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        shown = printable(name, 100)
        if not separator or not value.strip():
            raise FlagError(SET_FLAG, f"{shown!r} is not KEY=VALUE")
        if name in _OWN_FIELDS:
            raise FlagError(SET_FLAG, f"{shown!r} has the flag --{name}")
        if name not in known:
            raise FlagError(
                SET_FLAG, f"{shown!r} is no field of systems/*.json or measurements.json in {division}"
            )
        if name in found:
            raise FlagError(SET_FLAG, f"{shown!r} is given twice")
        if len(value) > _MAX_VALUE_LEN:
            raise FlagError(SET_FLAG, f"the value of {shown!r} is longer than {_MAX_VALUE_LEN} characters")
        found[name] = value.strip()
    return found
