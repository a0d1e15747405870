"""A lost worker's requests: they go on elsewhere, as prompt plus the tokens already received."""

from collections import deque
from collections.abc import Set
from typing import NamedTuple

import numpy as np

from coordinator.scheduling.request_rows import Slots
from coordinator.scheduling.request_table import RequestTable
from coordinator.transport.worker_link import WorkerLink
from protos.columns import PromptColumns, TokenColumns
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


class Failover:
    """Requests that have a slot and no worker; every method runs on the dispatcher thread."""

    def __init__(self, ledger: RequestTable, dataset: Dataset, max_new_tokens: int, max_losses: int) -> None:
        """Start without requests.

        Args:
            ledger: Where their tokens are.
            dataset: Where their prompts are.
            max_new_tokens: Budget of each.
            max_losses: At how many losses of one request the run fails.
        """
        self._max_losses = max_losses
        self._ledger = ledger
        self._dataset = dataset
        self._max_new_tokens = max_new_tokens
        self._waiting: deque[_Waiting] = deque()
        self.losses: list[Loss] = []
        self.done: list[Continuation] = []

    def __len__(self) -> int:
        """Count the requests that wait for a worker."""
        return len(self._waiting)

    def take_from(self, link: WorkerLink, slots: Slots, reason: str, at_ns: int) -> Slots:
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
        left, losses = slots[~complete].tolist(), (rows["losses"][~complete] + 1).tolist()
        self._waiting.extend(_Waiting(*pair, link.address) for pair in zip(left, losses, strict=True))
        return slots[complete]

    def next_fits(self, link: WorkerLink) -> bool:
        """Whether the next request may go to a worker."""
        return self._fits(self._waiting[0], link)

    def give(self, link: WorkerLink, num: int, now_ns: int, *, alone: bool) -> PromptColumns:
        """Hand up to `num` requests on to a worker, and compose what it must be sent.

        Each prompt is the original one and the tokens received; the budget is what remains of it. A request
        that fits no worker else may go to one that is `alone`.
        """
        taken: list[_Waiting] = []
        passed: list[_Waiting] = []
        while self._waiting and len(taken) < num:
            request = self._waiting.popleft()
            (taken if alone or self._fits(request, link) else passed).append(request)
        self._waiting.extendleft(reversed(passed))
        slots = np.array([request.slot for request in taken], np.int64)
        rows = self._ledger.rows(slots)
        self.done += [
            Continuation(
                int(row["sample"]), int(row["losses"]), int(row["num_tokens"]), request.origin, link.address
            )
            for row, request in zip(rows, taken, strict=True)
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

    def _fits(self, request: "_Waiting", link: WorkerLink) -> bool:
        """Whether a request may go to a worker: its last chance must be another one than the latest.

        A worker that is lost again and again would otherwise take the same requests along each time, until
        they look like what kills it.
        """
        return request.origin != link.address or request.losses < self._max_losses - 1


class _Waiting(NamedTuple):
    """A request without a worker."""

    slot: int
    losses: int
    origin: str
    """Address of the worker it was taken from."""


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
