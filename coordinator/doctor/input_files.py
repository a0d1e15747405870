"""Checks of the run's files: user.conf, audit.config and data set; no worker is needed for most of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from coordinator.config import RunConfig
from coordinator.doctor.capacity import Plan, diagnose_rate, frame_us
from coordinator.doctor.findings import Check, Finding, Level, Row
from coordinator.doctor.submission_rules import SubmissionInputs, diagnose_submission
from coordinator.doctor.visits import Visit
from coordinator.inputs import Confs, Inputs, read_confs
from coordinator.pre_run_checks import DataFacts, report_confs
from sut import dataset
from sut.dataset import Dataset
from sut.loadgen_conf import NO_USER_CONF
from sut.settings import GenerationConfig
from sut.user_conf import compose_user_conf, planned_qps

# Value of --input-file if it is not given.
NO_INPUT = Path(os.devnull)
ADVICE = "correct the file or the flag"


class Examined(NamedTuple):
    """Results of several checks."""

    rows: list[Row]
    skipped: list[str]
    """Checks that were not made, with the flag or fact that is missing."""


def diagnose_files(
    run: RunConfig, generation: GenerationConfig, workers: Sequence[Visit], num_workers: int
) -> Examined:
    """Read the run's files as a run would, and compare them with the workers' limits.

    Args:
        run: The run's flags.
        generation: The run's sampling.
        workers: The workers that answer.
        num_workers: All workers of the run.
    """
    settings_row, confs = _read_settings(run)
    known = Confs(NO_USER_CONF, None, None, run.output_dir) if confs is None else confs
    rows, skipped = [settings_row, *_diagnose_confs(run, known)], []
    planned = planned_qps(known.user, run.scenario, run.target_qps)
    if planned is None:
        skipped.append("planned rate: neither --target-qps nor --user-conf gives it: LoadGen takes 1/s")
    elif num_workers:
        rows += diagnose_rate(Plan(*planned, num_workers, frame_us()))
    facts = DataFacts.official(run.mode, known.compliance_test)
    if run.input_file == NO_INPUT:
        skipped.append("data set: --input-file is not given")
    else:
        data_rows, data = _diagnose_data(run, readable=confs is not None)
        rows += data_rows
        if data is not None:
            fit_rows = _diagnose_fit(data, generation.max_new_tokens, workers)
            rows += fit_rows
            if not fit_rows:
                skipped.append("data set, fits: no worker tells its vocabulary and max_model_len")
            facts = DataFacts.of(data)
    user_conf = compose_user_conf(
        known.user,
        scenario=run.scenario,
        mode=run.mode,
        num_samples=facts.num_samples,
        target_qps=run.target_qps,
    )
    inputs = SubmissionInputs(user_conf, known.audit, facts)
    return Examined([*rows, *diagnose_submission(run, generation, inputs, workers)], skipped)


def _read_settings(run: RunConfig) -> tuple[Row, Confs | None]:
    """Read the files that a run reads before its data set; None if the run would be refused."""
    name = ("coordinator", "settings")
    try:
        confs = read_confs(run)
    except ValueError as error:
        return Row(*name, Level.FAIL, str(error), ADVICE), None
    seen = f"{confs.run_dir} is available, and the settings files can be read"
    return Row(*name, Level.OK, seen), confs


def _diagnose_confs(run: RunConfig, confs: Confs) -> list[Row]:
    """Report what the run takes from its confs, and their lines without effect."""
    rows = []
    for flag, used, warnings in report_confs(run, confs):
        name = ("coordinator", flag.removeprefix("--").replace("-", "."))
        rows.append(Row(*name, Level.OK, used))
        rows += [Row(*name, Level.WARN, text, "correct or delete the lines") for text in warnings]
    return rows


def _diagnose_data(run: RunConfig, *, readable: bool) -> tuple[list[Row], Dataset | None]:
    """Read the data set, with the checks of a run if its settings can be read; None if it is refused."""
    check = Check("data set", "readable")
    try:
        data = Inputs.read(run).dataset if readable else dataset.load(run.input_file, run.max_samples)
    except ValueError as error:
        return check.rows([Finding("", Level.FAIL, str(error), ADVICE)], ""), None
    seen = f"{data.num_samples:,} samples, {data.prompt_lens.max():,} tokens at most, SHA-256 {data.sha256}"
    return check.rows([], seen), data


def _diagnose_fit(data: Dataset, max_new_tokens: int, workers: Sequence[Visit]) -> list[Row]:
    loaded = [visit.info for visit in workers if visit.info.engine]
    if not loaded:
        return []
    check = Check("data set", "fits")
    vocab_size = min(info.vocab_size for info in loaded)
    max_model_len = min(info.max_model_len for info in loaded)
    try:
        data.check(vocab_size=vocab_size, max_model_len=max_model_len, max_new_tokens=max_new_tokens)
    except ValueError as error:
        foreign = int(data.tokens.max()) >= vocab_size
        advice = (
            "correct --input-file, or the workers' --model: its vocabulary differs"
            if foreign
            else ("start the workers with a longer --max-model-len, or reduce --max-new-tokens")
        )
        return check.rows([Finding("", Level.FAIL, str(error), advice)], "")
    return check.rows(
        [], f"ids below {vocab_size:,}, prompt and {max_new_tokens:,} in {max_model_len:,} tokens"
    )
