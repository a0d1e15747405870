"""Check before a run that its data set fits the compliance test and can be graded."""

import reprlib
from pathlib import Path
from typing import Final

from common.flags import FlagError
from sut.benchmark import BENCHMARK, ComplianceTest
from sut.dataset import Dataset
from sut.loadgen_conf import ConfFile

_PARQUET_MAGIC: Final = b"PAR1"
_TOKENIZER_FILE: Final = "tokenizer.json"
_CODE_DATASET: Final = "livecodebench_v6"


def find_compliance_test(audit_config: ConfFile, path: Path) -> ComplianceTest:
    """Return the compliance test of an audit.config, which names the run's directory.

    Raises:
        FlagError: The file has the keys of no test, or of several.
    """
    test = BENCHMARK.compliance_test(audit_config.values)
    if test is None:
        keys = "; ".join(f"{test.name}: {' and '.join(test.keys)}" for test in BENCHMARK.compliance_tests)
        raise FlagError("--audit-config", f"must have the keys of exactly one test ({keys})", path)
    return test


def check_test_data(test: ComplianceTest, data: Dataset) -> None:
    """Require the data set of a compliance test: its number of rows, and its values of the column `dataset`.

    Raises:
        FlagError: It is another data set.
    """
    if data.num_samples != test.num_samples:
        reason = f"{data.num_samples} rows are not the data set of {test.name}, which has {test.num_samples}"
        raise FlagError("--input-file", reason, data.path)
    for name in data.rows_by_dataset:
        if not name.lower().startswith(test.dataset_prefix):
            value, prefix = reprlib.repr(name), test.dataset_prefix
            reason = f"{value} in the column dataset: all rows of {test.name} are {prefix}"
            raise FlagError("--input-file", reason, data.path)


def check_gradable(data: Dataset, grader: str) -> None:
    """Require the columns without which the answers cannot be graded.

    Args:
        data: The data set.
        grader: Flag or compliance test that needs the columns.

    Raises:
        FlagError: A column is missing.
    """
    for name in BENCHMARK.grading_columns:
        if name not in data.column_names:
            reason = f"has no column {name}, by which {grader} is graded; --ungraded runs it all the same"
            raise FlagError("--input-file", reason, data.path)


def check_scorable(data: Dataset, tokenizer: Path, lcb_tests: Path | None) -> None:
    """Require before a run what scoring its answers reads after it.

    Args:
        data: The data set.
        tokenizer: Directory of the tokenizer.
        lcb_tests: Tests of the LiveCodeBench questions.

    Raises:
        FlagError: A file is missing, or the data cannot be scored.
    """
    if not (tokenizer / _TOKENIZER_FILE).is_file():
        raise FlagError("--tokenizer", f"has no file {_TOKENIZER_FILE}", tokenizer)
    with data.path.open("rb") as file:
        if file.read(len(_PARQUET_MAGIC)) != _PARQUET_MAGIC:
            raise FlagError(
                "--input-file", "is no parquet file, which scoring (--tokenizer) needs", data.path
            )
    if (num_named := sum(data.rows_by_dataset.values())) != data.num_samples:
        reason = f"has {data.num_samples - num_named} rows without a name in the column dataset"
        raise FlagError("--input-file", reason, data.path)
    names = {name.lower() for name in data.rows_by_dataset}
    if unknown := names - set(BENCHMARK.dataset_names):
        reason = f"{reprlib.repr(min(unknown))} in the column dataset cannot be scored (--tokenizer)"
        raise FlagError("--input-file", reason, data.path)
    if lcb_tests is None and _CODE_DATASET in names:
        raise FlagError("--lcb-tests", f"is missing: --tokenizer scores the run, which has {_CODE_DATASET}")
    if lcb_tests is not None and not lcb_tests.is_file():
        raise FlagError("--lcb-tests", "is no file", lcb_tests)
