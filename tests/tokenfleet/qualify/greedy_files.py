"""References of greedy answers, made by hand."""

from collections.abc import Mapping, Sequence

from tests import fleet
from tokenfleet.qualify.greedy_answers import REFERENCE_FORMAT, GreedyReference

PROMPTS = [[2 + i % 9, 7, 1000 * i] for i in range(12)]
BUDGET = 6


def reference_of(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    margin: float = 5.0,
    engine: Mapping[str, object] | None = None,
) -> GreedyReference:
    """Make a reference; the runner-up of each token is the token plus 1."""
    return GreedyReference(
        format=REFERENCE_FORMAT,
        engine=dict(engine or {"engine": "counting"}),
        dataset_sha256="",
        rows=list(range(len(prompts))),
        max_new_tokens=BUDGET,
        prompts=[list(prompt) for prompt in prompts],
        answers=[list(answer) for answer in answers],
        runner_ups=[[token + 1 for token in answer] for answer in answers],
        margins=[[margin] * len(answer) for answer in answers],
    )


def counting_reference(engine: Mapping[str, object]) -> GreedyReference:
    """Make the reference of the counting engine: its answers by its definition."""
    answers = [fleet.counting_answer(prompt, BUDGET) for prompt in PROMPTS]
    return reference_of(PROMPTS, answers, engine=engine)
