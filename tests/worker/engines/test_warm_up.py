"""The warm-up's step sizes: which ones, and that they end where no kernel depends on the size."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from worker.engine_protocol import EngineInfo
from worker.engines.model.warm_up_batches import WarmUpBatch, random_prompts, warm_up_batches
from worker.engines.vllm.warm_up import run_step_sizes, step_size_groups


def config(captured: int | None, max_num_batched_tokens: int, max_model_len: int = 48_128) -> Any:
    """Make the parts of a vLLM configuration that decide the step sizes."""
    return SimpleNamespace(
        compilation_config=SimpleNamespace(max_cudagraph_capture_size=captured),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=max_num_batched_tokens),
        model_config=SimpleNamespace(max_model_len=max_model_len),
    )


def test_every_group_of_32_sizes_above_the_largest_graph_is_run() -> None:
    """With graphs up to 64 and steps of up to 128 tokens: sizes 65 to 96 and 97 to 128, four each."""
    assert step_size_groups(config(64, 128)) == [[65, 68, 80, 96], [97, 100, 112, 128]]


def test_a_largest_graph_within_a_group_leaves_the_rest_of_the_group() -> None:
    """Graphs up to 70: 65 and 68 are padded to 70. A prompt of 100 leaves room for one token of 101."""
    assert step_size_groups(config(70, 512, max_model_len=101)) == [[71, 80, 96], [97, 100]]


def test_graphs_of_every_size_need_no_steps() -> None:
    """A step of any size is padded to a captured one, whose kernels the capture has compiled."""
    assert step_size_groups(config(8192, 8192)) == []


def test_without_graphs_every_size_is_run() -> None:
    """`--enforce-eager` captures nothing: 0 or None."""
    assert [[1, 4, 16, 32]] == step_size_groups(config(0, 32)) == step_size_groups(config(None, 32))


def run_with(kernels_of_size: dict[int, int]) -> list[WarmUpBatch]:
    """Run the three groups above 64 on an engine that compiles this many kernels for a size."""
    batches: list[WarmUpBatch] = []

    async def run(batch: WarmUpBatch) -> None:
        batches.append(batch)

    def num_compiled() -> int:
        return sum(kernels_of_size.get(batch.prompt_len, 0) for batch in batches)

    asyncio.run(run_step_sizes(step_size_groups(config(64, 160)), run, num_compiled))
    return batches


def test_steps_that_compile_kernels_are_all_run_one_by_one() -> None:
    """Each size is one prompt with one token, so that it is one step of this size."""
    sizes = [65, 68, 80, 96, 97, 100, 112, 128, 129, 132, 144, 160]
    assert [WarmUpBatch(1, size, 1) for size in sizes] == run_with({65: 2, 80: 2, 97: 2, 128: 2, 129: 2})


def test_an_engine_without_kernels_per_size_runs_two_groups_at_most() -> None:
    """The first larger step compiles something on any engine; the second group compiles nothing."""
    assert [65, 68, 80, 96, 97, 100, 112, 128] == [batch.prompt_len for batch in run_with({65: 3})]
    assert [65, 68, 80, 96] == [batch.prompt_len for batch in run_with({})]


def engine(max_num_seqs: int, max_model_len: int) -> EngineInfo:
    """Describe an engine of this size."""
    return EngineInfo(
        engine="vllm",
        engine_version="0",
        model="m",
        model_hash="0",
        vocab_size=50,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        tensor_parallel_size=1,
        stop_token_ids=(),
    )


def test_steps_of_several_requests_are_run_with_and_without_drafts() -> None:
    """7 requests are neither 1 nor a multiple of 16. With one token per answer no step has drafts."""
    first = [WarmUpBatch(1, 16), WarmUpBatch(1, 15_330), WarmUpBatch(16, 128), WarmUpBatch(64, 128)]
    several = [WarmUpBatch(7, 16, 1), WarmUpBatch(7, 16, 8)]
    assert first + several == warm_up_batches(engine(64, 48_128), is_cpu=False)


def test_an_engine_of_few_slots_is_warmed_up_on_all_of_them() -> None:
    """With 4 slots of 20 tokens: 12 tokens of a prompt and 8 of its answer."""
    batches = warm_up_batches(engine(4, 20), is_cpu=False)
    assert [(1, 12), (1, 12), (1, 12), (4, 12), (4, 12), (4, 12)] == [batch[:2] for batch in batches]


def test_prompts_of_a_batch_have_its_length_and_budget() -> None:
    """Two prompts of 3 tokens, named from 7, one new token each."""
    prompts = random_prompts(7, WarmUpBatch(2, 3, max_new_tokens=1), vocab_size=50)
    assert [7, 8] == prompts.requests.tolist()
    assert [3, 3] == prompts.prompt_lens.tolist()
    assert [1, 1] == prompts.max_new_tokens.tolist()
    assert (6,) == prompts.prompt_tokens.shape
    assert np.all(prompts.prompt_tokens < 50)
