"""The tables of a plan: type, default, bound and help of each key, declared once."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from common.flags import Flag, FlagError, Flags
from sut.results.submission.recorded_runs import Division, RunKind


class GradingTime(StrEnum):
    """When answers are graded; never while a run is on."""

    BETWEEN_RUNS = "between-runs"
    AT_THE_END = "at-the-end"


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSettings(Flags):
    """Table [campaign]."""

    output_dir: Annotated[Path, Flag("directory of all runs and of campaign.json", metavar="DIR")]
    max_attempts: Annotated[
        int, Flag("starts of one run, counted from the start of the campaign, before it stops", ge=1)
    ] = 3
    grading: Annotated[GradingTime, Flag("when answers are graded: between-runs finds a bad score early")] = (
        GradingTime.BETWEEN_RUNS
    )
    restart_timeout_s: Annotated[
        float, Flag("longest duration of a restart command, in seconds", gt=0, metavar="S")
    ] = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings(Flags):
    """Table [data]."""

    performance: Annotated[Path, Flag("data set of performance runs and of TEST09")]
    accuracy: Annotated[Path, Flag("data set of accuracy runs")]
    compliance: Annotated[Path, Flag("data set of TEST07")]
    tokenizer: Annotated[Path, Flag("directory with the model's tokenizer.json, to grade", metavar="DIR")]
    lcb_tests: Annotated[
        Path | None, Flag("tests of LiveCodeBench, to grade programs; needed if the accuracy set has any")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSettings(Flags):
    """Tables [offline], [server] and [interactive]."""

    target_qps: Annotated[
        float,
        Flag(
            "rate in queries/s; Offline: the rate that the workers reach, which decides the sample count",
            gt=0,
            metavar="QPS",
        ),
    ]
    user_conf: Annotated[Path | None, Flag("user.conf with further settings of this scenario")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings(Flags):
    """Table [nodes]: workers that this campaign does not start."""

    addresses: Annotated[
        tuple[str, ...], Flag("addresses of the workers or nodes", metavar="HOST:PORT[,HOST:PORT...]")
    ]
    restart_command: Annotated[
        tuple[str, ...],
        Flag(
            "program and arguments that restart the nodes for the group named in $TOKENFLEET_GROUP; without "
            "one the campaign asks on the terminal",
            metavar="WORD[,WORD...]",
        ),
    ] = ()

    def _check_together(self) -> None:
        if not self.addresses:
            raise FlagError("--addresses", "names no worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionSettings(Flags):
    """Table [submission]."""

    submitter: Annotated[str, Flag("organisation that submits", metavar="NAME")]
    system: Annotated[str, Flag("name of the system", metavar="NAME")]
    tree: Annotated[Path, Flag("directory of the submission; must not exist", metavar="DIR")]
    division: Annotated[Division, Flag("division of the submission")] = Division.CLOSED
    draft: Annotated[bool, Flag("lay out the tree although fields are missing")] = False
    calibration: Annotated[Path | None, Flag("text: what the quantization was calibrated with")] = None
    sysinfo: Annotated[Path | None, Flag("output of mlperf-sysinfo, fields of the system description")] = None
    commit: Annotated[
        str | None,
        Flag("commit of runs that do not know theirs", metavar="SHA", default_text="that of the runs"),
    ] = None
    source: Annotated[
        Path | None,
        Flag("Git work tree that has the commit", metavar="DIR", default_text="this program's"),
    ] = None
    official_checker: Annotated[
        Path | None, Flag("clone of mlcommons/inference whose submission checker is run", metavar="DIR")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalSettings(Flags):
    """Table [rehearsal]: permits what could not be submitted, and shorter runs.

    Answers are graded and a tree is laid out if the plan has the table [submission], too.
    """

    max_samples: Annotated[
        int | None, Flag("rows of the data sets of performance and accuracy runs", ge=1, default_text="all")
    ] = None
    max_new_tokens: Annotated[
        int | None, Flag("longest answer in tokens", ge=1, default_text="the official budget")
    ] = None
    min_duration_s: Annotated[
        float | None,
        Flag("shortest duration of a performance run, in seconds", gt=0, metavar="S", default_text="600"),
    ] = None
    runs: Annotated[tuple[str, ...], Flag("runs of each scenario")] = tuple(RunKind)

    def _check_together(self) -> None:
        for name in self.runs:
            if name not in tuple(RunKind):
                raise FlagError("--runs", f"{name!r} is not one of {', '.join(RunKind)}")

    @property
    def has_official_runs(self) -> bool:
        """Whether the answers can be graded and laid out."""
        return self.max_samples is None and set(self.runs) == set(RunKind)
