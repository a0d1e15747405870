"""`python -m bench.peers.step_worker FLAGS`: `python -m worker`, but each engine step is sent as one frame.

An engine whose steps take no time is faster than any stream, so the product merges pending steps. An engine
at GPU speed is slower, and its steps are sent one by one. This worker sends steps one by one at full speed.
"""

import sys
from collections import deque

from protos import worker_pb2 as pb
from worker import servicer
from worker.__main__ import main
from worker.engine_protocol import Step
from worker.outbox import Outbox


class StepOutbox(Outbox):
    """Outbox that merges no steps: it holds one at a time."""

    def __init__(self, hold_ns: int) -> None:
        super().__init__(hold_ns)
        self._later: deque[Step] = deque()
        self._is_full = False

    def put(self, step: Step) -> None:
        """Queue a step behind those that wait for a frame."""
        if self._is_full:
            self._later.append(step)
        else:
            self._is_full = True
            super().put(step)

    async def next(self) -> pb.FromWorker:
        """Wait for the next message; after a frame, continue with the next queued step."""
        message = await super().next()
        if message.WhichOneof("message") == "tokens":
            self._is_full = False
            if self._later:
                self.put(self._later.popleft())
        return message


def run(argv: list[str]) -> int:
    """Replace the product's outbox and run the worker."""
    if vars(servicer).get("Outbox") is not Outbox:
        print("bench.peers.step_worker: worker.servicer does not use Outbox", file=sys.stderr)  # noqa: T201
        return 1
    vars(servicer)["Outbox"] = StepOutbox
    return main(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
