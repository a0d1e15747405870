"""Convert LiveCodeBench's public release to the file of tests that grading reads.

python -m sut.results.code_grading.convert test.jsonl test2.jsonl --output lcb_tests.jsonl
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.atomic_files import whole_file
from common.command_exit import BAD_INPUT
from common.flags import FlagError
from common.named_refusals import naming_output
from common.standard_streams import open_standard_streams
from common.text import one_line, print_table, printable
from sut.results.code_grading.program import GradingError
from sut.results.code_grading.questions import QuestionError, QuestionFile
from sut.results.code_grading.release_rows import read_release


def convert(release: Sequence[Path], output: Path, *, overwrite: bool) -> tuple[int, int]:
    """Write a file of tests, whole or not at all.

    Args:
        release: Files of the release, JSON lines or parquet.
        output: File to write.
        overwrite: Whether an existing file is replaced.

    Returns:
        Number of questions and of tests.

    Raises:
        FlagError: The output exists.
        GradingError: A file of the release cannot be used.
        OSError: The output cannot be written.
    """
    if output.exists() and not overwrite:
        raise FlagError("--output", "exists; --overwrite replaces it", output)
    with whole_file(output) as partial:
        with partial.open("w", encoding="ascii") as file:
            for path in release:
                for entry in read_release(path):
                    file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return _check(partial)


def _check(path: Path) -> tuple[int, int]:
    """Read every question as grading does, and count them and their tests."""
    num_tests = 0
    with QuestionFile(path) as questions:
        for question_id in questions.ids:
            try:
                num_tests += len(questions.read(question_id).tests)
            except QuestionError as error:
                raise GradingError(f"question {printable(question_id, 60)}: {error}") from error
        return len(questions.ids), num_tests


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; bad input is reported in one line with exit code 2."""
    open_standard_streams()
    flags = _parser().parse_args(argv)
    try:
        with naming_output("--output", flags.output):
            num_questions, num_tests = convert(flags.release, flags.output, overwrite=flags.overwrite)
    except (FlagError, GradingError) as error:
        sys.stderr.write(f"{one_line(str(error))}\n")
        return BAD_INPUT
    print_table(f"wrote {flags.output}: {num_questions} questions, {num_tests} tests")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("release", type=Path, nargs="+", help="files of the release, JSON lines or parquet")
    parser.add_argument("--output", type=Path, required=True, help="file to write (required)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return parser


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m sut.results.code_grading.convert"
    sys.exit(main())
