"""Random weights that use all experts, in the processes of SGLang's scheduler."""

import logging
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from worker.engines.model.random_weights import describe_spread, spread

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class ReadyPipe:
    """The pipe by which a scheduler reports that it has loaded its model with SGLang's dummy loader.

    SGLang's scheduler ends when `send` raises, and its traceback is in the log.
    """

    def __init__(self, pipe: Connection) -> None:
        """Change the dummy loader of this process."""
        from sglang.srt.model_loader import loader

        self._pipe = pipe
        self._initialize = loader.initialize_dummy_weights
        self._num_loads = 0
        setattr(loader, "initialize_dummy_weights", self._initialize_and_spread)  # noqa: B010 - see vLLM's

    def send(self, info: object) -> None:
        """Pass on that the model is loaded.

        Raises:
            RuntimeError: The changed loader was not used: the rates would be those of few experts.
        """
        if not self._num_loads:
            raise RuntimeError("random weights were not loaded by SGLang's initialize_dummy_weights")
        self._pipe.send(info)

    def _initialize_and_spread(self, model: "torch.nn.Module") -> None:
        self._initialize(model)
        counts = spread(dict(model.named_parameters()))
        self._num_loads += 1
        logger.info(describe_spread(counts))
