"""Requests of lost workers: continued on another worker, as prompt plus the tokens already received."""

from collections import deque
from typing import NamedTuple

import numpy as np

from coordinator.scheduling.request_columns import Slots, TokenCounts
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.worker_load import WorkerLoad
from protos.columns import PromptColumns, TokenIds
from sut.dataset import Dataset


class Loss(NamedTuple):
    """The loss of a worker, or requests that were taken from a live one."""

    address: str
    at_ns: int
    """Coordinator's monotonic clock."""
    reason: str
    requests: int
    """Unfinished requests that it had."""
    kept_tokens: int
    """Tokens received of these; they are not generated again."""
    resent_tokens: int
    """Prompt and kept tokens that other workers must prefill."""


class Continuation(NamedTuple):
    """A request that moved from one worker to another."""

    sample: int
    losses: int
    """Times it was taken from a worker so far."""
    kept_tokens: int
    from_worker: str
    to_worker: str


class WaitingRequest(NamedTuple):
    """A request that waits for a worker."""

    slot: int
    losses: int
    origin: str
    """Address of the worker it was taken from."""


class Failover:
    """Requests that have a slot and no worker; every method runs on the event loop's thread."""

    def __init__(self, table: RequestTable, dataset: Dataset, max_new_tokens: int, max_losses: int) -> None:
        """Start without requests.

        Args:
            table: Holds their tokens.
            dataset: Holds their prompts.
            max_new_tokens: Budget of each request.
            max_losses: Losses of one request at which the run fails.
        """
        self._max_losses = max_losses
        self._table = table
        self._dataset = dataset
        self._max_new_tokens = max_new_tokens
        self.waiting: deque[WaitingRequest] = deque()
        """Requests without a worker; changed by this class alone."""
        self.losses: list[Loss] = []
        self.done: list[Continuation] = []

    def __len__(self) -> int:
        """Count the requests that wait for a worker."""
        return len(self.waiting)

    def take_from(self, worker: WorkerLoad, slots: Slots, reason: str, at_ns: int) -> Slots:
        """Take requests from a worker; they then wait for another one.

        Returns:
            Those of the requests, (C,), whose budget is used up: complete, but the end was not received.
        """
        rows = self._table.rows(slots)
        complete = rows["num_tokens"] >= self._max_new_tokens
        kept_tokens = int(rows["num_tokens"].sum())
        resent_tokens = int((rows["prompt_len"] + rows["num_tokens"])[~complete].sum())
        self.losses.append(Loss(worker.address, at_ns, reason, len(slots), kept_tokens, resent_tokens))
        self._table.take_away(slots)
        left, losses = slots[~complete].tolist(), (rows["losses"][~complete] + 1).tolist()
        self.waiting.extend(WaitingRequest(*pair, worker.address) for pair in zip(left, losses, strict=True))
        return slots[complete]

    def next_fits(self, worker: WorkerLoad) -> bool:
        """Whether the next request may go to a worker."""
        return self._fits(self.waiting[0], worker)

    def give(self, worker: WorkerLoad, num: int, now_ns: int, *, alone: bool) -> PromptColumns:
        """Hand up to `num` requests to a worker, and compose the prompts to send.

        Each prompt is the original one plus the tokens received; the budget is the remaining one. A worker
        that is `alone` also gets requests that should go to another one.
        """
        taken: list[WaitingRequest] = []
        passed: list[WaitingRequest] = []
        while self.waiting and len(taken) < num:
            request = self.waiting.popleft()
            (taken if alone or self._fits(request, worker) else passed).append(request)
        self.waiting.extendleft(reversed(passed))
        slots = np.array([request.slot for request in taken], np.int64)
        rows = self._table.rows(slots)
        self.done += [
            Continuation(
                int(row["sample"]), int(row["losses"]), int(row["num_tokens"]), request.origin, worker.address
            )
            for row, request in zip(rows, taken, strict=True)
        ]
        names = self._table.hand_on(slots, worker.index, now_ns)
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
        """Whether a request may go to a worker: its last attempt must not be on the worker it was taken from.

        A worker that is lost repeatedly would otherwise get the same requests each time, until these look
        like the cause.
        """
        return request.origin != worker.address or request.losses < self._max_losses - 1


def interleave(
    prompts: TokenIds,
    prompt_lens: TokenCounts,
    answers: TokenIds,
    answer_lens: TokenCounts,
) -> TokenIds:
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
