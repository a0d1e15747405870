"""The tokens of an answer: inside the vocabulary, and a stop id only as the last one."""

import numpy as np
import pytest

from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import RequestTable
from protos import worker_pb2 as pb
from protos.columns import AnswerRules, FrameError, RequestNames, TokenColumns

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
# A vocabulary of 100 ids; 50 and 60 end an answer, as special ids between ordinary ones.
RULES = AnswerRules(100, (50, 60))
BUDGET = 4
BEHIND = "an answer has tokens after a stop id"
NO_STOP_ID = "an answer ends with STOP, but its last token is no stop id"
BEGIN = "an answer begins with a stop id and does not end"
SHORT = "an answer ends with LENGTH at {} of 4 tokens"
WORKER = 3


class Answers:
    """Two requests of a table, and the frames of their worker."""

    def __init__(self, num: int, budget: int = BUDGET, rules: AnswerRules = RULES) -> None:
        """Assign `num` requests."""
        self.table = RequestTable(budget, num_slots=num, rules=rules)
        zeros = np.zeros(num, np.int64)
        new = NewRequests(
            np.arange(num, dtype=np.uint64), np.arange(num), zeros + 1, zeros, 1, np.arange(num)
        )
        self._names: RequestNames = self.table.assign(new, WORKER)

    def add(self, *rows: list[int], ends: dict[int, int] | None = None, ones: bool = False) -> None:
        """Add a frame with one row per request; `ends` maps a row to its reason; `ones` leaves out counts."""
        ends = ends or {}
        columns = TokenColumns(
            requests=self._names,
            counts=None if ones else np.array([len(row) for row in rows], np.uint32),
            tokens=np.array([token for row in rows for token in row], np.int32),
            finished_rows=np.array(list(ends), np.uint32),
            finish_reasons=np.array(list(ends.values()), np.uint8),
            produced_ns=0,
        )
        self.table.add_tokens(WORKER, columns, now_ns=2)

    @property
    def tokens(self) -> list[list[int]]:
        """The tokens received for each request, in order of the names."""
        slots = (self._names & np.uint64(0xFFFFFFFF)).astype(np.int64)
        return [self.table.answers(slots[i : i + 1])[1].tolist() for i in range(len(slots))]


@pytest.mark.parametrize(
    ("rows", "ends"),
    [
        ([[50]], {0: STOP}),
        ([[1, 60]], {0: STOP}),
        ([[1, 2, 3, 50]], {0: STOP}),
        # The last token that the budget allows may be any token, a stop id too.
        ([[1, 2, 3, 4]], {0: LENGTH}),
        ([[1, 2, 3, 50]], {0: LENGTH}),
        # An answer without a token is counted as an error elsewhere.
        ([[]], {0: STOP}),
        ([[1, 50], []], {0: STOP}),
        ([[1, 50], [60]], {0: STOP, 1: STOP}),
        ([[1], [2, 99]], {}),
    ],
)
def test_an_honest_end_passes(rows: list[list[int]], ends: dict[int, int]) -> None:
    """A stop id at the end, the whole budget, or no end."""
    answers = Answers(len(rows))
    answers.add(*rows, ends=ends)
    assert rows == answers.tokens


@pytest.mark.parametrize(
    ("before", "rows", "ends", "reason"),
    [
        ([[]], [[50, 1, 2, 3]], {0: LENGTH}, BEHIND),
        ([[]], [[50, 50]], {0: STOP}, BEHIND),
        ([[]], [[1, 60, 2, 50]], {0: STOP}, BEHIND),
        # The stop id came with an earlier frame, which did not end the answer.
        ([[1, 50]], [[2, 3]], {0: LENGTH}, BEHIND),
        ([[]], [[1, 2]], {0: STOP}, NO_STOP_ID),
        ([[]], [[50, 99]], {0: STOP}, BEHIND),
        ([[]], [[1, 2, 3]], {0: LENGTH}, SHORT.format(3)),
        ([[]], [[]], {0: LENGTH}, SHORT.format(0)),
        ([[]], [[50]], {}, BEGIN),
        ([[]], [[60, 1]], {}, BEGIN),
        ([[], []], [[50], [1, 50]], {1: STOP}, BEGIN),
        ([[], []], [[1], [50, 1, 2, 3]], {1: LENGTH}, BEHIND),
        ([[], []], [[1, 50], [2, 99]], {0: STOP, 1: STOP}, NO_STOP_ID),
        ([[1], [1, 2]], [[50], [50, 60]], {0: STOP, 1: STOP}, BEHIND),
    ],
)
def test_a_lie_about_an_end_is_refused(
    before: list[list[int]], rows: list[list[int]], ends: dict[int, int], reason: str
) -> None:
    """Tokens after a stop id, STOP on another token, LENGTH too early: nothing is stored."""
    answers = Answers(len(rows))
    answers.add(*before)
    with pytest.raises(FrameError, match=f"^{reason}$"):
        answers.add(*rows, ends=ends)
    assert before == answers.tokens
    assert sum(map(len, before)) == answers.table.num_tokens


def test_rows_of_one_token_are_checked_too() -> None:
    """Columns without counts: the last token of each row is its only one."""
    answers = Answers(2)
    answers.add([1], [2], ones=True)
    with pytest.raises(FrameError, match=NO_STOP_ID):
        answers.add([50], [3], ends={0: STOP, 1: STOP}, ones=True)
    answers.add([50], [3], ends={0: STOP}, ones=True)
    assert [[1, 50], [2, 3]] == answers.tokens


def test_a_model_without_stop_ids_never_ends_with_stop() -> None:
    """Without stop ids any token may stand anywhere, and STOP is always a lie."""
    answers = Answers(2, rules=AnswerRules(100, ()))
    answers.add([1, 99, 50, 60], [99], ends={0: LENGTH})
    with pytest.raises(FrameError, match=NO_STOP_ID):
        answers.add([], [99], ends={1: STOP})


@pytest.mark.parametrize("token", [100, -1, 2**31 - 1, -(2**31)])
def test_an_id_outside_the_vocabulary_is_refused(token: int) -> None:
    """As first token at once, anywhere else at the end of the answer."""
    outside = "^a token id outside the vocabulary of 100$"
    with pytest.raises(FrameError, match=outside):
        Answers(2).add([1], [token])
    for answer, reason in (([1, token, 2, 3], LENGTH), ([1, 2, 3, token], LENGTH), ([99, token, 50], STOP)):
        answers = Answers(1)
        answers.add(answer[:1])
        with pytest.raises(FrameError, match=outside):
            answers.add(answer[1:], ends={0: reason})


def test_answers_in_flight_are_cut_before_their_first_invalid_token() -> None:
    """Of four answers the first has none, the second two stop ids, the third one at its end, the last -1."""
    answers = Answers(4, budget=6)
    answers.add([1, 2], [3, 50, 4, 60, 5], [6, 60], [7, 8, -1, 50])
    slots = answers.table.held_by(WORKER)
    # 50, 4, 60, 5; 60; -1, 50.
    assert 7 == answers.table.cut_to_valid(slots)
    assert [[1, 2], [3], [6], [7, 8]] == answers.tokens
    assert 6 == answers.table.num_tokens
    assert 0 == answers.table.cut_to_valid(slots)
