"""`python -m bench.gpu.sglang_engine bare|async`: SGLang's own engine in a separate process, for bench.gpu.

`bare` is `Engine.generate`; `async` is `Engine.async_generate` with one task per request. Each line of
standard input names a plan file; the answer to it is written to standard output.
"""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.gpu.load import budgets_of
from bench.gpu.replay import Row, answer_plans, parse_side, read_plan, say_answer, take_output
from bench.gpu.unstopped_worker import accept_no_stop_ids
from sut import dataset
from sut.dataset import Dataset

if TYPE_CHECKING:
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.server_args import ServerArgs


class Requests(NamedTuple):
    """A request for each sample of the data set."""

    prompts: list[list[int]]
    params: list[dict[str, float]]
    """The parameters that the product uses."""


def main(argv: list[str]) -> int:
    """Load the engine, then answer plans until standard input ends."""
    args, engine_argv = parse_side("python -m bench.gpu.sglang_engine", argv)
    answers = take_output()
    accept_no_stop_ids()
    from worker.engines.sglang.server_flags import parse_server_flags

    server_args = parse_server_flags(engine_argv, args.model).server_args
    requests = _requests(dataset.load(args.data), args.temperature)
    if args.kind == "bare":
        _serve_bare(server_args, requests, answers)
    else:
        asyncio.run(_serve_async(server_args, requests, answers))
    return 0


def _requests(data: Dataset, temperature: float) -> Requests:
    return Requests(
        [data.prompt(row).tolist() for row in range(data.num_samples)],
        [
            {"temperature": temperature, "top_p": 1.0, "top_k": -1, "max_new_tokens": budget}
            for budget in budgets_of(data).tolist()
        ],
    )


def _load(server_args: "ServerArgs") -> "Engine":
    """Load SGLang's engine with the product's random weights."""
    from sglang.srt.entrypoints.engine import Engine

    from worker.engines.sglang.sglang_processes import run_scheduler

    evened = type("EvenExpertsEngine", (Engine,), {"run_scheduler_process_func": staticmethod(run_scheduler)})
    engine: Engine = evened(server_args=server_args)
    return engine


def _ready(server_args: "ServerArgs") -> dict[str, object]:
    """Return the start-up time of the engine and its configuration."""
    names = ("max_running_requests", "chunked_prefill_size", "attention_backend", "moe_runner_backend")
    return {"engine_s": time.time(), "config": {name: str(getattr(server_args, name)) for name in names}}


def _end_on_sigterm() -> None:
    """Undo what SGLang's first request does: handle SIGTERM on an event loop that need not run."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve_bare(server_args: "ServerArgs", requests: Requests, answers: int) -> None:
    with _load(server_args) as engine:
        say_answer(answers, _ready(server_args))
        while (plan := read_plan()) is not None:
            answer = _round(engine, requests, plan["samples"])
            _end_on_sigterm()
            say_answer(answers, answer)


def _round(engine: Any, requests: Requests, asked: Sequence[int]) -> dict[str, object]:
    """Answer the samples of a plan in one call."""
    begin_s, begin_ns = time.time(), time.monotonic_ns()
    outputs = engine.generate(
        input_ids=[requests.prompts[row] for row in asked],
        sampling_params=[requests.params[row] for row in asked],
    )
    took_ns, end_s = time.monotonic_ns() - begin_ns, time.time()
    rows = [Row(0, took_ns, took_ns, len(output["output_ids"])) for output in outputs]
    return {"begin_s": begin_s, "end_s": end_s, "rows": rows, "is_timed": False}


async def _serve_async(server_args: "ServerArgs", requests: Requests, answers: int) -> None:
    # On the loop that runs now: the engine keeps the loop of its start.
    engine: Any
    with _load(server_args) as engine:
        # What the first request would do first, and no later one does again.
        engine.tokenizer_manager.auto_create_handle_loop()
        _end_on_sigterm()
        # A full collection over SGLang's imports stops the loop, as with vLLM.
        gc.collect()
        gc.freeze()

        async def generate(sample: int) -> AsyncIterator[int]:
            num_tokens = 0
            outputs = await engine.async_generate(
                input_ids=requests.prompts[sample], sampling_params=requests.params[sample], stream=True
            )
            async for output in outputs:
                # All tokens so far.
                produced = len(output["output_ids"])
                yield produced - num_tokens
                num_tokens = produced

        await answer_plans(answers, generate, _ready(server_args))


if __name__ == "__main__":
    # SGLang starts its processes by importing this module.
    sys.exit(main(sys.argv[1:]))
