"""`python -m bench.peers.step_worker FLAGS`: `python -m worker` that sends each engine step as one frame.

An engine whose steps take no time is faster than any stream, and the product merges the pending steps. An
engine at the speed of a GPU is slower, and its steps are sent one by one. So does this worker, at full speed.
"""

import sys
from collections import deque

from protos import worker_pb2 as pb
from worker import servicer
from worker.__main__ import main
from worker.engine_protocol import Step
from worker.outbox import Outbox


class StepOutbox(Outbox):
    """Holds one step at a time, so that there is nothing to merge."""

    def __init__(self, hold_ns: int) -> None:
        super().__init__(hold_ns)
        self._later: deque[Step] = deque()
        self._is_full = False

    def put(self, step: Step) -> None:
        """Add a step, behind those that wait for their frame."""
        if self._is_full:
            self._later.append(step)
        else:
            self._is_full = True
            super().put(step)

    async def next(self) -> pb.FromWorker:
        """Wait for the next message; the one after a frame is the next step's."""
        message = await super().next()
        if message.WhichOneof("message") == "tokens":
            self._is_full = False
            if self._later:
                self.put(self._later.popleft())
        return message


def run(argv: list[str]) -> int:
    """Replace the product's outbox and run the worker."""
    if vars(servicer).get("Outbox") is not Outbox:
        print("bench.peers.step_worker: worker.servicer uses no Outbox", file=sys.stderr)  # noqa: T201
        return 1
    vars(servicer)["Outbox"] = StepOutbox
    return main(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
