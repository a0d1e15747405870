"""Merges prompts to be sent together, and splits those that exceed one message."""

from collections.abc import Iterator, Sequence

import numpy as np

from protos.columns import MAX_SUBMIT_TOKENS, PromptColumns


def merge_prompts(parts: Sequence[PromptColumns]) -> PromptColumns:
    """Concatenate one or more parts."""
    if len(parts) == 1:
        return parts[0]
    return PromptColumns._make(map(np.concatenate, zip(*parts, strict=True)))


def split_prompts(prompts: PromptColumns) -> Iterator[PromptColumns]:
    """Split prompts into parts of at most MAX_SUBMIT_TOKENS; a longer prompt is a part by itself."""
    if len(prompts.prompt_tokens) <= MAX_SUBMIT_TOKENS:
        yield prompts
        return
    ends = prompts.prompt_lens.cumsum(dtype=np.int64)
    begin = 0
    while begin < len(ends):
        start = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, start + MAX_SUBMIT_TOKENS, side="right")), begin + 1)
        yield PromptColumns(
            prompts.requests[begin:end],
            prompts.prompt_lens[begin:end],
            prompts.prompt_tokens[start : int(ends[end - 1])],
            prompts.max_new_tokens[begin:end],
            prompts.produced[begin:end],
        )
        begin = end
