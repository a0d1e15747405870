"""Prompts that arrive during a run; each is kept until its answer is complete."""

import numpy as np
from numpy.typing import NDArray

from protos.columns import PromptColumns


class IncomingPrompts:
    """Prompts by a number that is never used again; implements the scheduler's PromptSource."""

    num_samples = 0
    """No prompt is known before the run."""

    def __init__(self) -> None:
        """Start without prompts."""
        self._prompts: dict[int, NDArray[np.int32]] = {}
        self._indices: dict[int, int] = {}
        self._next_index = 0

    def add(self, prompts: PromptColumns) -> tuple[list[int], list[int]]:
        """Keep prompts; returns the names of their requests and the numbers of the prompts."""
        names = prompts.requests.tolist()
        ends = prompts.prompt_lens.cumsum(dtype=np.int64)
        parts = np.split(prompts.prompt_tokens, ends[:-1])
        indices = list(range(self._next_index, self._next_index + len(names)))
        self._next_index += len(names)
        self._prompts.update(zip(indices, (part.copy() for part in parts), strict=True))
        self._indices.update(zip(names, indices, strict=True))
        return names, indices

    def drop(self, name: int) -> None:
        """Forget the prompt of a complete request."""
        self._prompts.pop(self._indices.pop(name))

    def prompt(self, index: int) -> NDArray[np.int32]:
        """Return one prompt, shape (prompt_len,)."""
        return self._prompts[index]

    def gather(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """Concatenate several prompts; returns their lengths (R,) and their tokens."""
        rows = [self._prompts[index] for index in indices.tolist()]
        lens = np.array([len(row) for row in rows], np.uint32)
        return lens, np.concatenate(rows or [np.zeros(0, np.int32)])
