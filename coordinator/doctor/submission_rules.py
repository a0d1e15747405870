"""Checks of the benchmark: LoadGen's round, figures on which sources differ, known deviations."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

from coordinator.config import RunConfig
from coordinator.doctor.findings import DEVIATION, Check, Finding, Level, Row
from coordinator.doctor.visits import Visit
from coordinator.pre_run_checks import DataFacts, compose_setup, too_short
from sut.benchmark import find_round, unknown_round
from sut.loadgen import LoadGenSettings
from sut.loadgen_conf import ConfFile
from sut.results.deviations import deviations_before_run
from sut.settings import GenerationConfig, Scenario

GROUP = "submission"


class SubmissionInputs(NamedTuple):
    """What decides about the files whether a run may be submitted."""

    user_conf: str
    """Text of the user.conf that LoadGen would read."""
    audit: ConfFile | None
    """The audit.config."""
    data: DataFacts
    """The official data set if the run's is not known."""


def diagnose_submission(
    run: RunConfig, generation: GenerationConfig, known: SubmissionInputs, workers: Sequence[Visit]
) -> list[Row]:
    """Check whether a run could be submitted, as far as that is known.

    Args:
        run: The run's flags.
        generation: The run's sampling.
        known: The confs and the data set.
        workers: The workers that answer.
    """
    audit_text, audit_values = (None, None) if known.audit is None else (known.audit.text, known.audit.values)
    settings = LoadGenSettings.read(known.user_conf, audit_text, run.scenario)
    rows = [*_diagnose_round(settings), *_report_figures(run, generation), *_diagnose_length(run, settings)]
    loaded = [(visit.address, visit.info) for visit in workers if visit.info.engine]
    setup = compose_setup(run, generation, audit_values, known.data, loaded, settings.seeds)
    found = deviations_before_run(settings.logged, setup)
    advice = "no change is needed for a trial run; a submission run must have the official value"
    if not found:
        return [*rows, Row(GROUP, DEVIATION, Level.OK, "none known before the run")]
    return [*rows, *(Row(GROUP, DEVIATION, Level.WARN, text, advice) for text in found)]


def _diagnose_round(settings: LoadGenSettings) -> list[Row]:
    """Compare LoadGen's seeds with those of the known rounds."""
    check, loadgen = Check(GROUP, "round"), f"LoadGen {version('mlcommons_loadgen')}"
    entry = find_round(settings.seeds)
    if entry is None:
        advice = "install a LoadGen of the round; results with other seeds cannot be submitted"
        return check.rows(
            [Finding("", Level.WARN, f"{loadgen}: {unknown_round(settings.seeds)}", advice)], ""
        )
    checker = f"submission checker --version {entry.checker_version}"
    return check.rows([], f"{entry.name}, by the seeds of {loadgen}; {checker}")


def _diagnose_length(run: RunConfig, settings: LoadGenSettings) -> list[Row]:
    """Warn of a run with too few queries for LoadGen's early stopping."""
    short = too_short(run, settings)
    advice = "otherwise the run is INVALID, whatever its latencies"
    return [] if short is None else [Row(GROUP, "queries", Level.WARN, short, advice)]


def _report_figures(run: RunConfig, generation: GenerationConfig) -> list[Row]:
    """Report figures of this run with what each source gives for them."""
    budget = f"{generation.max_new_tokens:,} tokens in this run; {run.mode.max_new_tokens}"
    rows = Check(GROUP, "max_new_tokens").rows([], budget)
    if run.scenario is Scenario.INTERACTIVE:
        rows += Check(GROUP, "TPOT limit").rows([], f"in ns: {run.scenario.limits.tpot_ns}")
    return rows
