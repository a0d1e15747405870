"""`tokenfleet qualify`: whether a new system serves the right model, and the model answers as it should.

It visits workers that are ready, compares weights, data files and stop ids with what is expected, compares
greedy answers through the harness with those of vLLM's own LLM class (`tokenfleet qualify reference`), grades
some accuracy rows and projects the official score, and compares both with an earlier qualification. A check
whose flags are not given is listed as unknown. Exit codes: 0 no check failed, 1 a check failed, 2 bad input,
128 plus the signal's number if interrupted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.command_exit import run_command
from common.flags import Flag, FlagError, Parser, add_flags, build, declared
from common.named_refusals import naming_output
from common.signals import CLEAN_UP_S, Interrupts
from common.text import print_table
from common.tls import WorkerAccessFlags
from coordinator.config import WorkerAddresses, check_addresses
from coordinator.transport.access import Access
from sut.results.accuracy.detokenizer import Detokenizer, TokenizerError
from tokenfleet.qualify import checksums, graded_rows, greedy_checks
from tokenfleet.qualify.baseline import Measured, compare_with_baseline, read_baseline
from tokenfleet.qualify.checksums import ExpectedSums
from tokenfleet.qualify.graded_rows import GradedRows, GradingFiles, SampledRows, sample_rows
from tokenfleet.qualify.greedy_answers import REFERENCE_FLAG, GreedyReference, read_greedy_reference
from tokenfleet.qualify.harness_run import OUTPUT_FLAG
from tokenfleet.qualify.qualification import (
    RESULT_NAME,
    Assessment,
    CheckResult,
    layout_results,
    qualification_exit_code,
    write_result,
)
from tokenfleet.qualify.reference_program import run_reference
from tokenfleet.qualify.worker_visits import ReadyWorkers, visit_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class QualifyConfig(WorkerAccessFlags):
    """One qualification."""

    workers: WorkerAddresses
    output_dir: Annotated[
        Path, Flag("new or empty directory of the result and of its runs", metavar="DIR")
    ] = Path("qualify_results")
    expected: Annotated[
        Path | None, Flag("table of hashes: TOML if its name ends in .toml, else in the format of sha256sum")
    ] = None
    data_files: Annotated[
        tuple[str, ...], Flag("data files to hash", metavar="FILE[,FILE...]", default_text="none")
    ] = ()
    reference: Annotated[
        Path | None, Flag("greedy answers of vLLM's LLM class, as written by `tokenfleet qualify reference`")
    ] = None
    accuracy_file: Annotated[Path | None, Flag("accuracy data, parquet, of which rows are graded")] = None
    num_graded: Annotated[int, Flag("accuracy rows to grade", ge=20)] = 100
    tokenizer: Annotated[
        Path | None, Flag("directory with the model's tokenizer.json; grading needs it", metavar="DIR")
    ] = None
    lcb_tests: Annotated[
        Path | None, Flag("tests of the LiveCodeBench questions; without it no such rows are graded")
    ] = None
    baseline: Annotated[
        Path | None,
        Flag("result of an earlier qualification, e.g. with another KV cache data type", metavar="DIR"),
    ] = None
    max_new_tokens: Annotated[
        int | None, Flag("longest answer of a graded row in tokens", ge=1, default_text="32768")
    ] = None
    random_weights: Annotated[bool, Flag("the model's weights are random: answers may be degenerate")] = False

    def _check_together(self) -> None:
        check_addresses(self.workers)
        if (self.accuracy_file is None) != (self.tokenizer is None):
            given, missing = "--accuracy-file", "--tokenizer"
            if self.accuracy_file is None:
                given, missing = missing, given
            raise FlagError(missing, f"missing: {given} needs it")

    @property
    def run_argv(self) -> list[str]:
        """The coordinator's flags for workers and credentials."""
        files = {flag.option: getattr(self, flag.field) for flag in declared(WorkerAccessFlags)}
        flags = [f"{option}={path}" for option, path in files.items() if path is not None]
        random_weights = ["--random-weights"] if self.random_weights else []
        return [f"--workers={','.join(self.workers)}", *flags, *random_weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualifyInputs:
    """Contents of the files of a qualification."""

    access: Access
    expected: ExpectedSums
    reference: GreedyReference | None
    grading: GradingFiles | None
    sample: SampledRows | None
    """Rows to grade; None without files for grading."""
    baseline: Measured | None

    @classmethod
    def read(cls, config: QualifyConfig) -> "QualifyInputs":
        """Read and check every file; nothing is written.

        Raises:
            FlagError: Names flag, file and reason.
        """
        _check_output(config.output_dir)
        grading = _grading_files(config)
        return cls(
            access=Access.read(config.security_files),
            expected=checksums.NOTHING_EXPECTED
            if config.expected is None
            else checksums.read_expected(config.expected),
            reference=None if config.reference is None else read_greedy_reference(config.reference),
            grading=grading,
            sample=None if grading is None else sample_rows(grading, config.num_graded),
            baseline=None if config.baseline is None else read_baseline(config.baseline),
        )


def _check_output(directory: Path) -> None:
    with naming_output(OUTPUT_FLAG, directory):
        if directory.exists() and any(directory.iterdir()):
            raise FlagError(OUTPUT_FLAG, "is not empty", directory)


def _grading_files(config: QualifyConfig) -> GradingFiles | None:
    """Return the files for grading; a tokenizer or tests that cannot be used are named before any run."""
    if config.accuracy_file is None or config.tokenizer is None:
        return None
    try:
        Detokenizer(config.tokenizer)
    except TokenizerError as error:
        raise FlagError("--tokenizer", str(error), config.tokenizer) from error
    if config.lcb_tests is not None and not config.lcb_tests.is_file():
        raise FlagError("--lcb-tests", "is no file", config.lcb_tests)
    return GradingFiles(config.accuracy_file, config.tokenizer, config.lcb_tests)


def main(argv: list[str]) -> int:
    """Qualify a system, or write a reference, and return the exit code."""
    if argv[:1] == ["reference"]:
        return run_reference(argv[1:])
    return run_command("qualify", _qualify, argv)


def _qualify(argv: list[str]) -> int:
    """Make all checks, print the table and write it as JSON.

    Raises:
        ValueError: Bad input; names flag, file, value and bound.
        Interrupted: A signal arrived.
    """
    Interrupts(patience_s=CLEAN_UP_S)
    parser = Parser(
        allow_abbrev=False,
        description="Check a new system: weights, data files, stop ids, greedy answers, projected score.",
        epilog="`tokenfleet qualify reference` writes vLLM's own greedy answers.",
    )
    add_flags(parser, QualifyConfig)
    config = build(QualifyConfig, parser.parse_args(argv))
    inputs = QualifyInputs.read(config)
    workers, ready = visit_workers(config.workers, inputs.access)
    results = [ready]
    measured = Measured({}, [], [], [], "", [])
    if ready.assessment is Assessment.PASS:
        results += _check_facts(config, inputs, workers)
        made, measured = _measure(config, inputs, workers)
        results += made
    content = {"workers": workers.engines, "measured": measured._asdict()}
    with naming_output(OUTPUT_FLAG, config.output_dir):
        config.output_dir.mkdir(parents=True, exist_ok=True)
        write_result(config.output_dir / RESULT_NAME, results, content)
    print_table(layout_results(results))
    return qualification_exit_code(results)


def _check_facts(config: QualifyConfig, inputs: QualifyInputs, workers: ReadyWorkers) -> list[CheckResult]:
    """Make the checks that need no run."""
    weights = {address: info.weights_sha256 for address, info in workers.infos.items()}
    stop_ids = {address: list(info.stop_token_ids) for address, info in workers.infos.items()}
    return [
        checksums.check_weights(weights, inputs.expected),
        *checksums.check_data_files([Path(name) for name in config.data_files], inputs.expected),
        checksums.check_stop_ids(stop_ids, inputs.expected),
    ]


def _measure(
    config: QualifyConfig, inputs: QualifyInputs, workers: ReadyWorkers
) -> tuple[list[CheckResult], Measured]:
    """Make the runs and their checks."""
    with naming_output(OUTPUT_FLAG, config.output_dir):
        config.output_dir.mkdir(parents=True, exist_ok=True)
    results, answers = _check_tokens(config, inputs, workers)
    score, graded = _check_grades(config, inputs)
    results.append(score)
    measured = Measured(
        engine=next(iter(workers.engines.values())),
        prompts=[] if inputs.reference is None else inputs.reference.prompts,
        answers=answers,
        graded_rows=[] if graded is None else graded.rows,
        accuracy_sha256="" if inputs.sample is None else inputs.sample.source_sha256,
        right=[] if graded is None else graded.right,
        graded_with={} if graded is None else graded.graded_with,
    )
    if inputs.baseline is not None:
        results += compare_with_baseline(inputs.baseline, measured)
    return results, measured


def _check_tokens(
    config: QualifyConfig, inputs: QualifyInputs, workers: ReadyWorkers
) -> tuple[list[CheckResult], list[list[int]]]:
    """Compare greedy answers; returns them, too."""
    reference = inputs.reference
    if reference is None:
        return [_not_made(greedy_checks.GREEDY_CHECK, REFERENCE_FLAG)], []
    engine = greedy_checks.check_reference_engine(
        reference, workers.engines, may_differ=inputs.baseline is not None
    )
    greedy = greedy_checks.run_greedily(config.output_dir, reference, config.run_argv)
    same_engine = engine.assessment is Assessment.PASS
    tokens = greedy_checks.check_greedy_answers(reference, greedy, same_engine=same_engine)
    return [engine, tokens], greedy.answers


def _check_grades(config: QualifyConfig, inputs: QualifyInputs) -> tuple[CheckResult, GradedRows | None]:
    """Project the score; returns the verdicts, too."""
    if inputs.grading is None or inputs.sample is None:
        return _not_made(graded_rows.SCORE_CHECK, "--accuracy-file and --tokenizer"), None
    budget = [] if config.max_new_tokens is None else [f"--max-new-tokens={config.max_new_tokens}"]
    flags = [*budget, *config.run_argv]
    graded = graded_rows.grade_rows(config.output_dir, inputs.sample, inputs.grading, flags)
    return graded_rows.check_score(graded), graded


def _not_made(check: str, flags: str) -> CheckResult:
    return CheckResult(check, Assessment.UNKNOWN, f"not made: {flags} not given")
