"""Warm-up workload: random prompts in the batch sizes and lengths of a run."""

from typing import NamedTuple

import numpy as np

from protos.columns import PromptColumns
from worker.engine_protocol import EngineInfo

WARM_UP_TOKENS = 8
SEVERAL_REQUESTS = 7
"""Neither 1 nor a multiple of 16, also where the first step of a batch begins before all have arrived."""


class WarmUpBatch(NamedTuple):
    """Requests of the warm-up that the engine gets at once."""

    num_requests: int
    prompt_len: int
    """In tokens."""
    max_new_tokens: int = WARM_UP_TOKENS


def warm_up_batches(engine_info: EngineInfo, *, is_cpu: bool) -> list[WarmUpBatch]:
    """List the batches that every engine runs."""
    longest = max(engine_info.max_model_len - WARM_UP_TOKENS, 1)
    if is_cpu:
        return [WarmUpBatch(1, min(16, longest)), WarmUpBatch(4, min(16, longest))]
    # One short prompt, the longest prompt (inference_rules.adoc, appendix), a quarter and all of the slots.
    full = engine_info.max_num_seqs
    sizes = [(1, 16), (1, 15_330), (max(full // 4, 1), 128), (full, 128)]
    batches = [WarmUpBatch(num_requests, min(prompt_len, longest)) for num_requests, prompt_len in sizes]
    # Triton compiles variants of a kernel for 1, for multiples of 16 and for other numbers of requests, and
    # those of speculative decoding also for steps without drafts: answers of one token never have drafts.
    several = min(SEVERAL_REQUESTS, full)
    return [*batches, *(WarmUpBatch(several, min(16, longest), tokens) for tokens in (1, WARM_UP_TOKENS))]


def random_prompts(first_name: int, batch: WarmUpBatch, vocab_size: int) -> PromptColumns:
    """Draw the random prompts of a batch, with consecutive names from `first_name`."""
    num_requests = batch.num_requests
    tokens = np.random.default_rng(first_name).integers(vocab_size, size=num_requests * batch.prompt_len)
    return PromptColumns(
        requests=np.arange(first_name, first_name + num_requests, dtype=np.uint64),
        prompt_lens=np.full(num_requests, batch.prompt_len, np.uint32),
        prompt_tokens=tokens.astype(np.int32),
        max_new_tokens=np.full(num_requests, batch.max_new_tokens, np.uint32),
        produced=np.zeros(num_requests, np.uint32),
    )
