"""What a timer costs that does nothing: the wake-up itself."""

import asyncio
import time

NUM_WAKEUPS = 60
SPACING_S = 0.05


def wakeup_cost_ns() -> float:
    """Measure the CPU time of a wake-up in a quiet event loop; takes 6 s."""
    return asyncio.run(_measure())


async def _measure() -> float:
    begin_ns = time.process_time_ns()
    for _ in range(NUM_WAKEUPS):
        await asyncio.sleep(SPACING_S)
    middle_ns = time.process_time_ns()
    # As long, but woken once: what other threads of the process take meanwhile is no wake-up's.
    await asyncio.sleep(NUM_WAKEUPS * SPACING_S)
    rest_ns = time.process_time_ns() - middle_ns
    return max((middle_ns - begin_ns - rest_ns) / (NUM_WAKEUPS - 1), 0.0)
