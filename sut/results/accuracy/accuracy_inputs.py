"""Read the input files of one evaluation; each error names its flag."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.flags import FlagError
from common.json_document import entry
from sut.benchmark import BENCHMARK
from sut.log_files import (
    ACCURACY,
    ACCURACY_REPORT,
    ACCURACY_TEXT,
    GRADING_LOG,
    RECORD,
    file_sha256,
    read_record,
)
from sut.results.accuracy.config import AccuracyConfig
from sut.results.accuracy.data_sets import Family
from sut.results.accuracy.detokenizer import Detokenizer, TokenizerError
from sut.results.accuracy.harmony import HarmonyError, load_harmony
from sut.results.accuracy.log_entries import AnswerLog, LogError
from sut.results.accuracy.reference_data import ReferenceData, ReferenceDataError, read_reference
from sut.results.accuracy.scoring import AccuracyScorer, Judge, no_judge
from sut.results.code_grading.grader import grade_programs
from sut.results.code_grading.program import GradingOptions, ProgramLimits


class RunFacts(NamedTuple):
    """Facts from the run.json beside the log; None if it does not exist or does not tell."""

    dataset_sha256: object
    log_sha256: object
    max_new_tokens: int | None


def read_inputs(config: AccuracyConfig) -> AccuracyScorer:
    """Read every file and check the log; nothing is written.

    Raises:
        FlagError: Names flag, file and reason.
    """
    check_free(config)
    facts = _read_facts(config.mlperf_log)
    with _named("--reference-data", config.reference_data):
        reference = read_reference(config.reference_data, config.max_samples)
    if facts.dataset_sha256 not in (None, reference.sha256):
        reason = f"is not the data of the run: {RECORD} beside the log names another SHA-256"
        raise FlagError("--reference-data", reason, config.reference_data)
    judge = _judge(config, reference)
    with _named("--tokenizer", config.tokenizer):
        detokenizer = Detokenizer(config.tokenizer)
    with _named("--harmony-vocabulary", config.harmony_vocabulary):
        directory = config.harmony_vocabulary
        final_message = None if directory is None else load_harmony(directory)
    budget = config.max_new_tokens or facts.max_new_tokens or BENCHMARK.accuracy_max_new_tokens.value
    scorer = AccuracyScorer(
        log=AnswerLog(config.mlperf_log),
        reference=reference,
        detokenizer=detokenizer,
        target_percent=BENCHMARK.accuracy_target_percent,
        max_new_tokens=budget,
        judge=judge,
        final_message=final_message,
        lcb_tests_sha256=None if judge is no_judge else _hash_tests(config),
    )
    with _named("--mlperf-log", config.mlperf_log):
        scorer.check()
    if facts.log_sha256 not in (None, scorer.log.sha256):
        reason = f"is not the log of the run: {RECORD} beside it names another SHA-256"
        raise FlagError("--mlperf-log", reason, config.mlperf_log)
    return scorer


def _hash_tests(config: AccuracyConfig) -> str:
    assert config.lcb_tests is not None
    try:
        return file_sha256(config.lcb_tests)
    except OSError as error:
        raise FlagError("--lcb-tests", str(error.strerror), config.lcb_tests) from error


def check_free(config: AccuracyConfig) -> None:
    """Require a directory without an earlier report.

    Raises:
        FlagError: There is one, or no such directory.
    """
    if not config.report_dir.is_dir():
        raise FlagError("--output-dir", "is no directory", config.report_dir)
    for name in (ACCURACY_REPORT, ACCURACY_TEXT):
        if (config.report_dir / name).exists() and not config.overwrite:
            raise FlagError("--output-dir", "exists; --overwrite replaces it", config.report_dir / name)


def _judge(config: AccuracyConfig, reference: ReferenceData) -> Judge:
    if Family.CODE not in reference.families.values():
        return no_judge
    if config.lcb_tests is None:
        if config.allow_ungraded:
            return no_judge
        name = next(name for name, family in reference.families.items() if family is Family.CODE)
        raise FlagError("--lcb-tests", f"is missing: the data has rows of {name}")
    if not config.lcb_tests.is_file():
        raise FlagError("--lcb-tests", "is no file", config.lcb_tests)
    options = GradingOptions(
        sandboxed=not config.unsandboxed,
        limits=ProgramLimits(memory_bytes=int(config.program_memory_gib * (1 << 30))),
    )
    if config.num_programs is not None:
        options = replace(options, num_parallel=config.num_programs)
    return partial(
        grade_programs,
        tests=config.lcb_tests,
        grading_log=config.report_dir / GRADING_LOG,
        options=options,
    )


@contextmanager
def _named(flag: str, path: Path | None) -> Iterator[None]:
    """Name the flag and its file in an error."""
    try:
        yield
    except (ReferenceDataError, TokenizerError, HarmonyError, LogError) as error:
        raise FlagError(flag, str(error), path) from error


def _read_facts(log: Path) -> RunFacts:
    """Read the record of the run beside a log; a log without one may come from elsewhere.

    Raises:
        FlagError: There is one that cannot be read: the log could then be another than that of the run.
    """
    name = f"{RECORD} beside it"
    try:
        record = read_record(log.parent)
    except FileNotFoundError:
        return RunFacts(None, None, None)
    except OSError as error:
        raise FlagError("--mlperf-log", f"{name} cannot be read: {error.strerror}", log) from error
    except ValueError as error:
        raise FlagError("--mlperf-log", f"{name} {error}", log) from error
    budget = entry(record, "generation", "max_new_tokens")
    return RunFacts(
        entry(record, "dataset", "sha256"),
        entry(record, "files_sha256", ACCURACY),
        budget if isinstance(budget, int) and budget > 0 else None,
    )
