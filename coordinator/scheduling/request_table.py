"""Every request in flight, as columns indexed by slot.

A frame costs a fixed handful of numpy calls, whatever it carries. Slots are reused; a slot's generation
tells its requests apart.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.request_rows import ROW, Finished, Slots
from coordinator.scheduling.token_arena import TokenArena
from protos.columns import (
    FrameError,
    Requests,
    TokenColumns,
    TokenIds,
    slots_of,
)

NO_WORKER = -1
_GENERATION, _WORKER = np.uint64(0xFFFFFFFF << 32), np.uint64(0xFFFFFFFF)
_NEXT_GENERATION = np.uint64(1 << 32)
_Scalar = TypeVar("_Scalar", bound=np.generic)


class Arrivals(NamedTuple):
    """What a frame means for LoadGen."""

    first_slots: Slots
    """Requests whose first token came."""
    finished_slots: Slots
    """Requests that are complete."""
    finish_reasons: NDArray[np.uint8]
    """Why, same shape as finished_slots."""
    prefilled_tokens: int
    """Prefill of the requests that answer for the first time on this worker."""


class RequestTable:
    """Struct of arrays over slots; every method runs on the dispatcher thread."""

    def __init__(self, max_new_tokens: int, num_slots: int = 1024, first_generation: int = 0) -> None:
        """Reserve memory.

        Args:
            max_new_tokens: Longest answer of the run, in tokens.
            num_slots: Slots at first; they double when they run out.
            first_generation: Below 2**32; drawn for each run, so that no run's names are another's.
        """
        self._max_new_tokens = max_new_tokens
        self._mark = np.zeros(num_slots, np.int64)
        self._rows = np.zeros(num_slots, ROW)
        # What every frame reads stands apart: a field of a row is a cache line of its own.
        self._first_holder = (np.uint64(first_generation) * _NEXT_GENERATION) | _WORKER
        self._holders = np.full(num_slots, self._first_holder)
        """worker | generation << 32, all ones for no worker."""
        self._num_tokens = np.zeros(num_slots, np.int64)
        self._loadgen_ids = np.zeros(num_slots, np.uint64)
        self._free = list(range(num_slots - 1, -1, -1))
        self._arena = TokenArena(max_new_tokens, num_slots)
        self._ended: list[int] = []  # slots whose answers nobody has taken yet
        self._finished = Finished(num_slots)
        self._num_resumed = 0
        """Requests that continue on another worker and have not answered there yet."""
        self.num_tokens = 0
        """Tokens received so far."""

    @property
    def done(self) -> NDArray[np.void]:
        """Finished requests in order of completion, dtype rows.DONE, shape (num_done,)."""
        return self._finished.rows

    @property
    def num_done(self) -> int:
        """Finished requests."""
        return self._finished.num_rows

    @property
    def num_untaken(self) -> int:
        """Finished requests whose answers `take_answers` has not given yet."""
        return len(self._ended)

    @property
    def num_running(self) -> int:
        """Requests in flight."""
        return len(self._rows) - len(self._free) - len(self._ended)

    def assign(
        self, ids: NDArray[np.uint64], worker: int, columns: dict[str, Slots]
    ) -> tuple[Slots, Requests]:
        """Give R requests a slot each.

        Args:
            ids: (R,) LoadGen's ids.
            worker: Who will produce them.
            columns: (R,) each: sample, prompt_len, issued_ns, sent_ns.

        Returns:
            Slots and request names, (R,) each.
        """
        while len(self._free) < len(ids):
            self._grow()
        slots = np.array([self._free.pop() for _ in range(len(ids))], np.int64)
        rows = np.zeros(len(ids), ROW)
        for name, column in columns.items():
            rows[name] = column
        rows["prefill_len"] = rows["prompt_len"]
        rows["given_ns"] = rows["sent_ns"]
        self._rows[slots] = rows
        self._hold(slots, worker)
        self._num_tokens[slots] = 0
        self._loadgen_ids[slots] = ids
        return slots, self.names(slots)

    def add_tokens(self, worker: int, columns: TokenColumns, now_ns: int) -> Arrivals:
        """Store a frame's tokens.

        Args:
            worker: Whose stream brought the frame.
            columns: Checked in themselves, not yet against this ledger.
            now_ns: When the frame came.

        Raises:
            FrameError: A request of another worker, one with two rows, or an answer beyond its budget.
        """
        slots = slots_of(columns.requests)
        self._check_rows(worker, columns.requests, slots)
        before = self._num_tokens[slots]
        after = before + (1 if columns.counts is None else columns.counts)
        if after.max(initial=0) > self._max_new_tokens:
            raise FrameError(f"worker {worker}: an answer beyond {self._max_new_tokens} tokens")
        self._arena.append(slots, before, columns.counts, columns.tokens)
        self._num_tokens[slots] = after
        self.num_tokens += len(columns.tokens)
        first_slots = slots[:0] if before.all() else slots[(before == 0) & (after > 0)]
        if len(first_slots):
            self._rows["first_ns"][first_slots] = now_ns
        finished_slots = slots[columns.finished_rows]
        prefilled_tokens = self._prefilled(first_slots) + self._prefilled(finished_slots)
        if self._num_resumed:
            prefilled_tokens += self._prefilled(slots[after > before])
        return Arrivals(first_slots, finished_slots, columns.finish_reasons, prefilled_tokens)

    def finish(self, slots: Slots, reasons: NDArray[np.uint8], now_ns: int) -> None:
        """Move requests from flight to the record of finished ones; their answers wait to be taken."""
        rows = self.rows(slots)
        rows["done_ns"] = now_ns
        rows["reason"] = reasons
        self._finished.add(rows)
        self._let_go(slots)
        self._ended += slots.tolist()

    def take_answers(self) -> tuple[Slots, Slots, TokenIds]:
        """Copy the answers of all requests that have finished since the last call, and free their slots.

        Returns:
            (R,) samples, (R,) counts, and (T,) tokens end to end.
        """
        slots = np.array(self._ended, np.int64)
        samples: Slots = self._rows["sample"][slots]
        answers = self.answers(slots)
        self._free += self._ended
        self._ended = []
        return samples, *answers

    def held_by(self, worker: int) -> Slots:
        """List the requests in flight on a worker."""
        return np.flatnonzero((self._holders & _WORKER) == worker)

    def held(self) -> tuple[Slots, Slots, Slots]:
        """List the requests that some worker has: slots, tokens received, when it got them; (R,) each."""
        slots = np.flatnonzero((self._holders & _WORKER) != _WORKER)
        return slots, self._num_tokens[slots], self._rows["given_ns"][slots]

    def in_flight(self) -> Slots:
        """List all requests in flight, those that no worker has included."""
        flying = np.ones(len(self._rows), np.bool_)
        flying[self._free + self._ended] = False
        return np.flatnonzero(flying)

    def names(self, slots: Slots) -> Requests:
        """Name requests as the wire does."""
        return slots.view(np.uint64) | (self._holders[slots] & _GENERATION)

    def rows(self, slots: Slots) -> NDArray[np.void]:
        """Copy what is known of requests, dtype ROW."""
        found: NDArray[np.void] = self._rows[slots]
        found["worker"] = self._holders[slots].astype(np.uint32).view(np.int32)
        found["num_tokens"] = self._num_tokens[slots]
        return found

    def take_away(self, slots: Slots) -> None:
        """Take requests from their worker; under their old names nothing more is accepted."""
        rows = self._rows[slots]
        resumed = (rows["prefill_len"] > 0) & (rows["losses"] > 0)
        self._num_resumed -= int(resumed.sum())
        rows["losses"] += 1
        rows["prefill_len"] = 0
        self._rows[slots] = rows
        self._let_go(slots)

    def hand_on(self, slots: Slots, worker: int, now_ns: int) -> Requests:
        """Give requests that were taken away to another worker, (R,); returns their new names."""
        rows = self._rows[slots]
        rows["prefill_len"] = rows["prompt_len"] + self._num_tokens[slots]
        rows["given_ns"] = now_ns
        self._rows[slots] = rows
        self._hold(slots, worker)
        self._num_resumed += len(slots)
        return self.names(slots)

    def answers(self, slots: Slots) -> tuple[Slots, TokenIds]:
        """Copy the tokens received of requests.

        Returns:
            (R,) counts, and (T,) tokens end to end.
        """
        counts: Slots = self._num_tokens[slots]
        return counts, self._arena.copy(slots, counts)

    def loadgen_ids(self, slots: Slots) -> list[int]:
        """List LoadGen's ids of slots."""
        ids: list[int] = self._loadgen_ids[slots].tolist()
        return ids

    def addresses(self, slots: Slots) -> list[int]:
        """List where the tokens of slots begin; valid until the next `assign`."""
        return self._arena.addresses(slots)

    def token_counts(self, slots: Slots) -> list[int]:
        """List the tokens received of slots."""
        counts: list[int] = self._num_tokens[slots].tolist()
        return counts

    def _prefilled(self, slots: Slots) -> int:
        """Note that requests have answered on their worker; returns what it had to prefill for them."""
        if not len(slots):
            return 0
        prefill_lens = self._rows["prefill_len"][slots]
        if self._num_resumed:
            self._num_resumed -= int(((prefill_lens > 0) & (self._rows["losses"][slots] > 0)).sum())
        self._rows["prefill_len"][slots] = 0
        return int(prefill_lens.sum())

    def _hold(self, slots: Slots, worker: int) -> None:
        self._holders[slots] = (self._holders[slots] & _GENERATION) | np.uint64(worker)

    def _let_go(self, slots: Slots) -> None:
        """Give slots to no worker, under their next names."""
        self._holders[slots] = (self._holders[slots] | _WORKER) + _NEXT_GENERATION

    def _check_rows(self, worker: int, requests: Requests, slots: Slots) -> None:
        try:
            holders = self._holders[slots]
        except IndexError:
            raise FrameError(f"worker {worker}: slot {slots.max()} of {len(self._rows)}") from None
        if (holders != ((requests & _GENERATION) | np.uint64(worker))).any():
            raise FrameError(f"worker {worker}: tokens of a request that it does not hold")
        order = np.arange(len(slots))
        self._mark[slots] = order
        if (self._mark[slots] != order).any():
            raise FrameError(f"worker {worker}: two rows of one request")

    def _grow(self) -> None:
        """Double the slots."""
        old = len(self._rows)
        self._arena.grow(2 * old)
        self._mark = np.zeros(2 * old, np.int64)
        self._rows = _doubled(self._rows)
        self._holders = _doubled(self._holders, self._first_holder)
        self._num_tokens = _doubled(self._num_tokens)
        self._loadgen_ids = _doubled(self._loadgen_ids)
        self._free[:0] = range(2 * old - 1, old - 1, -1)


def _doubled(column: NDArray[_Scalar], fill: int | np.uint64 = 0) -> NDArray[_Scalar]:
    return np.concatenate([column, np.full_like(column, fill)])
