"""Check before a run that its data set fits the compliance test and can be graded."""

import reprlib
from pathlib import Path

from common.flags import FlagError
from sut.benchmark import BENCHMARK, ComplianceTest
from sut.dataset import Dataset
from sut.loadgen_conf import ConfFile


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
