"""Greedy answers of vLLM's own LLM class in a file, and their comparison with answers through the harness.

Answers of one model on one machine may differ between two batches: kernels add numbers in another order, and
two tokens of almost equal probability change places. Such a first difference is a near tie: the harness has
the reference's second most probable token, and the difference of the log probabilities is small. Every other
difference is an error. What follows a first difference continues another text and is not compared.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from common.atomic_files import replace_files
from common.bounded_file import read_bounded
from common.flags import FlagError
from common.json_document import is_number, parse_json

REFERENCE_FLAG = "--reference"
REFERENCE_FORMAT = 1
MAX_REFERENCE_BYTES = 256 << 20
NEAR_TIE = 0.5
"""Largest difference of log probabilities of a near tie. Logits between 16 and 32 in bfloat16 are multiples
of 0.125; the bound is four of these steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyReference:
    """Content of the file; the lists have one entry for each prompt."""

    format: int
    engine: dict[str, object]
    """Engine, version, model, model hash and engine facts, as in GetInfo."""
    dataset_sha256: str
    """Hash of the file from which the prompts were taken."""
    rows: list[int]
    """Row of each prompt in that file."""
    max_new_tokens: int
    prompts: list[list[int]]
    answers: list[list[int]]
    runner_ups: list[list[int]]
    """Second most probable token at each position of the answer."""
    margins: list[list[float]]
    """Log probability of each token of the answer minus that of the runner-up."""

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        replace_files(path.parent, {path.name: json.dumps(asdict(self)) + "\n"})


def read_greedy_reference(path: Path) -> GreedyReference:
    """Read the file.

    Raises:
        FlagError: Names the file and what is wrong in it.
    """
    try:
        content = parse_json(read_bounded(path, MAX_REFERENCE_BYTES))
        reference = GreedyReference(**content)  # type: ignore[arg-type]  # checked next
        _check_content(reference)
    except OSError as error:
        raise FlagError(REFERENCE_FLAG, str(error.strerror), path) from error
    except (ValueError, TypeError) as error:
        reason = f"was not written by `tokenfleet qualify reference`: {error}"
        raise FlagError(REFERENCE_FLAG, reason, path) from error
    return reference


def _check_content(reference: GreedyReference) -> None:
    """Check types and lengths.

    Raises:
        ValueError: Names what is wrong.
    """
    if reference.format != REFERENCE_FORMAT:
        raise ValueError(f"format is {reference.format!r}, not {REFERENCE_FORMAT}")
    if not isinstance(reference.engine, dict) or not is_number(reference.max_new_tokens):
        raise ValueError("engine or max_new_tokens is of another type")
    columns = ("prompts", "answers", "runner_ups", "margins")
    for name in columns:
        if not _is_table(getattr(reference, name)):
            raise ValueError(f"{name} is not a list of lists of numbers")
    if not reference.prompts or not all(reference.prompts) or not all(reference.answers):
        raise ValueError("a prompt or an answer is empty")
    lens = [[len(row) for row in getattr(reference, name)] for name in columns[1:]]
    if len(reference.prompts) != len(lens[0]) or not lens[0] == lens[1] == lens[2]:
        raise ValueError("the lists have different lengths")


def _is_table(rows: object) -> bool:
    return isinstance(rows, list) and all(isinstance(row, list) and all(map(is_number, row)) for row in rows)


class FirstDifference(NamedTuple):
    """The first position at which two answers to one prompt differ."""

    prompt: int
    position: int
    """Equal tokens before it."""
    token: int | None
    """Token of the second answer; None: it has ended."""


def first_differences(
    answers: Sequence[Sequence[int]], others: Sequence[Sequence[int]]
) -> list[FirstDifference]:
    """List the prompts whose two answers differ, in order.

    Args:
        answers: First answer to each prompt.
        others: Second answer to each prompt.
    """
    found = []
    for prompt, (one, other) in enumerate(zip(answers, others, strict=True)):
        if list(one) != list(other):
            pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
            position = sum(1 for _ in pairs)
            found.append(
                FirstDifference(prompt, position, other[position] if position < len(other) else None)
            )
    return found


def equal_share(answers: Sequence[Sequence[int]], differences: Iterable[FirstDifference]) -> float:
    """Return the share of the answers' tokens that come before a first difference."""
    num_tokens = sum(map(len, answers))
    num_after = sum(len(answers[found.prompt]) - found.position for found in differences)
    return 1 - num_after / num_tokens if num_tokens else 1.0


def errors_among(reference: GreedyReference, differences: Iterable[FirstDifference]) -> list[FirstDifference]:
    """Return the differences from the reference that are no near ties."""
    return [found for found in differences if not _is_near_tie(reference, found)]


def _is_near_tie(reference: GreedyReference, found: FirstDifference) -> bool:
    margins = reference.margins[found.prompt]
    return (
        found.position < len(margins)
        and found.token == reference.runner_ups[found.prompt][found.position]
        and margins[found.position] <= NEAR_TIE
    )
