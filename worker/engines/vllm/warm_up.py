"""Step sizes of the warm-up: those that need every kernel of the steps without a CUDA graph."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from worker.engines.model.warm_up_batches import WarmUpBatch

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 10.0
STEP_GROUP_TOKENS = 32
"""Triton's MoE kernels that route tokens to experts are compiled once per group of this many step sizes.

Source: vllm/third_party/triton_kernels/topk.py, topk_forward (vLLM 0.25.1).
"""
# Triton compiles a variant of a kernel for multiples of 16; some kernels get 4 times the step size.
_STEP_SIZES_OF_GROUP = (1, 4, 16, 32)


def step_size_groups(config: "VllmConfig") -> list[list[int]]:
    """List the step sizes, in tokens, that need every kernel of the steps without a CUDA graph, by group.

    vLLM pads a step to the next captured size; larger steps run with their own number of tokens.
    """
    captured = config.compilation_config.max_cudagraph_capture_size or 0
    # A prompt of one step produces one token.
    longest = min(config.scheduler_config.max_num_batched_tokens, config.model_config.max_model_len - 1)
    first = captured - captured % STEP_GROUP_TOKENS
    return [
        sorted({min(max(start + size, captured + 1), longest) for size in _STEP_SIZES_OF_GROUP})
        for start in range(first, longest, STEP_GROUP_TOKENS)
    ]


async def run_step_sizes(
    groups: Sequence[Sequence[int]],
    run: Callable[[WarmUpBatch], Awaitable[None]],
    num_compiled: Callable[[], int],
) -> None:
    """Run one prompt of each step size, until a group of sizes compiles no kernel.

    An engine whose kernels do not depend on the step size ends this after one or two groups.
    """
    reported_s = time.monotonic()
    for group in groups:
        num_before = num_compiled()
        for size in group:
            await run(WarmUpBatch(1, size, max_new_tokens=1))
        if num_compiled() == num_before:
            return
        if time.monotonic() - reported_s >= PROGRESS_INTERVAL_S:
            reported_s = time.monotonic()
            logger.info(
                "warm-up: steps of up to %d of %d tokens, %d kernels compiled",
                group[-1],
                groups[-1][-1],
                num_compiled(),
            )
