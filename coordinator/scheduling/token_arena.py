"""The memory that answers grow in: a row of tokens for each slot, side by side."""

import mmap

import numpy as np

from coordinator.scheduling.request_rows import Slots
from protos.columns import Lens, TokenIds

TOKEN_BYTES = 4
LINE_TOKENS = 64 // TOKEN_BYTES
"""Tokens of a cache line."""


class TokenArena:
    """Rows of tokens, indexed by slot; memory is committed only where tokens are written."""

    def __init__(self, max_new_tokens: int, num_slots: int) -> None:
        """Reserve a row of `max_new_tokens` for each slot."""
        # An odd number of cache lines: rows that are written at one place each do not evict each other.
        self._row_tokens = (-(-max_new_tokens // LINE_TOKENS) | 1) * LINE_TOKENS
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, num_slots * self._row_tokens * TOKEN_BYTES, flags=flags)
        self._tokens = np.frombuffer(self._map, np.int32)

    def append(self, slots: Slots, before: Slots, counts: Lens | None, tokens: TokenIds) -> None:
        """Write new tokens behind those that are there.

        Args:
            slots: (R,)
            before: (R,) tokens that each has.
            counts: (R,) new tokens of each; None: each has one.
            tokens: (T,) end to end.
        """
        starts = slots * self._row_tokens + before
        if counts is None:
            self._tokens[starts] = tokens
            return
        lens = counts.astype(np.int64)
        firsts = np.cumsum(lens) - lens
        self._tokens[np.repeat(starts - firsts, lens) + np.arange(len(tokens))] = tokens

    def copy(self, slots: Slots, counts: Slots) -> TokenIds:
        """Copy the first tokens of rows, (T,) end to end; counts: (R,) how many of each."""
        starts = (slots * self._row_tokens).tolist()
        parts = [self._tokens[s : s + n] for s, n in zip(starts, counts.tolist(), strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def addresses(self, slots: Slots) -> list[int]:
        """List where the rows of slots begin; valid until the next `grow`."""
        base = self._tokens.ctypes.data
        return [base + slot * self._row_tokens * TOKEN_BYTES for slot in slots.tolist()]

    def grow(self, num_slots: int) -> None:
        """Reserve more; the kernel moves the pages without copying them."""
        del self._tokens
        self._map.resize(num_slots * self._row_tokens * TOKEN_BYTES)
        self._tokens = np.frombuffer(self._map, np.int32)
