"""Warm-up workload: random prompts in the batch sizes and lengths of a run."""

import numpy as np

from protos.columns import PromptColumns
from worker.engine_protocol import EngineInfo

WARM_UP_TOKENS = 8


def warm_up_sizes(engine_info: EngineInfo) -> list[tuple[int, int]]:
    """List the warm-up batches as pairs of number of requests and prompt length in tokens."""
    from vllm.platforms import current_platform

    longest = max(engine_info.max_model_len - WARM_UP_TOKENS, 1)
    if current_platform.is_cpu():
        return [(1, min(16, longest)), (4, min(16, longest))]
    # One short prompt, the longest prompt (inference_rules.adoc, appendix), a quarter and all of the slots.
    full = engine_info.max_num_seqs
    sizes = [(1, 16), (1, 15_330), (max(full // 4, 1), 128), (full, 128)]
    return [(num_requests, min(prompt_len, longest)) for num_requests, prompt_len in sizes]


def random_prompts(first_name: int, num_requests: int, prompt_len: int, vocab_size: int) -> PromptColumns:
    """Draw random prompts with consecutive names from `first_name`, each with a budget of WARM_UP_TOKENS."""
    tokens = np.random.default_rng(first_name).integers(vocab_size, size=num_requests * prompt_len)
    return PromptColumns(
        requests=np.arange(first_name, first_name + num_requests, dtype=np.uint64),
        prompt_lens=np.full(num_requests, prompt_len, np.uint32),
        prompt_tokens=tokens.astype(np.int32),
        max_new_tokens=np.full(num_requests, WARM_UP_TOKENS, np.uint32),
        produced=np.zeros(num_requests, np.uint32),
    )
