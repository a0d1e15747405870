"""The data sets of the accuracy data: how an answer is extracted, compared and weighted.

Source: behavior of language/gpt-oss-120b/eval_mlperf_accuracy.py of mlcommons/inference, August 2026.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from sut.benchmark import BENCHMARK
from sut.results.accuracy.extraction import aime_integer, choice_letter, python_source

GroundTruth = str | int | float | None
"""A value of the column ground_truth."""
Extracted = str | int | None
"""An answer as it was extracted; None: nothing was found."""


class Family(StrEnum):
    """Kind of answer; the value begins the names of its data sets."""

    AIME = "aime"
    GPQA = "gpqa"
    CODE = "livecodebench"


_EXTRACT: Final = {Family.AIME: aime_integer, Family.GPQA: choice_letter, Family.CODE: python_source}


class DataSetError(ValueError):
    """A name in the column `dataset` is unknown; one line."""


def families(names: Iterable[str]) -> dict[str, Family]:
    """Return the family of each data set of a file.

    The official evaluator gives every other name the weight of a single question, unseen; that is an error
    here. The data of a compliance test may have another name than the accuracy data, because the weight of a
    single data set cancels out.

    Args:
        names: Names in lower case.

    Raises:
        DataSetError: A name is unknown.
    """
    found, known = set(names), BENCHMARK.accuracy_repeats
    prefixes = tuple(test.dataset_prefix for test in BENCHMARK.compliance_tests if test.dataset_prefix)
    for name in sorted(found):
        if name not in known and not (len(found) == 1 and name.startswith(prefixes)):
            raise DataSetError(f"{name!r} in the column dataset is none of {', '.join(known)}")
    return {name: next(family for family in Family if name.startswith(family)) for name in found}


def extract(family: Family, text: str) -> Extracted:
    """Extract an answer officially."""
    return _EXTRACT[family](text)


def is_right(family: Family, extracted: Extracted, truth: GroundTruth) -> bool:
    """Compare an answer, which is no program, officially."""
    if extracted is None or truth is None or truth != truth:  # noqa: PLR0124 - NaN
        return False
    if family is Family.GPQA:
        return isinstance(truth, str) and str(extracted) == truth.upper()
    try:
        return int(truth) == extracted
    except (ValueError, OverflowError):
        return False
