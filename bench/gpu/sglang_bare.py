"""`python -m bench.gpu.sglang_bare`: SGLang's own offline engine in a separate process, for bench.gpu.

Each line of standard input names a plan file; the answer to it is written to standard output.
"""

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.gpu.load import budgets_of
from bench.gpu.replay import Row, read_plan, say_answer, take_output
from bench.gpu.unstopped_worker import accept_no_stop_ids
from common.flags import Parser
from sut import dataset

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs


def main(argv: list[str]) -> int:
    """Load the engine, then answer plans until standard input ends."""
    answers = take_output()
    parser = Parser(prog="python -m bench.gpu.sglang_bare", allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--temperature", type=float, required=True)
    args, engine_argv = parser.parse_known_args(argv)
    accept_no_stop_ids()
    from worker.engines.sglang.server_flags import parse_server_flags

    server_args = parse_server_flags(engine_argv, args.model).server_args
    from sglang.srt.entrypoints.engine import Engine

    from worker.engines.sglang.sglang_processes import run_scheduler

    data = dataset.load(args.data)
    prompts = [data.prompt(row).tolist() for row in range(data.num_samples)]
    # The parameters that the product uses.
    params = [
        {"temperature": args.temperature, "top_p": 1.0, "top_k": -1, "max_new_tokens": budget}
        for budget in budgets_of(data).tolist()
    ]
    # The product's random weights.
    evened = type("EvenExpertsEngine", (Engine,), {"run_scheduler_process_func": staticmethod(run_scheduler)})
    with evened(server_args=server_args) as engine:
        say_answer(answers, {"engine_s": time.time(), "config": _config(server_args)})
        while (plan := read_plan()) is not None:
            answer = _round(engine, prompts, params, plan["samples"])
            # The first request makes SGLang handle SIGTERM, on an event loop that runs only within a call.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            say_answer(answers, answer)
    return 0


def _config(server_args: "ServerArgs") -> dict[str, str]:
    """Return the configuration of the engine that a comparison needs."""
    names = ("max_running_requests", "chunked_prefill_size", "attention_backend", "moe_runner_backend")
    return {name: str(getattr(server_args, name)) for name in names}


def _round(
    engine: Any, prompts: list[list[int]], params: list[dict[str, float]], asked: list[int]
) -> dict[str, object]:
    """Answer the samples of a plan in one call."""
    begin_s, begin_ns = time.time(), time.monotonic_ns()
    outputs = engine.generate(
        input_ids=[prompts[row] for row in asked], sampling_params=[params[row] for row in asked]
    )
    took_ns, end_s = time.monotonic_ns() - begin_ns, time.time()
    rows = [Row(0, took_ns, took_ns, len(output["output_ids"])) for output in outputs]
    return {"begin_s": begin_s, "end_s": end_s, "rows": rows, "is_timed": False}


if __name__ == "__main__":
    # SGLang starts its processes by importing this module.
    sys.exit(main(sys.argv[1:]))
