"""Loads a model; like SGLang's, it calls the function by a name of this module."""

from sglang.srt.model_loader.weight_utils import initialize_dummy_weights


class CountingModel:
    """The model that counts down: it has no parameters, and so no routers."""

    def named_parameters(self) -> list[tuple[str, object]]:
        """Return names and parameters."""
        return []


def load_dummy() -> None:
    """Load a model with random weights."""
    initialize_dummy_weights(CountingModel())
