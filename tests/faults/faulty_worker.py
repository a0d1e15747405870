"""A worker daemon whose counting engine misbehaves on demand, for tests.

    python -m tests.faults.faulty_worker --first-step-ms 1000 <flags of python -m worker>

Where nothing is demanded it is the counting engine. A prompt's second token demands:

| token | what the engine does with the prompt |
|---|---|
| EXITS | the process ends as soon as the prompt runs |
| DIES | the engine dies as soon as the prompt runs |
| FORGETS | after FORGETS_AFTER tokens it says nothing more of it; a prompt that continues is answered |
"""

import argparse
import asyncio
import os
import sys

import numpy as np

from protos.columns import PromptColumns
from worker import __main__ as worker_main
from worker.engine_protocol import EngineDead, Step
from worker.engines.scripted import counting

EXITS, DIES, FORGETS = 11, 12, 13
FORGETS_AFTER = 5
EXIT_CODE = 9


class FaultyEngine(counting.CountingEngine):
    """A counting engine that fails when a prompt demands it."""

    first_step_s = 0.0
    """Extra duration of the first step of the process, in seconds."""

    def __init__(self, config: counting.CountingConfig) -> None:
        super().__init__(config)
        self._demands: dict[int, int] = {}
        self._num_steps: dict[int, int] = {}
        self._begun = False

    def submit(self, prompts: PromptColumns) -> None:
        """Queue prompts and note the faults they demand."""
        ends = prompts.prompt_lens.cumsum(dtype=np.int64)
        starts = ends - prompts.prompt_lens
        demands = prompts.prompt_tokens[np.minimum(starts + 1, ends - 1)]
        demands[(demands == FORGETS) & (prompts.produced > 0)] = 0
        self._demands |= dict(zip(prompts.requests.tolist(), demands.tolist(), strict=True))
        super().submit(prompts)

    async def reset(self) -> None:
        """Forget every request."""
        self._demands.clear()
        self._num_steps.clear()
        await super().reset()

    def _admit(self) -> int:
        num_admitted = super()._admit()
        demands = {self._demands[name] for name in self._running.requests.tolist()}
        if EXITS in demands:
            os._exit(EXIT_CODE)
        if DIES in demands:
            raise EngineDead("a prompt killed it")
        return num_admitted

    async def _pass_time(self, num_admitted: int) -> None:
        await super()._pass_time(num_admitted)
        if not self._begun:
            self._begun = True
            await asyncio.sleep(self.first_step_s)

    def _advance(self) -> Step:
        step = super()._advance()
        for name in step.columns.requests.tolist():
            if self._demands[name] == FORGETS:
                self._num_steps[name] = self._num_steps.get(name, 0) + 1
                if self._num_steps[name] == FORGETS_AFTER:
                    self.cancel([name])
        return step


def main(argv: list[str]) -> int:
    """Run the daemon with the faulty engine instead of the counting engine."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--first-step-ms", type=float, default=0.0)
    own, rest = parser.parse_known_args(argv)
    FaultyEngine.first_step_s = own.first_step_ms / 1e3
    counting.CountingEngine = FaultyEngine  # type: ignore[misc]
    return worker_main.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
