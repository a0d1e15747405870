"""The flags of `tokenfleet find-qps`, beside those of `tokenfleet run`."""

from dataclasses import dataclass
from typing import Annotated

from common import config_file
from common.flags import Flag, FlagError, Flags, Parser, add_flags, build
from coordinator.config import RunConfig, build_parser
from coordinator.config import parse as parse_run
from sut.settings import Scenario

# Fields of a run whose flags a search refuses; _check_run has the reasons.
REFUSED_FLAGS = ("accuracy", "audit_config", "compliance", "max_over_latency", "overwrite", "target_qps")


@dataclass(frozen=True, slots=True, kw_only=True)
class FindQpsConfig(Flags):
    """What is searched, and with how many runs."""

    min_qps: Annotated[
        float | None,
        Flag(
            "lowest rate of the search, in queries/s, which is expected to be VALID; Server and Interactive "
            "need it; Offline: expected samples/s",
            gt=0,
            metavar="QPS",
        ),
    ] = None
    max_qps: Annotated[
        float | None,
        Flag(
            "highest rate of the search, in queries/s", gt=0, metavar="QPS", default_text="as high as it goes"
        ),
    ] = None
    max_runs: Annotated[int, Flag("largest number of runs, those of full length included", ge=1)] = 8
    short_duration_s: Annotated[
        float | None,
        Flag(
            "time for which a short run issues queries, in seconds",
            gt=0,
            metavar="S",
            default_text="a third of LoadGen's min_duration",
        ),
    ] = None
    sweep: Annotated[
        bool, Flag("measure a curve of rates from --min-qps to --max-qps instead, with short runs only")
    ] = False
    sweep_points: Annotated[int, Flag("number of rates of a sweep", ge=2, le=100)] = 8

    def _check_together(self) -> None:
        if self.min_qps is not None and self.max_qps is not None and self.max_qps <= self.min_qps:
            raise FlagError("--max-qps", f"{self.max_qps:g} is not above --min-qps {self.min_qps:g}")
        if self.sweep and (self.min_qps is None or self.max_qps is None):
            raise FlagError("--sweep", "needs --min-qps and --max-qps")


def parse(argv: list[str]) -> tuple[FindQpsConfig, RunConfig]:
    """Read the command line: flags of the search, and those of all its runs.

    Raises:
        ValueError: Names flag, value and bound.
    """
    config_file.refuse_printing(argv, "`tokenfleet run`")
    if {"-h", "--help"} & set(argv):
        _help_parser().parse_args(["--help"])
    parser = Parser(allow_abbrev=False, add_help=False)
    add_flags(parser, FindQpsConfig)
    values, rest = parser.parse_known_args(argv)
    config, run = build(FindQpsConfig, values), parse_run(rest)
    _check_run(config, run)
    return config, run


def _help_parser() -> Parser:
    """Build the parser whose --help lists the flags of a run that a search accepts, then its own ones."""
    description = "Find the highest target_qps that LoadGen calls VALID; takes flags of a run, too."
    parser = build_parser(description=description, hidden=REFUSED_FLAGS, prints=False)
    add_flags(parser.add_argument_group("flags of the search"), FindQpsConfig)
    return parser


def _check_run(config: FindQpsConfig, run: RunConfig) -> None:
    """Refuse flags of a run that a search sets itself, or that exclude a search."""
    own = {
        "--accuracy": run.accuracy,
        "--compliance": run.compliance is not None,
        "--audit-config": run.audit_config is not None,
    }
    for flag in (flag for flag, is_given in own.items() if is_given):
        raise FlagError(flag, "the rate is searched with performance runs")
    if run.target_qps is not None:
        raise FlagError(
            "--target-qps", f"{run.target_qps:g}: the search sets it; see --min-qps and --max-qps"
        )
    if run.max_over_latency is not None:
        raise FlagError("--max-over-latency", f"{run.max_over_latency}: the search sets it")
    if run.overwrite:
        raise FlagError("--overwrite", "a search continues; remove its directory, or give another one")
    _check_scenario(config, run.scenario)


def _check_scenario(config: FindQpsConfig, scenario: Scenario) -> None:
    if scenario is Scenario.OFFLINE:
        if config.sweep:
            raise FlagError("--sweep", "Offline has no rate of queries")
        if config.max_qps is not None:
            raise FlagError("--max-qps", "Offline issues all samples at once; --min-qps is the expected rate")
    elif config.min_qps is None:
        raise FlagError("--min-qps", f"missing: {scenario} needs a rate to begin with")
