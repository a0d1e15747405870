"""Records steps of a running engine with vLLM's torch profiler."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.gpu.race.running_rows import RunningRows
from bench.gpu.race.step_log import StepRecord, spread_by_kind
from common.config_file import to_argv

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

# At its end the profiler writes the trace, of some 1,000 kernels a step.
WRITE_TIMEOUT_S = 300.0
# The engine is held up while the profiler starts: the first outputs after it come late, and close together.
_NUM_SKIPPED = 5


class RecordingSpec(NamedTuple):
    """What is recorded after each window."""

    directory: str
    """Directory for the traces, absolute."""
    steps_per_kind: int
    """Steps with and steps without prefill."""
    max_steps: int
    """Steps after which the recording ends, even if one kind is rare."""

    def argv(self) -> list[str]:
        """Return vLLM's flags that make its profiler available."""
        values = {
            "profiler": "torch",
            "torch_profiler_dir": self.directory,
            # Stacks and the front end cost time in each step, the summary costs it at the end.
            "torch_profiler_with_stack": False,
            "ignore_frontend": True,
            "torch_profiler_dump_cuda_time_total": False,
        }
        return to_argv({"profiler-config": values})


async def record_steps(llm: "AsyncLLM", rows: RunningRows, spec: RecordingSpec) -> dict[str, Any]:
    """Record steps and wait until the trace is written.

    Raises:
        TimeoutError: The profiler does not start or end in time, or writes no trace.
    """
    earlier = _traces(spec.directory)
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await llm.start_profile()
    first = len(rows.log.steps) + _NUM_SKIPPED
    await rows.run_until(lambda: _is_enough(rows.log.steps[first:], spec))
    recorded = rows.log.steps[first:]
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await llm.stop_profile()
    written = _traces(spec.directory) - earlier
    if not written:
        raise TimeoutError(f"vLLM's profiler has written no trace into {spec.directory}")
    # With tensor parallelism each rank writes one; all ranks make the same steps.
    return {"trace": min(written), "step_ms": spread_by_kind(recorded)}


def _traces(directory: str) -> set[str]:
    return {path.name for path in Path(directory).glob("*.pt.trace.json*")}


def _is_enough(steps: Sequence[StepRecord], spec: RecordingSpec) -> bool:
    with_prefill = sum(step.prompt_tokens > 0 for step in steps)
    rarer = min(with_prefill, len(steps) - with_prefill)
    return rarer >= spec.steps_per_kind or len(steps) >= spec.max_steps
