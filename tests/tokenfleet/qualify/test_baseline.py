"""A comparison with an earlier qualification names all that differs and that decides answers or verdicts."""

import pytest

from tokenfleet.qualify.baseline import Measured, compare_with_baseline

ENGINE = {"engine": "vllm", "execution_facts": {"moe_backend": "triton"}}
WITH = {"max_new_tokens": 32768, "tokenizer_sha256": "a", "lcb_tests_sha256": None}
FIRST = Measured(ENGINE, [[1]], [[2]], [7], "data", [True], WITH)


@pytest.mark.parametrize(
    ("changed", "answers", "rows"),
    [
        ({}, "equal engines", "equal engines"),
        # Other kernels change the numbers, and so perhaps the answers.
        (
            {"engine": {"engine": "vllm", "execution_facts": {"moe_backend": "marlin"}}},
            "moe_backend triton -> marlin",
            "moe_backend triton -> marlin",
        ),
        (
            {"graded_with": {**WITH, "max_new_tokens": 1024}},
            "equal engines",
            "max_new_tokens 32768 -> 1024",
        ),
    ],
)
def test_what_differs_is_named(changed: dict[str, object], answers: str, rows: str) -> None:
    """Kernels count for answers and verdicts; the longest answer, tokenizer and tests for verdicts."""
    second = FIRST._replace(**changed)  # type: ignore[arg-type]  # fields of Measured
    seen = [check.seen for check in compare_with_baseline(FIRST, second)]
    assert [answers, rows] == [text.partition(":")[0] for text in seen]


def test_an_older_result_is_compared_without_what_it_does_not_tell() -> None:
    """A result that does not have the longest answer is compared as before."""
    seen = [check.seen for check in compare_with_baseline(FIRST._replace(graded_with={}), FIRST)]
    assert all(text.startswith("equal engines: ") for text in seen)
