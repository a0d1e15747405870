"""vLLM worker extension (--worker-extension-cls): random weights that use all experts.

vLLM imports this module in each process that loads weights, on every machine of an engine, and adds the class
to the bases of its own worker class. Other programs that use the same vLLM are not affected.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from common.flags import FlagError
from worker.engine_protocol import EngineDead
from worker.engines.model.model_hash import DUMMY
from worker.engines.model.random_weights import describe_spread, spread

if TYPE_CHECKING:
    import torch
    from vllm import LLM
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

# vLLM's processes show the logs of vLLM's own loggers only.
logger = logging.getLogger("vllm.even_experts")

FLAG = "--worker-extension-cls"
# Parameters set by their role, for each model that this process has loaded.
_loads: list[dict[str, int]] = []


class EvenExperts:
    """Changes how the process of a rank makes random weights, and reports what was set."""

    def __new__(cls, *_: object, **_kwargs: object) -> Self:
        """Change the dummy loader; vLLM creates the worker of a rank before that loads a model."""
        _change_loader()
        return super().__new__(cls)

    def even_experts_loads(self) -> list[dict[str, int]]:
        """Return the parameters set by their role, for each model loaded; vLLM calls this on each rank."""
        return _loads


EXTENSION = f"{__name__}.{EvenExperts.__name__}"
"""Value of the flag."""
LOADS = EvenExperts.even_experts_loads.__name__
"""Method for vLLM's collective_rpc."""


def choose_extension(load_format: str, given: str) -> str:
    """Return the worker extension of a load format; the given one for all but random weights.

    Raises:
        FlagError: Another extension is given with random weights: vLLM takes one.
    """
    if load_format.lower() != DUMMY:
        return given
    if given not in ("", EXTENSION):
        raise FlagError(FLAG, f"must be {EXTENSION} with --load-format {DUMMY}, which is the default", given)
    return EXTENSION


def check_loads(llm: "LLM") -> None:
    """Check that each rank of an engine with random weights has loaded them by the changed loader.

    Raises:
        EngineDead: A rank has not: its rates would be those of few experts.
    """
    if _has_extension(llm.llm_engine.vllm_config):
        _check_ranks(llm.collective_rpc(LOADS))


async def check_loads_async(llm: "AsyncLLM") -> None:
    """Do the same over vLLM's asynchronous interface.

    Raises:
        EngineDead: A rank has not.
        EngineDeadError: vLLM's; the engine core has stopped.
    """
    if _has_extension(llm.vllm_config):
        _check_ranks(await llm.collective_rpc(LOADS))


def _has_extension(config: "VllmConfig") -> bool:
    return config.parallel_config.worker_extension_cls == EXTENSION


def _check_ranks(loads_of_ranks: Sequence[Sequence[object]]) -> None:
    if not loads_of_ranks or not all(loads_of_ranks):
        raise EngineDead("random weights were not loaded by vLLM's DummyModelLoader: few experts are in use")


def _change_loader() -> None:
    """Make vLLM's dummy loader of this process use all experts."""
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    load = DummyModelLoader.load_weights
    if load.__module__ == __name__:
        return

    def load_weights(loader: DummyModelLoader, model: "torch.nn.Module", model_config: Any) -> None:
        load(loader, model, model_config)
        _loads.append(spread(dict(model.named_parameters())))
        logger.info(describe_spread(_loads[-1]))

    setattr(DummyModelLoader, "load_weights", load_weights)  # noqa: B010 - mypy forbids the assignment
