"""`python -m bench.peers.step_worker FLAGS`: `python -m worker`, but each engine step is sent as one frame.

An engine whose steps take no time is faster than any stream, so the product merges pending steps. An engine
at GPU speed is slower, and its steps are sent one by one. This worker sends steps one by one at full speed.
"""

import sys

from worker import servicer
from worker.__main__ import main
from worker.outbox import Outbox


def step_outbox(hold_ns: int, **_: bool) -> Outbox:
    """Make an outbox that merges no steps, as a Network SUT has."""
    return Outbox(hold_ns, single=True)


def run(argv: list[str]) -> int:
    """Replace the product's outbox and run the worker."""
    if vars(servicer).get("Outbox") is not Outbox:
        print("bench.peers.step_worker: worker.servicer does not use Outbox", file=sys.stderr)  # noqa: T201
        return 1
    vars(servicer)["Outbox"] = step_outbox
    return main(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
