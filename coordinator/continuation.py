"""A lost worker's requests: they go on elsewhere, as prompt plus the tokens already received."""

from collections import deque
from collections.abc import Set
from typing import NamedTuple

import numpy as np

from coordinator.ledger import Ledger, Slots
from coordinator.link import Link
from protos.frames import PromptColumns, TokenColumns
from sut.dataset import Dataset


class Loss(NamedTuple):
    """A worker that was lost, or from which requests were taken."""

    address: str
    at_ns: int
    """Coordinator's monotonic clock."""
    reason: str
    requests: int
    """Requests that it had not finished."""
    kept_tokens: int
    """Tokens received of them: none is asked for again."""
    resent_tokens: int
    """Prompt and kept tokens, which another worker has to prefill."""


class Continuation(NamedTuple):
    """A request on its way from one worker to another."""

    sample: int
    losses: int
    """How many workers it was taken from so far."""
    kept_tokens: int
    from_worker: str
    to_worker: str


class Continuations:
    """Requests that have a slot and no worker; every method runs on the dispatcher thread."""

    def __init__(self, ledger: Ledger, dataset: Dataset, max_new_tokens: int) -> None:
        self._ledger = ledger
        self._dataset = dataset
        self._max_new_tokens = max_new_tokens
        self._waiting: deque[tuple[int, str]] = deque()
        self.losses: list[Loss] = []
        self.done: list[Continuation] = []

    def __len__(self) -> int:
        """Count the requests that wait for a worker."""
        return len(self._waiting)

    def take_from(self, link: Link, slots: Slots, reason: str, at_ns: int) -> Slots:
        """Take requests from a worker; they wait for another one.

        Returns:
            Those of the requests, (C,), that lack nothing but word of their end: their budget is used up.
        """
        rows = self._ledger.rows(slots)
        complete = rows["num_tokens"] >= self._max_new_tokens
        kept_tokens = int(rows["num_tokens"].sum())
        resent_tokens = int((rows["prompt_len"] + rows["num_tokens"])[~complete].sum())
        self.losses.append(Loss(link.address, at_ns, reason, len(slots), kept_tokens, resent_tokens))
        self._ledger.take_away(slots)
        self._waiting.extend((slot, link.address) for slot in slots[~complete].tolist())
        return slots[complete]

    def give(self, link: Link, num: int, now_ns: int) -> PromptColumns:
        """Hand the next `num` requests on to a worker, and compose what it must be sent.

        Each prompt is the original one and the tokens received; the budget is what remains of it.
        """
        taken = [self._waiting.popleft() for _ in range(num)]
        slots = np.array([slot for slot, _ in taken], np.int64)
        rows = self._ledger.rows(slots)
        self.done += [
            Continuation(int(row["sample"]), int(row["losses"]), int(row["num_tokens"]), origin, link.address)
            for row, (_, origin) in zip(rows, taken, strict=True)
        ]
        names = self._ledger.hand_on(slots, link.index, now_ns)
        prompt_lens, prompts = self._dataset.gather(rows["sample"])
        counts, answers = self._ledger.answers(slots)
        return PromptColumns(
            requests=names,
            prompt_lens=(prompt_lens + counts).astype(np.uint32),
            prompt_tokens=interleave(prompts, prompt_lens.astype(np.int64), answers, counts),
            max_new_tokens=(self._max_new_tokens - counts).astype(np.uint32),
            produced=counts.astype(np.uint32),
        )


def interleave(
    prompts: np.ndarray[tuple[int], np.dtype[np.int32]],
    prompt_lens: Slots,
    answers: np.ndarray[tuple[int], np.dtype[np.int32]],
    answer_lens: Slots,
) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Put each answer behind its prompt.

    Args:
        prompts: (P,) end to end.
        prompt_lens: (R,), their sum is P.
        answers: (A,) end to end.
        answer_lens: (R,), their sum is A.

    Returns:
        (P + A,) prompt, answer, prompt, answer.
    """
    lens = np.stack([prompt_lens, answer_lens], axis=1).ravel()
    is_answer = np.repeat(np.tile([False, True], len(prompt_lens)), lens)
    joined = np.empty(len(prompts) + len(answers), np.int32)
    joined[~is_answer] = prompts
    joined[is_answer] = answers
    return joined


def without(columns: TokenColumns, names: Set[int]) -> tuple[TokenColumns, int]:
    """Leave out the rows of requests that were moved to another worker.

    Returns:
        The other rows, and how many tokens were left out.
    """
    keep = ~np.isin(columns.requests, np.fromiter(names, np.uint64, len(names)))
    if keep.all():
        return columns, 0
    counts = np.ones(len(keep), np.uint32) if columns.counts is None else columns.counts
    kept_tokens = columns.tokens[np.repeat(keep, counts)]
    new_rows = np.cumsum(keep) - 1
    ends = keep[columns.finished_rows]
    left = columns._replace(
        requests=columns.requests[keep],
        counts=counts[keep],
        tokens=kept_tokens,
        finished_rows=new_rows[columns.finished_rows[ends]].astype(np.uint32),
        finish_reasons=columns.finish_reasons[ends],
    )
    return left, len(columns.tokens) - len(kept_tokens)
