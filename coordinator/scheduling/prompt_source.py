"""The prompts of a run, as the scheduler reads them."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class PromptSource(Protocol):
    """Prompts by sample index: a data set, or prompts that arrive one by one."""

    @property
    def num_samples(self) -> int:
        """Number of prompts that are known before the run; 0 if they arrive during it."""
        ...

    def prompt(self, index: int) -> NDArray[np.int32]:
        """Return one sample's prompt, shape (prompt_len,)."""
        ...

    def gather(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """Copy and concatenate the prompts of several samples.

        Args:
            indices: (R,) sample indices in any order, repeats allowed.

        Returns:
            The prompt lengths (R,) and their tokens (sum of the lengths,).
        """
        ...
