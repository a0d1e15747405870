"""The requests in an engine that loads a model, and the conversion of its steps to columns."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain

import numpy as np

from protos.columns import TokenColumns
from worker.engine_protocol import Load, Step, step_times


class EngineRequests:
    """Requests by the engine's id. Ids are unique per process, names only per run."""

    def __init__(self) -> None:
        """Create an empty table."""
        self.names: dict[str, int] = {}
        """By id. Others only read it: a method call per token would cost more."""
        self.budgets: dict[str, int] = {}
        """Longest answers in tokens, by id. Others only read it."""
        self._waiting: set[str] = set()
        self._num_added = 0

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        return Load(len(self.names) - len(self._waiting), len(self._waiting))

    def add(self, name: int, budget: int) -> str:
        """Add a request and return its id, which is not the beginning of another id."""
        self._num_added += 1
        request_id = f"{self._num_added}-{name}"
        self.names[request_id] = name
        self.budgets[request_id] = budget
        self._waiting.add(request_id)
        return request_id

    def drop(self, names: Collection[int]) -> list[str]:
        """Remove requests by name; returns the ids of the requests removed."""
        ids = [request_id for request_id, name in self.names.items() if name in names]
        self._remove(ids)
        return ids

    def drop_all(self) -> list[str]:
        """Remove all requests; returns their ids."""
        ids = list(self.names)
        self._remove(ids)
        return ids

    def first_token_rows(self, ids: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[int]:
        """Return the rows of a step with the first tokens of their request."""
        waiting = self._waiting
        if waiting.isdisjoint(ids):
            return []
        return [row for row, request_id in enumerate(ids) if request_id in waiting and tokens[row]]

    def take_step(
        self,
        ids: Sequence[str],
        tokens: Sequence[Sequence[int]],
        admitted_ns: Mapping[int, int],
        ends: Mapping[int, int],
        produced_ns: int,
    ) -> Step:
        """Convert a step of R requests to columns, and remove the requests that it finishes.

        Args:
            ids: (R,) ids of the table, R >= 1.
            tokens: (R,) new tokens of each.
            admitted_ns: When the engine began their prefill, 0 if unknown, by row of first_token_rows.
            ends: Finish reasons by row; the keys of both mappings ascend.
            produced_ns: When the outputs arrived.
        """
        counts = np.fromiter(map(len, tokens), np.uint32, len(ids))
        columns = TokenColumns(
            requests=np.fromiter(map(self.names.__getitem__, ids), np.uint64, len(ids)),
            counts=None if (counts == 1).all() else counts,
            tokens=np.fromiter(chain.from_iterable(tokens), np.int32, int(counts.sum())),
            finished_rows=np.fromiter(ends, np.uint32, len(ends)),
            finish_reasons=np.fromiter(ends.values(), np.uint8, len(ends)),
            produced_ns=produced_ns,
            times=step_times([*admitted_ns], [*admitted_ns.values()], len(ends), produced_ns),
        )
        self._waiting.difference_update([ids[row] for row in admitted_ns])
        self._remove([ids[row] for row in ends])
        return Step(columns, bool(admitted_ns or ends))

    def _remove(self, ids: Sequence[str]) -> None:
        for request_id in ids:
            del self.names[request_id], self.budgets[request_id]
        self._waiting.difference_update(ids)
