"""Flags of `tokenfleet accuracy`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.flags import Flag, Flags, Parser, add_flags, build


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig(Flags):
    """One log to score."""

    mlperf_log: Annotated[Path, Flag("LoadGen's mlperf_log_accuracy.json")]
    reference_data: Annotated[Path, Flag("parquet file of the accuracy data, by which the run was made")]
    tokenizer: Annotated[Path, Flag("directory with the model's tokenizer.json", metavar="DIR")]
    lcb_tests: Annotated[
        Path | None, Flag("tests of the LiveCodeBench questions; needed if the data has such rows")
    ] = None
    output_dir: Annotated[
        Path | None, Flag("directory of the report", metavar="DIR", default_text="the log's")
    ] = None
    overwrite: Annotated[bool, Flag("replace an earlier report")] = False
    allow_ungraded: Annotated[
        bool, Flag("give a score although rows could not be graded; they count as wrong")
    ] = False
    unsandboxed: Annotated[
        bool, Flag("run programs without a sandbox, where no namespace can be had: they can do harm")
    ] = False
    program_memory_gib: Annotated[
        float, Flag("memory of a program, in GiB; one that needs more is not graded", ge=0.25, le=1024)
    ] = 4.0
    num_programs: Annotated[
        int | None, Flag("programs that run at the same time", ge=1, default_text="one a core")
    ] = None
    max_samples: Annotated[
        int | None, Flag("the run used only the first N rows of the data", ge=1, default_text="all")
    ] = None
    max_new_tokens: Annotated[
        int | None,
        Flag(
            "longest answer of the run in tokens", ge=1, default_text="the run's, without its run.json 32768"
        ),
    ] = None
    harmony_vocabulary: Annotated[
        Path | None,
        Flag("directory with o200k_base.tiktoken, for openai-harmony in the second opinion", metavar="DIR"),
    ] = None

    @property
    def report_dir(self) -> Path:
        """Directory of the report."""
        return self.mlperf_log.parent if self.output_dir is None else self.output_dir


def parse(argv: list[str]) -> AccuracyConfig:
    """Read the command line.

    Raises:
        ValueError: Names flag, value and bound.
    """
    parser = Parser(
        allow_abbrev=False, description="Score LoadGen's accuracy log as the official evaluator does."
    )
    add_flags(parser, AccuracyConfig)
    return build(AccuracyConfig, parser.parse_args(argv))
