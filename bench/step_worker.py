"""`python -m bench.step_worker FLAGS`: `python -m worker` that sends each engine step in a frame of its own.

An engine whose steps take no time is ahead of every stream, and the product then merges what is pending. One
with a GPU's pace is not: its steps leave one by one, and this worker's do so flat out.
"""

import sys
from collections import deque

from protos import worker_pb2 as pb
from worker import servicer
from worker.__main__ import main
from worker.outbox import Outbox


class StepOutbox(Outbox):
    """Merges nothing; what is pending grows with the lead of the engine."""

    def _take_frame(self) -> pb.FromWorker:
        """Show the product the oldest step alone."""
        later = self._steps
        self._steps = deque([later.popleft()])
        message = super()._take_frame()
        self._steps = later
        self._due = bool(later)
        return message


def run(argv: list[str]) -> int:
    """Put that outbox in the product's place and run the worker's main."""
    if vars(servicer).get("Outbox") is not Outbox:
        print("bench.step_worker: worker.servicer makes no Outbox", file=sys.stderr)  # noqa: T201 - no result
        return 1
    vars(servicer)["Outbox"] = StepOutbox
    return main(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
