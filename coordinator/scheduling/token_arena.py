"""Buffer for received answers: one row of int32 tokens per slot."""

import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.request_columns import Slots, TokenCounts, counting_numbers
from protos.columns import TokenIds

TOKEN_BYTES = 4
CACHE_LINE_TOKENS = 64 // TOKEN_BYTES


class TokenArena:
    """Rows of tokens, indexed by slot; the kernel allocates only pages that have been written."""

    def __init__(self, max_new_tokens: int, num_slots: int) -> None:
        """Reserve a row of `max_new_tokens` for each slot."""
        # Use an odd number of cache lines: equal positions in different rows then use different cache sets.
        self._row_tokens = (-(-max_new_tokens // CACHE_LINE_TOKENS) | 1) * CACHE_LINE_TOKENS
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, num_slots * self._row_tokens * TOKEN_BYTES, flags=flags)
        self._tokens, self._ids = self._views()
        self._base_address: int = self._tokens.ctypes.data

    def append(self, slots: Slots, before: TokenCounts, lens: TokenCounts | None, tokens: TokenIds) -> None:
        """Append new tokens to the received ones.

        Args:
            slots: (R,) rows to append to.
            before: (R,) tokens received so far for each slot.
            lens: (R,) new tokens of each slot; None: one each.
            tokens: (T,) concatenated.
        """
        starts = slots * self._row_tokens + before
        if lens is None:
            self._tokens[starts] = tokens
            return
        # Rows are written one behind the other from their start on: place of token k of the frame.
        starts += lens
        starts -= lens.cumsum()
        places = starts.repeat(lens)
        places += counting_numbers(len(tokens))
        self._tokens[places] = tokens

    def append_row(self, slot: int, before: int, tokens: TokenIds) -> None:
        """Append new tokens to one row, after its `before` received ones."""
        start = slot * self._row_tokens + before
        self._tokens[start : start + len(tokens)] = tokens

    def row(self, slot: int, num_tokens: int) -> NDArray[np.uint32]:
        """Return the first tokens of a row, without a sign; nobody may keep them: `grow` moves the rows."""
        start = slot * self._row_tokens
        return self._ids[start : start + num_tokens]

    def tokens(self, slot: int, num_tokens: int) -> TokenIds:
        """Return the first tokens of a row; nobody may keep them: `grow` moves the rows."""
        start = slot * self._row_tokens
        return self._tokens[start : start + num_tokens]

    def copy(self, slots: Slots, counts: TokenCounts) -> TokenIds:
        """Copy the first `counts` (R,) tokens of each row; returns them concatenated, (T,)."""
        starts = (slots * self._row_tokens).tolist()
        parts = [self._tokens[s : s + n] for s, n in zip(starts, counts.tolist(), strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def addresses(self, slots: Sequence[int]) -> list[int]:
        """Return the memory addresses of rows; valid until the next `grow`."""
        base, row_bytes = self._base_address, self._row_tokens * TOKEN_BYTES
        return [base + slot * row_bytes for slot in slots]

    def grow(self, num_slots: int) -> None:
        """Increase the number of rows; the kernel remaps the pages without copying them.

        Raises:
            MemoryError: The address space is used up; the rows and their tokens stay as they are.
        """
        num_bytes = num_slots * self._row_tokens * TOKEN_BYTES
        # A map cannot be resized while an array uses it.
        del self._tokens, self._ids
        try:
            self._map.resize(num_bytes)
        except OSError as error:
            raise MemoryError(f"no memory for {num_slots} answers, {num_bytes} bytes") from error
        finally:
            self._tokens, self._ids = self._views()
            self._base_address = self._tokens.ctypes.data

    def _views(self) -> tuple[TokenIds, NDArray[np.uint32]]:
        """Return all rows as LoadGen's type and without a sign: a view of one row costs as much as a copy."""
        return np.frombuffer(self._map, np.int32), np.frombuffer(self._map, np.uint32)
