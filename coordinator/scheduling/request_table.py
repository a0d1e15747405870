"""All requests in flight as columns indexed by slot, and the records of finished requests.

A frame costs a fixed number of numpy calls, however many rows it has; a frame of one row costs a few integer
operations instead. Slots are reused; a slot's generation distinguishes its requests.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.answer_buffer import AnswerBuffer
from coordinator.scheduling.request_columns import (
    DONE,
    FACTS,
    ROW,
    Arrivals,
    NewRequests,
    Reportable,
    Slots,
    TimesNs,
    TokenCounts,
    counting_numbers,
)
from coordinator.scheduling.token_arena import TokenArena
from protos.columns import SLOT_MASK, AnswerRules, FrameError, RequestNames, TokenColumns, TokenIds, slots_of

NO_WORKER = -1
GENERATION_BITS = 32
_GENERATION_MASK = SLOT_MASK << GENERATION_BITS
_GENERATION, _WORKER = np.uint64(_GENERATION_MASK), np.uint64(SLOT_MASK)
_ONE_GENERATION = 1 << GENERATION_BITS


class FinishedRequests:
    """Finished requests in order of completion."""

    def __init__(self, num_rows: int) -> None:
        """Reserve rows; the capacity doubles when they run out."""
        self._rows = np.zeros(num_rows, DONE)
        self.num_rows = 0

    @property
    def rows(self) -> NDArray[np.void]:
        """Dtype DONE, shape (num_rows,)."""
        return self._rows[: self.num_rows]

    def add(self, row: tuple[int, ...]) -> None:
        """Append one request, its fields in the order of DONE."""
        if self.num_rows == len(self._rows):
            # The kernel does not allocate zeroed pages before they are written.
            grown = np.zeros(2 * len(self._rows), DONE)
            grown[: self.num_rows] = self._rows
            self._rows = grown
        self._rows[self.num_rows] = row
        self.num_rows += 1


class RequestTable:
    """Columns over slots; every method runs on the event loop's thread."""

    def __init__(
        self,
        max_new_tokens: int,
        num_slots: int = 1024,
        first_generation: int = 0,
        rules: AnswerRules | None = None,
    ) -> None:
        """Reserve memory.

        Args:
            max_new_tokens: Longest answer of the run, in tokens.
            num_slots: Initial number of slots; doubles when they run out.
            first_generation: Below 2**32; random per run, so that two runs do not share request names.
            rules: How answers may end; None: any way.
        """
        self._rules = rules
        self._max_new_tokens = max_new_tokens
        self._num_slots = num_slots
        self._unheld = (first_generation << GENERATION_BITS) | SLOT_MASK
        self._holders = np.full(num_slots, self._unheld, np.uint64)
        """worker | generation << 32; without a worker all lower bits are set."""
        self._loadgen_ids = np.zeros(num_slots, np.uint64)
        self._facts = {name: np.zeros(num_slots, kind) for name, kind in FACTS.items()}
        self._name_columns()
        self._row_marks = np.zeros(num_slots, np.int64)
        self._free = list(range(num_slots - 1, -1, -1))
        self._arena = TokenArena(max_new_tokens, num_slots)
        self._answers = AnswerBuffer(max_new_tokens)
        self._finished = FinishedRequests(num_slots)
        self._num_resumed = 0
        """Requests resubmitted to another worker that have not returned a token there yet."""
        self.num_tokens = 0

    def _name_columns(self) -> None:
        """Bind the columns to attributes: a dictionary lookup costs as much as the access itself."""
        facts = self._facts
        self._samples, self._losses, self._queries = facts["sample"], facts["losses"], facts["query"]
        self._prompt_lens, self._prefill_lens = facts["prompt_len"], facts["prefill_len"]
        self._num_tokens, self._given_tokens = facts["num_tokens"], facts["given_tokens"]
        self._stalled_losses = facts["stalled_losses"]
        self._issued_ns, self._sent_ns = facts["issued_ns"], facts["sent_ns"]
        self._given_ns, self._first_ns = facts["given_ns"], facts["first_ns"]

    @property
    def max_new_tokens(self) -> int:
        """Longest answer of the run, in tokens."""
        return self._max_new_tokens

    @property
    def done(self) -> NDArray[np.void]:
        """Finished requests in order of completion, dtype DONE, shape (num_done,)."""
        return self._finished.rows

    @property
    def num_done(self) -> int:
        """Number of finished requests."""
        return self._finished.num_rows

    @property
    def num_untaken(self) -> int:
        """Finished requests whose answers nobody has taken yet."""
        return len(self._answers)

    @property
    def num_in_flight(self) -> int:
        """Number of requests in flight."""
        return self._num_slots - len(self._free)

    def assign(self, requests: NewRequests, worker: int) -> RequestNames:
        """Assign a slot and a worker to R requests; returns their names, (R,)."""
        num = len(requests.loadgen_ids)
        while len(self._free) < num:
            self._grow()
        slots = np.array([self._free.pop() for _ in range(num)], np.int64)
        self._loadgen_ids[slots] = requests.loadgen_ids
        self._queries[slots], self._samples[slots] = requests.queries, requests.samples
        self._prompt_lens[slots] = self._prefill_lens[slots] = requests.prompt_lens
        self._issued_ns[slots] = requests.issued_ns
        self._sent_ns[slots] = self._given_ns[slots] = requests.sent_ns
        self._losses[slots] = self._num_tokens[slots] = self._first_ns[slots] = 0
        self._stalled_losses[slots] = self._given_tokens[slots] = 0
        self._hold(slots, worker)
        return self.names(slots)

    def assign_one(
        self, issued: tuple[int, int, int, int], worker: int, prompt_len: int, sent_ns: int
    ) -> int:
        """Assign a slot and a worker to one request, a row of IssuedRequests; returns its name."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._loadgen_ids[slot], self._samples[slot], self._issued_ns[slot], self._queries[slot] = issued
        self._prompt_lens[slot] = self._prefill_lens[slot] = prompt_len
        self._sent_ns[slot] = self._given_ns[slot] = sent_ns
        self._losses[slot] = self._num_tokens[slot] = self._first_ns[slot] = 0
        self._stalled_losses[slot] = self._given_tokens[slot] = 0
        generation: int = self._holders.item(slot) & _GENERATION_MASK
        self._holders[slot] = generation | worker
        return generation | slot

    def add_tokens(self, worker: int, columns: TokenColumns, now_ns: int) -> Arrivals:
        """Store the tokens of a frame.

        Args:
            worker: Worker that sent the frame.
            columns: Valid in themselves; checked here against the table.
            now_ns: When the frame arrived.

        Raises:
            FrameError: A request is not on this worker, has two rows, exceeds its budget, or begins or ends
                against the rules; then the table is unchanged.
        """
        if len(columns.requests) == 1:
            return self._add_row(worker, columns, now_ns)
        slots = slots_of(columns.requests)
        self._check_rows(worker, columns.requests, slots)
        before = self._num_tokens[slots]
        lens = None if columns.counts is None else columns.counts.astype(np.int64)
        after: TokenCounts = before + 1 if lens is None else before + lens
        # argmax and count_nonzero cost half of a reduction, and they do not release the interpreter lock.
        if len(after) and after.item(after.argmax()) > self._max_new_tokens:
            raise self._overrun(worker)
        self._arena.append(slots, before, lens, columns.tokens)
        is_new = np.count_nonzero(before) < len(before)
        firsts: list[int] = slots[(before == 0) & (after > 0)].tolist() if is_new else []
        ends = columns.finished_rows.tolist()
        finished = [*map(slots.item, ends)]
        reasons: list[int] = columns.finish_reasons.tolist()
        if (firsts or finished) and self._rules is not None:
            lengths = zip(map(after.item, ends), reasons, strict=True)
            self._check_answers(self._rules, firsts, dict(zip(finished, lengths, strict=True)))
        self._num_tokens[slots] = after
        self.num_tokens += len(columns.tokens)
        for slot in firsts:
            self._first_ns[slot] = now_ns
        changed = firsts + finished
        prefilled_tokens = self._take_prefill(changed)
        if self._num_resumed:
            prefilled_tokens += self._take_prefill(slots[after > before].tolist())
        return Arrivals(firsts, finished, reasons, prefilled_tokens, [*map(self._queries.item, changed)])

    def _add_row(self, worker: int, columns: TokenColumns, now_ns: int) -> Arrivals:
        """Store a frame of one request with integer operations; otherwise like `add_tokens`."""
        name = columns.requests.item()
        slot = name & SLOT_MASK
        if slot >= self._num_slots:
            raise self._beyond(worker, slot)
        if self._holders.item(slot) != (name & _GENERATION_MASK) | worker:
            raise self._not_held(worker)
        num_new = len(columns.tokens)
        before = self._num_tokens.item(slot)
        after = before + num_new
        if after > self._max_new_tokens:
            raise self._overrun(worker)
        self._arena.append_row(slot, before, columns.tokens)
        reasons: list[int] = columns.finish_reasons.tolist()
        first_slots = [slot] if not before and num_new else []
        if (first_slots or reasons) and self._rules is not None:
            ends = {slot: (after, reasons[0])} if reasons else {}
            self._check_answers(self._rules, first_slots, ends)
        self._num_tokens[slot] = after
        self.num_tokens += num_new
        if first_slots:
            self._first_ns[slot] = now_ns
        prefilled_tokens = 0
        if (num_new or reasons) and (prefilled_tokens := self._prefill_lens.item(slot)):
            self._prefill_lens[slot] = 0
            self._num_resumed -= bool(self._num_resumed and self._losses.item(slot))
        queries = [self._queries.item(slot)] * (len(first_slots) + len(reasons))
        return Arrivals(first_slots, [slot] if reasons else [], reasons, prefilled_tokens, queries)

    def finish(self, slots: Sequence[int], reasons: Sequence[int], now_ns: int) -> None:
        """Move requests to the finished records; their answers are copied, and their slots are free."""
        for slot, reason in zip(slots, reasons, strict=True):
            holder = self._holders.item(slot)
            worker = holder & SLOT_MASK
            sample, num_tokens = self._samples.item(slot), self._num_tokens.item(slot)
            row = (
                sample,
                NO_WORKER if worker == SLOT_MASK else worker,
                reason,
                self._losses.item(slot),
                self._prompt_lens.item(slot),
                num_tokens,
                self._issued_ns.item(slot),
                self._sent_ns.item(slot),
                self._first_ns.item(slot),
                now_ns,
                self._queries.item(slot),
            )
            self._finished.add(row)
            self._answers.add(sample, self._arena.tokens(slot, num_tokens))
            self._holders[slot] = (holder + _ONE_GENERATION & _GENERATION_MASK) | SLOT_MASK
        self._free += slots

    def take_answers(self) -> tuple[NDArray[np.int64], TokenCounts, TokenIds]:
        """Return the answers of all requests that finished since the last call.

        Returns:
            (R,) samples, (R,) token counts, and (T,) concatenated tokens.
        """
        return self._answers.take()

    def held_by(self, worker: int) -> Slots:
        """Return the requests on a worker."""
        return np.flatnonzero((self._holders & _WORKER) == worker)

    def held(self) -> tuple[Slots, TokenCounts, TimesNs]:
        """Return the requests on workers: slots, tokens received, time of assignment; (R,) each."""
        slots = np.flatnonzero((self._holders & _WORKER) != _WORKER)
        return slots, self._num_tokens[slots], self._given_ns[slots]

    def in_flight(self) -> Slots:
        """Return all requests in flight, including those without a worker."""
        flying = np.ones(self._num_slots, np.bool_)
        flying[self._free] = False
        return np.flatnonzero(flying)

    def names(self, slots: Slots) -> RequestNames:
        """Return the names, (R,), of requests on the wire."""
        return slots.view(np.uint64) | (self._holders[slots] & _GENERATION)

    def rows(self, slots: Slots) -> NDArray[np.void]:
        """Copy the rows of requests, dtype ROW."""
        found = np.zeros(len(slots), ROW)
        for name, column in self._facts.items():
            found[name] = column[slots]
        found["worker"] = self._holders[slots].astype(np.uint32).view(np.int32)
        return found

    def unassign(self, slots: Slots) -> None:
        """Remove requests from their worker; tokens under their old names are refused from now on."""
        resumed = (self._prefill_lens[slots] > 0) & (self._losses[slots] > 0)
        self._num_resumed -= int(resumed.sum())
        self._losses[slots] += 1
        stalled = self._num_tokens[slots] == self._given_tokens[slots]
        self._stalled_losses[slots] = (self._stalled_losses[slots] + 1) * stalled
        self._prefill_lens[slots] = 0
        self._holders[slots] = (self._holders[slots] | _WORKER) + np.uint64(_ONE_GENERATION)

    def reassign(self, slots: Slots, worker: int, now_ns: int) -> RequestNames:
        """Assign requests without a worker to another one; returns their new names, (R,)."""
        self._prefill_lens[slots] = self._prompt_lens[slots] + self._num_tokens[slots]
        self._given_ns[slots], self._given_tokens[slots] = now_ns, self._num_tokens[slots]
        self._hold(slots, worker)
        self._num_resumed += len(slots)
        return self.names(slots)

    def cut_to_valid(self, slots: Slots) -> int:
        """Cut answers in flight before their first token that none can have; returns the tokens cut off."""
        counts, tokens = self.answers(slots)
        lens = counts if self._rules is None else self._rules.valid_lens(counts, tokens)
        self._num_tokens[slots] = lens
        self.num_tokens -= (num_cut := int((counts - lens).sum()))
        return num_cut

    def answers(self, slots: Slots) -> tuple[TokenCounts, TokenIds]:
        """Copy the tokens received for requests.

        Returns:
            (R,) token counts, and (T,) concatenated tokens.
        """
        counts: TokenCounts = self._num_tokens[slots]
        return counts, self._arena.copy(slots, counts)

    def reportable(self, slots: Sequence[int]) -> Reportable:
        """Return requests as arguments of LoadGen's calls."""
        ids, counts = self._loadgen_ids.item, self._num_tokens.item
        return Reportable(list(map(ids, slots)), self._arena.addresses(slots), list(map(counts, slots)))

    def _check_answers(
        self, rules: AnswerRules, first_slots: list[int], ends: dict[int, tuple[int, int]]
    ) -> None:
        """Check answers that begin or end in a frame, before they count; ends: lengths and reasons."""
        for slot, (num_tokens, reason) in ends.items():
            rules.check_end(self._arena.row(slot, num_tokens), reason, self._max_new_tokens)
        for slot in first_slots:
            if slot not in ends:
                rules.check_first(self._arena.row(slot, 1).item())

    def _take_prefill(self, slots: Sequence[int]) -> int:
        """Mark the prefill of requests as ended; returns the number of tokens prefilled."""
        total = 0
        for slot in slots:
            if num_tokens := self._prefill_lens.item(slot):
                total += num_tokens
                self._prefill_lens[slot] = 0
                self._num_resumed -= bool(self._num_resumed and self._losses.item(slot))
        return total

    def _hold(self, slots: Slots, worker: int) -> None:
        self._holders[slots] = (self._holders[slots] & _GENERATION) | np.uint64(worker)

    def _check_rows(self, worker: int, names: RequestNames, slots: Slots) -> None:
        try:
            holders = self._holders[slots]
        except IndexError:
            raise self._beyond(worker, int(slots.max())) from None
        expected = names & _GENERATION
        expected |= np.uint64(worker)
        # Bytes are compared at a fraction of the cost of an array of booleans and its reduction.
        if holders.tobytes() != expected.tobytes():
            raise self._not_held(worker)
        # The last row of a request overwrites the marks of its earlier ones.
        order = counting_numbers(len(slots))
        self._row_marks[slots] = order
        if self._row_marks[slots].tobytes() != order.tobytes():
            raise FrameError(f"worker {worker}: two rows of one request")

    def _beyond(self, worker: int, slot: int) -> FrameError:
        return FrameError(f"worker {worker}: slot {slot} of {self._num_slots}")

    def _not_held(self, worker: int) -> FrameError:
        return FrameError(f"worker {worker}: tokens of a request that it does not hold")

    def _overrun(self, worker: int) -> FrameError:
        return FrameError(f"worker {worker}: an answer beyond {self._max_new_tokens} tokens")

    def _grow(self) -> None:
        """Double the number of slots.

        Raises:
            MemoryError: There is no memory for them; the table is unchanged.
        """
        old = self._num_slots
        holders = np.concatenate([self._holders, np.full(old, self._unheld, np.uint64)])
        loadgen_ids, row_marks = _doubled(self._loadgen_ids), np.zeros(2 * old, np.int64)
        facts = {name: _doubled(column) for name, column in self._facts.items()}
        self._arena.grow(2 * old)
        self._free[:0] = range(2 * old - 1, old - 1, -1)
        self._holders, self._loadgen_ids, self._row_marks = holders, loadgen_ids, row_marks
        self._facts = facts
        self._name_columns()
        self._num_slots = 2 * old


def _doubled(column: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([column, np.zeros_like(column)])
