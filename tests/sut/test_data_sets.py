"""Data sets of the accuracy data: their families, how answers are compared, and why readings differ."""

import pytest

from sut.results.accuracy.data_sets import DataSetError, Extracted, Family, GroundTruth, families, is_right
from sut.results.accuracy.differences import explain
from tests.sut.accuracy_files import FINAL, final

AIME, GPQA, CODE = Family


def test_the_three_data_sets_have_their_families() -> None:
    """Each of the official names, alone or with the others."""
    official = {"aime25": AIME, "gpqa_diamond": GPQA, "livecodebench_v6": CODE}
    assert official == families([*official, *official])
    assert {"gpqa_diamond": GPQA} == families(["gpqa_diamond"])


def test_only_the_data_of_a_compliance_test_may_have_another_name() -> None:
    """TEST07's rows are GPQA's under any name that begins with it, if there is no other data set."""
    assert {"gpqa_compliance": GPQA} == families(["gpqa_compliance", "gpqa_compliance"])
    known = "is none of aime25, gpqa_diamond, livecodebench_v6"
    for names, wrong in (
        (["gpqa_compliance", "aime25"], "gpqa_compliance"),
        (["my_gpqa"], "my_gpqa"),
        (["aime24"], "aime24"),
        (["aime25", "math", "gsm8k"], "gsm8k"),
    ):
        with pytest.raises(DataSetError) as refused:
            families(names)
        assert f"{wrong!r} in the column dataset {known}" == str(refused.value)


@pytest.mark.parametrize(
    ("family", "extracted", "truth", "right"),
    [
        (GPQA, "C", "C", True),
        (GPQA, "C", "c", True),
        (GPQA, "C", "D", False),
        (GPQA, "C", "C ", False),
        (GPQA, "C", 3, False),
        (GPQA, None, "NONE", False),
        (GPQA, "C", None, False),
        (AIME, 70, "70", True),
        (AIME, 70, " 070 ", True),
        (AIME, 70, 70, True),
        (AIME, 70, 70.0, True),
        # Officially int(70.9) is 70.
        (AIME, 70, 70.9, True),
        (AIME, 70, "70.0", False),
        (AIME, 70, "71", False),
        (AIME, 0, "x", False),
        (AIME, None, "70", False),
        (AIME, 0, None, False),
        (AIME, 0, float("nan"), False),
        (AIME, 0, float("inf"), False),
    ],
)
def test_an_answer_is_compared_officially(
    family: Family, extracted: Extracted, truth: GroundTruth, right: bool
) -> None:
    """Letters in any case of the ground truth, integers by their value; no answer and no truth are wrong."""
    assert is_right(family, extracted, truth) is right


FORM = "the final message states the {} in a form that the official evaluator does not read"
OUTSIDE = "a number outside the final message: the official evaluator searches the whole text"
WORD = 'the final message begins with the word "A", which the official evaluator takes for the letter'
LETTER = "the official evaluator finds another letter in the final message, or outside it"
BOX = r"\boxed{} holds more than digits, which the official evaluator does not read"
SEVERAL = "several final messages, or one not ended by <|return|>: the official evaluator reads the first"


@pytest.mark.parametrize(
    ("family", "message", "official", "reason"),
    [
        (AIME, "Answer: 70", 12, OUTSIDE),
        (AIME, r"\boxed{12}, or 70", 12, BOX),
        (AIME, r"\boxed{\text{70}}", None, BOX),
        (AIME, "Answer: 70.", None, FORM.format("number")),
        (AIME, "Answer: 70, no, it is 12", 70, FORM.format("number")),
        (GPQA, "A careful look: answer C", "A", WORD),
        (GPQA, "(a  guess) C", "A", WORD),
        (GPQA, "Answer: A, or is it a draw? C", "A", LETTER),
        (GPQA, "B careful", "B", LETTER),
        (GPQA, "A", "B", LETTER),
        (GPQA, "The answer is C.", None, FORM.format("letter")),
        (CODE, "```python\nx", None, "the code block is not closed"),
        (
            CODE,
            "```python3\nx\n```",
            "3\nx",
            "the official evaluator takes another code block, or a part of the language's name with it",
        ),
    ],
)
def test_a_difference_of_the_readings_is_explained(
    family: Family, message: str, official: Extracted, reason: str
) -> None:
    """By the final message and what the official evaluator has found."""
    assert reason == explain(family, f" {final(message)}\n", message, official)


def test_a_difference_of_the_messages_comes_first() -> None:
    """Without a final message, or with another one than the first, the form of the answer is no reason."""
    text = f"{FINAL}A<|return|>{FINAL}B<|return|>"
    assert SEVERAL == explain(GPQA, text, "B", "A")
    assert "no final message: the official evaluator reads the whole text" == explain(GPQA, text, None, "A")
