"""Random weights."""

from typing import Protocol


class Model(Protocol):
    """The part of torch.nn.Module that is used."""

    def named_parameters(self) -> list[tuple[str, object]]:
        """Return names and parameters."""
        ...


def initialize_dummy_weights(model: Model, low: float = -1e-3, high: float = 1e-3, seed: int = 1234) -> None:
    """Take a model whose weights SGLang would draw."""
