"""`python -m bench.gpu.engine bare|async`: vLLM's engine in a separate process, for bench.gpu.

`bare` is `LLM.generate`; `async` is `AsyncLLM` with one task per request. Each line of standard input names
a plan file; the answer to it is written to standard output.
"""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.gpu.load import budgets_of
from bench.gpu.replay import Row, answer_plans, growth, parse_side, read_plan, say_answer, take_output
from bench.gpu.unstopped_worker import accept_no_stop_ids
from sut import dataset
from sut.dataset import Dataset
from worker.engines.vllm.causes import CauseLog, with_type
from worker.engines.vllm.compile_log import CompileLog
from worker.engines.vllm.worker_extension import check_loads, check_loads_async

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    Params = Callable[..., SamplingParams]

Ends = tuple[int, Callable[[], int | None]]
"""File descriptor of the answers, and the count of compiled kernels so far."""


def main(argv: list[str]) -> int:
    """Load the engine, then answer plans until standard input ends."""
    args, engine_argv = parse_side("python -m bench.gpu.engine", argv)
    answers = take_output()
    accept_no_stop_ids()
    from worker.engines.vllm.engine_args import parse_engine_flags

    engine_args = parse_engine_flags(engine_argv, args.model).engine_args
    data = dataset.load(args.data)
    params = partial(_params, args.temperature)
    with closing(CauseLog(is_local=True)) as causes, closing(CompileLog()) as compile_log:
        num_compiled = partial(_num_compiled, compile_log)
        try:
            if args.kind == "bare":
                _serve_bare(engine_args, data, params, (answers, num_compiled))
            else:
                asyncio.run(_serve_async(engine_args, data, params, (answers, num_compiled)))
        except (RuntimeError, ValueError) as error:
            # The end of this process's output is the reason that bench.gpu gives.
            sys.exit(f"engine failed: {causes.first() or with_type(error)}")
    return 0


def _num_compiled(compile_log: CompileLog) -> int | None:
    """Return the kernels that the engine has compiled since its monitor is active; None: not known."""
    compiled = compile_log.counts()
    return None if compiled is None else compiled.num


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


class RequestTimes:
    """Times at which LLM.generate receives each request's first and last token.

    With `--disable-log-stats`, which all sides have, vLLM's own outputs have no times.
    """

    def __init__(self, core: Any) -> None:
        """Take the times in the client of the engine core, whose steps LLM.generate receives."""
        self._receive = core.get_output
        self._first_ns: dict[str, int] = {}
        self._done_ns: dict[str, int] = {}
        vars(core)["get_output"] = self._get_output

    def _get_output(self) -> Any:
        received = self._receive()
        at_ns = time.monotonic_ns()
        first_ns, done_ns = self._first_ns, self._done_ns
        for output in received.outputs:
            if output.request_id not in first_ns:
                first_ns[output.request_id] = at_ns
            if output.finish_reason is not None:
                done_ns[output.request_id] = at_ns
        return received

    def rows(self, num_tokens: Sequence[int], begin_ns: int, end_ns: int) -> tuple[list[Row], bool]:
        """Return a row for each request in the order in which they were sent, and forget all times.

        Returns:
            The rows, and whether they have the times; without them all are at the end of the round.
        """
        ids = sorted(self._done_ns, key=_number_of)
        times = [(self._first_ns[one] - begin_ns, self._done_ns[one] - begin_ns) for one in ids]
        self._first_ns.clear()
        self._done_ns.clear()
        is_timed = len(times) == len(num_tokens)
        if not is_timed:
            times = [(end_ns - begin_ns,) * 2] * len(num_tokens)
        rows = [Row(0, first, done, num) for (first, done), num in zip(times, num_tokens, strict=True)]
        return rows, is_timed


def _number_of(request_id: str) -> int:
    """Return the number of a request of LLM.generate: vLLM appends random characters to it."""
    return int(request_id.partition("-")[0])


def _serve_bare(engine_args: "AsyncEngineArgs", data: Dataset, params_of: "Params", ends: Ends) -> None:
    from vllm import LLM
    from vllm.inputs import TokensPrompt

    from worker.engines.vllm.core_process import ending_with_worker

    answers, num_compiled = ends
    values = {name: value for name, value in vars(engine_args).items() if name != "enable_log_requests"}
    with ending_with_worker():
        llm = LLM(**values)
    check_loads(llm)
    prompts = [TokensPrompt(prompt_token_ids=data.prompt(row).tolist()) for row in range(data.num_samples)]
    params = [params_of(budget) for budget in budgets_of(data).tolist()]
    times = RequestTimes(llm.llm_engine.engine_core)
    say_answer(answers, _ready(llm.llm_engine.vllm_config))
    while (plan := read_plan()) is not None:
        asked, before = plan["samples"], num_compiled()
        begin_s, begin_ns = time.time(), time.monotonic_ns()
        outputs = llm.generate(
            [prompts[row] for row in asked], [params[row] for row in asked], use_tqdm=False
        )
        end_ns, end_s = time.monotonic_ns(), time.time()
        num_tokens = [len(output.outputs[0].token_ids) for output in outputs]
        rows, is_timed = times.rows(num_tokens, begin_ns, end_ns)
        answer = {"begin_s": begin_s, "end_s": end_s, "rows": rows, "is_timed": is_timed}
        say_answer(answers, answer | {"compiled_kernels": growth(before, num_compiled())})


async def _serve_async(
    engine_args: "AsyncEngineArgs", data: Dataset, params_of: "Params", ends: Ends
) -> None:
    from vllm.inputs.engine import tokens_input
    from vllm.v1.engine.async_llm import AsyncLLM

    from worker.engines.vllm.core_process import ending_with_worker

    answers, num_compiled = ends
    with ending_with_worker():
        llm = AsyncLLM.from_engine_args(engine_args)
    await check_loads_async(llm)
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

    await answer_plans(answers, generate, _ready(llm.vllm_config), num_compiled)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
