"""Checks of the benchmark: LoadGen's round, figures on which sources differ, known deviations."""

from collections.abc import Sequence
from importlib.metadata import version

from coordinator.config import RunConfig
from coordinator.doctor.findings import Check, Finding, Level, Row
from coordinator.doctor.visits import Visit
from coordinator.inputs import Inputs
from coordinator.pre_run_checks import build_setup
from sut.benchmark import find_round, unknown_round
from sut.loadgen import LoadGenSettings
from sut.results.deviations import deviations_before_run
from sut.settings import GenerationConfig, Scenario

GROUP = "submission"


def diagnose_submission(
    run: RunConfig, generation: GenerationConfig, inputs: Inputs | None, workers: Sequence[Visit]
) -> list[Row]:
    """Check whether a run could be submitted, as far as that is known.

    Args:
        run: The run's flags.
        generation: The run's sampling.
        inputs: The run's files; None if they are not known.
        workers: The workers that answer.
    """
    settings = LoadGenSettings.read("" if inputs is None else inputs.user_conf, run.scenario)
    rows = [*_diagnose_round(settings), *_report_figures(run, generation)]
    if inputs is None:
        return rows
    loaded = [(visit.address, visit.info) for visit in workers if visit.info.engine]
    known = deviations_before_run(settings.logged, build_setup(run, inputs, loaded, settings.seeds))
    advice = "no change is needed for a trial run; a submission run must have the official value"
    if not known:
        return [*rows, Row(GROUP, "deviation", Level.OK, "none known before the run")]
    return [*rows, *(Row(GROUP, "deviation", Level.WARN, text, advice) for text in known)]


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


def _report_figures(run: RunConfig, generation: GenerationConfig) -> list[Row]:
    """Report figures of this run with what each source gives for them."""
    budget = f"{generation.max_new_tokens:,} tokens in this run; {run.mode.max_new_tokens}"
    rows = Check(GROUP, "max_new_tokens").rows([], budget)
    if run.scenario is Scenario.INTERACTIVE:
        rows += Check(GROUP, "TPOT limit").rows([], f"in ns: {run.scenario.limits.tpot_ns}")
    return rows
