"""Failover: resubmit requests of a lost worker to another one, as prompt plus the tokens received."""

from collections import deque
from typing import NamedTuple

import numpy as np

from coordinator.scheduling.prompt_source import PromptSource
from coordinator.scheduling.request_columns import Slots, TokenCounts
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.worker_load import WorkerLoad
from protos.columns import PromptColumns, TokenIds


class Loss(NamedTuple):
    """Loss of a worker, or removal of requests from a live one."""

    address: str
    at_ns: int
    """Coordinator's monotonic clock."""
    reason: str
    requests: int
    """Number of unfinished requests that the worker had."""
    kept_tokens: int
    """Tokens already received for these requests; they are not generated again."""
    resent_tokens: int
    """Prompt and kept tokens that other workers must prefill."""
    is_move: bool = False
    """Whether the worker went on: only these requests were taken from it."""


class Continuation(NamedTuple):
    """A request that moved from one worker to another."""

    sample: int
    losses: int
    """How often the request has lost its worker so far."""
    kept_tokens: int
    from_worker: str
    to_worker: str
    at_ns: int
    """When it was sent to the other worker, by the coordinator's monotonic clock."""


class WaitingRequest(NamedTuple):
    """A request that waits for a new worker."""

    slot: int
    stalled_losses: int
    """How often in a row it lost its worker without a new token."""
    origin: str
    """Address of its previous worker."""


class Failover:
    """Requests that have lost their worker; every method runs on the event loop's thread."""

    def __init__(
        self, table: RequestTable, dataset: PromptSource, max_new_tokens: int, max_losses: int
    ) -> None:
        """Start without requests.

        Args:
            table: Holds the received tokens.
            dataset: Holds the prompts.
            max_new_tokens: Token budget of each request.
            max_losses: The run fails when a request has lost its worker this many times without a new token.
        """
        self._max_losses = max_losses
        self._table = table
        self._dataset = dataset
        self._max_new_tokens = max_new_tokens
        self.waiting: deque[WaitingRequest] = deque()
        """Requests without a worker; only this class changes it."""
        self.losses: list[Loss] = []
        self.continuations: list[Continuation] = []

    @property
    def num_losses(self) -> int:
        """How often a worker was lost."""
        return sum(not loss.is_move for loss in self.losses)

    def __len__(self) -> int:
        """Return the number of requests that wait for a worker."""
        return len(self.waiting)

    def take_from(
        self, worker: WorkerLoad, slots: Slots, reason: str, at_ns: int, *, is_move: bool = False
    ) -> Slots:
        """Remove requests from a worker and queue them for another one.

        A stop id or an id outside the vocabulary is dropped with all tokens behind it: the worker was wrong.

        Returns:
            (C,) the requests that have used up their budget: they are complete, although the worker did not
            report their end.
        """
        worker.drop(self._table.cut_to_valid(slots))
        rows = self._table.rows(slots)
        complete = rows["num_tokens"] >= self._max_new_tokens
        kept_tokens = int(rows["num_tokens"].sum())
        resent_tokens = int((rows["prompt_len"] + rows["num_tokens"])[~complete].sum())
        self.losses.append(
            Loss(worker.address, at_ns, reason, len(slots), kept_tokens, resent_tokens, is_move)
        )
        self._table.unassign(slots)
        left = slots[~complete]
        stalled_losses = self._table.rows(left)["stalled_losses"].tolist()
        pairs = zip(left.tolist(), stalled_losses, strict=True)
        self.waiting.extend(WaitingRequest(*pair, worker.address) for pair in pairs)
        return slots[complete]

    def next_fits(self, worker: WorkerLoad) -> bool:
        """Return whether the next request may be sent to a worker."""
        return self._fits(self.waiting[0], worker)

    def give(self, worker: WorkerLoad, num: int, now_ns: int, *, alone: bool) -> PromptColumns:
        """Assign up to `num` requests to a worker and return the prompts to send.

        Each prompt is the original prompt plus the tokens received, with the remaining budget. If `alone`, no
        other worker is available: the worker then also gets requests that should avoid it.
        """
        taken: list[WaitingRequest] = []
        passed: list[WaitingRequest] = []
        while self.waiting and len(taken) < num:
            request = self.waiting.popleft()
            (taken if alone or self._fits(request, worker) else passed).append(request)
        self.waiting.extendleft(reversed(passed))
        slots = np.array([request.slot for request in taken], np.int64)
        rows = self._table.rows(slots)
        self.continuations += [
            Continuation(
                sample=int(row["sample"]),
                losses=int(row["losses"]),
                kept_tokens=int(row["num_tokens"]),
                from_worker=request.origin,
                to_worker=worker.address,
                at_ns=now_ns,
            )
            for row, request in zip(rows, taken, strict=True)
        ]
        names = self._table.reassign(slots, worker.index, now_ns)
        prompt_lens, prompts = self._dataset.gather(rows["sample"])
        counts, answers = self._table.answers(slots)
        return PromptColumns(
            requests=names,
            prompt_lens=(prompt_lens + counts).astype(np.uint32),
            prompt_tokens=interleave(prompts, prompt_lens.astype(np.int64), answers, counts),
            max_new_tokens=(self._max_new_tokens - counts).astype(np.uint32),
            produced=counts.astype(np.uint32),
        )

    def _fits(self, request: WaitingRequest, worker: WorkerLoad) -> bool:
        """Return whether a request may go to a worker: not back to its previous one for its last attempt.

        Otherwise a worker that fails repeatedly could get the same requests each time, and the run would fail
        as if they were the cause.
        """
        return request.origin != worker.address or request.stalled_losses < self._max_losses - 1


def interleave(
    prompts: TokenIds,
    prompt_lens: TokenCounts,
    answers: TokenIds,
    answer_lens: TokenCounts,
) -> TokenIds:
    """Append each answer to its prompt.

    Args:
        prompts: (P,) concatenated.
        prompt_lens: (R,), with sum P.
        answers: (A,) concatenated.
        answer_lens: (R,), with sum A.

    Returns:
        (P + A,) prompt, answer, prompt, answer.
    """
    lens = np.stack([prompt_lens, answer_lens], axis=1).ravel()
    is_answer = np.repeat(np.tile([False, True], len(prompt_lens)), lens)
    joined = np.empty(len(prompts) + len(answers), np.int32)
    joined[~is_answer] = prompts
    joined[is_answer] = answers
    return joined
