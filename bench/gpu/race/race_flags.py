"""The flags of bench.gpu race."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from bench.command import check_above, check_at_least
from bench.flag_help import FlagFormatter, add_fields
from bench.gpu.race.journal import Finals
from bench.gpu.race.steady_load import RaceLengths
from common.flags import FlagError, Parser

RACE_FILE = Path(__file__).parent / "h200.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class RacePlan(RaceLengths):
    """Flags that make figures comparable; a journal holds runs of one plan."""

    window_s: float = 30.0
    """Length of a configuration's first window in s, above 0."""
    other_window_s: float = 12.0
    """Length of its other windows in s, above 0."""
    settle_s: float = 4.0
    """Time between a change of the number of requests and the window in s, 0 or more."""
    requests_per_prefix: int = 8
    """Requests that begin with the same tokens at the start; 1: each prompt is prefilled."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        # No super(): slots=True creates a new class, so that super() without arguments fails.
        RaceLengths.__post_init__(self)
        check_above(self, "window_s", "other_window_s")
        check_at_least(self, settle_s=0, requests_per_prefix=1)

    @property
    def lengths(self) -> RaceLengths:
        """Return the lengths alone."""
        names = [field.name for field in dataclasses.fields(RaceLengths)]
        return RaceLengths(**{name: getattr(self, name) for name in names})


def _absolute_path(text: str) -> Path:
    """Return an absolute path: engines run in another directory."""
    return Path(text).absolute()


def parse(argv: list[str]) -> tuple[argparse.Namespace, RacePlan, Finals]:
    """Parse the command line.

    Raises:
        FlagError: Names flag, value and bound.
    """
    asked = _build_parser().parse_args(argv)
    check_at_least(asked, finalists=0, final_runs=0, profile_steps=1, profile_max_steps=1)
    if asked.profile and asked.only:
        raise FlagError("--profile", "records one configuration: leave --only out")
    check_above(asked, "deadline_s", "load_timeout_s", "start_timeout_s")
    if asked.gpu is not None and asked.gpu < 0:
        raise FlagError("--gpu", f"{asked.gpu} is below 0")
    plan = RacePlan(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(RacePlan)})
    return asked, plan, Finals(num_finalists=asked.finalists, num_runs=asked.final_runs)


def _build_parser() -> Parser:
    parser = Parser(
        formatter_class=FlagFormatter,
        prog="python -m bench.gpu race",
        allow_abbrev=False,
        description="Run the configurations of a race file one after another, and keep the journal.",
    )
    add_fields(parser, RacePlan)
    parser.add_argument(
        "--journal",
        type=_absolute_path,
        required=True,
        metavar="DIR",
        help="directory of the runs; a race in it is continued",
    )
    parser.add_argument("--configs", type=Path, default=RACE_FILE, metavar="FILE", help="the race file")
    parser.add_argument("--only", default="", metavar="NAMES", help="configurations to run, with commas")
    parser.add_argument(
        "--profile", default="", metavar="NAME", help="record steps of this configuration; not with --only"
    )
    parser.add_argument("--profile-steps", type=int, default=8, help="steps of each kind, 1 or more")
    parser.add_argument("--profile-max-steps", type=int, default=160, help="steps in all, 1 or more")
    parser.add_argument("--finalists", type=int, default=2, help="configurations to repeat, 0 or more")
    parser.add_argument("--final-runs", type=int, default=2, help="further runs of each, 0 or more")
    parser.add_argument("--gpu", type=int, help="index of the GPU (default the CPU)")
    parser.add_argument(
        "--model",
        type=_absolute_path,
        metavar="DIR",
        help="checkpoint (default gpt-oss-120b with random weights)",
    )
    parser.add_argument(
        "--deadline-s", type=float, default=86_400.0, help="no run is to end after this time, in seconds"
    )
    parser.add_argument(
        "--load-timeout-s", type=float, default=300.0, help="longest load of an engine, in seconds, above 0"
    )
    parser.add_argument(
        "--start-timeout-s",
        type=float,
        default=240.0,
        help="longest start of the first requests, in seconds, above 0",
    )
    return parser
