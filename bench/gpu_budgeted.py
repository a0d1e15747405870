"""`python -m bench.gpu_budgeted FLAGS`: the coordinator, with a budget for each request.

Runs `python -m coordinator FLAGS`. A budget of the product is a run's; here each prompt's first token is how
long its answer may be, as in the data sets of sut.synthetic, also where a request goes on elsewhere. Exit
code 1 names a function that has moved; else the coordinator's.
"""

import importlib
import sys

import numpy as np

from bench.fleet.noted import wrap
from bench.unguarded import Function, GuardGone
from coordinator.scheduling.scheduler import Scheduler
from coordinator.transport.worker_link import WorkerLink
from protos.columns import PromptColumns


def budgeted(prompts: PromptColumns) -> PromptColumns:
    """Give each request what its first token asks for, less what it has."""
    ends = prompts.prompt_lens.cumsum(dtype=np.int64)
    asked = prompts.prompt_tokens[ends - prompts.prompt_lens].astype(np.uint32)
    return prompts._replace(max_new_tokens=np.minimum(asked - prompts.produced, prompts.max_new_tokens))


def _around(send: Function) -> Function:
    def call(flow: Scheduler, link: WorkerLink, prompts: PromptColumns, now_ns: int) -> None:
        send(flow, link, budgeted(prompts), now_ns)

    return call


def _send(self: object, link: object, prompts: object, now_ns: object) -> None:
    """Stand for how the function is called."""


def main(argv: list[str]) -> int:
    """Run the coordinator."""
    try:
        wrap("coordinator.scheduling.scheduler:Scheduler._send", _send, _around)
    except GuardGone as error:
        print(f"bench.gpu_budgeted: {error}", file=sys.stderr)  # noqa: T201 - no result
        return 1
    exit_code: int = importlib.import_module("coordinator.__main__").main(argv)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
