"""`python -m bench.gpu.engine bare|async`: vLLM's engine in a separate process, for bench.gpu.

`bare` is `LLM.generate`; `async` is `AsyncLLM` with one task per request. Each line of standard input names
a plan file; the answer to it is written to standard output.
"""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gpu.load import budgets_of
from bench.gpu.replay import Row, answer_plans, read_plan, say_answer, take_output
from bench.gpu.unstopped_worker import accept_no_stop_ids
from common.flags import Parser
from sut import dataset
from sut.dataset import Dataset
from worker.engines.vllm.worker_extension import EXTENSION, LOADS, check_loads

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    Params = Callable[..., SamplingParams]


def main(argv: list[str]) -> int:
    """Load the engine, then answer plans until standard input ends."""
    answers = take_output()
    parser = Parser(prog="python -m bench.gpu.engine", allow_abbrev=False)
    parser.add_argument("kind", choices=("bare", "async"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--temperature", type=float, required=True)
    args, engine_argv = parser.parse_known_args(argv)
    accept_no_stop_ids()
    from worker.engines.vllm.engine_args import parse_engine_flags

    engine_args = parse_engine_flags(engine_argv, args.model).engine_args
    data = dataset.load(args.data)
    params = partial(_params, args.temperature)
    if args.kind == "bare":
        _serve_bare(engine_args, data, params, answers)
    else:
        asyncio.run(_serve_async(engine_args, data, params, answers))
    return 0


def _params(temperature: float, budget: int, *, delta: bool = False) -> "SamplingParams":
    """Return the sampling parameters that the product uses."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=temperature,
        top_p=1.0,
        top_k=-1,
        max_tokens=budget,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if delta else RequestOutputKind.FINAL_ONLY,
    )


def _ready(config: "VllmConfig") -> dict[str, object]:
    """Return the start-up time of the engine and its configuration."""
    scheduler = config.scheduler_config
    return {
        "engine_s": time.time(),
        "config": {
            "max_num_seqs": str(scheduler.max_num_seqs),
            "max_num_batched_tokens": str(scheduler.max_num_batched_tokens),
            "async_scheduling": str(scheduler.async_scheduling),
            "stream_interval": str(scheduler.stream_interval),
        },
    }


def _serve_bare(engine_args: "AsyncEngineArgs", data: Dataset, params_of: "Params", answers: int) -> None:
    from vllm import LLM
    from vllm.inputs import TokensPrompt

    values = {name: value for name, value in vars(engine_args).items() if name != "enable_log_requests"}
    llm = LLM(**values)
    if llm.llm_engine.vllm_config.parallel_config.worker_extension_cls == EXTENSION:
        check_loads(llm.collective_rpc(LOADS))
    prompts = [TokensPrompt(prompt_token_ids=data.prompt(row).tolist()) for row in range(data.num_samples)]
    params = [params_of(budget) for budget in budgets_of(data).tolist()]
    say_answer(answers, _ready(llm.llm_engine.vllm_config))
    while (plan := read_plan()) is not None:
        asked = plan["samples"]
        begin_s, begin_ns = time.time(), time.monotonic_ns()
        outputs = llm.generate(
            [prompts[row] for row in asked], [params[row] for row in asked], use_tqdm=False
        )
        took_ns, end_s = time.monotonic_ns() - begin_ns, time.time()
        rows = [Row(0, took_ns, took_ns, len(output.outputs[0].token_ids)) for output in outputs]
        say_answer(answers, {"begin_s": begin_s, "end_s": end_s, "rows": rows})


async def _serve_async(
    engine_args: "AsyncEngineArgs", data: Dataset, params_of: "Params", answers: int
) -> None:
    from vllm.inputs.engine import tokens_input
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(engine_args)
    if llm.vllm_config.parallel_config.worker_extension_cls == EXTENSION:
        check_loads(await llm.collective_rpc(LOADS))
    prompts = [data.prompt(row).tolist() for row in range(data.num_samples)]
    budgets = budgets_of(data).tolist()
    # vLLM's server does this after its start: a full collection over vLLM's imports takes 0.4 s.
    gc.collect()
    gc.freeze()
    num_requests = 0

    async def generate(sample: int) -> AsyncIterator[int]:
        nonlocal num_requests
        num_requests += 1
        params = params_of(budgets[sample], delta=True)
        async for output in llm.generate(tokens_input(prompts[sample]), params, str(num_requests)):
            yield len(output.outputs[0].token_ids)

    await answer_plans(answers, generate, _ready(llm.vllm_config))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
