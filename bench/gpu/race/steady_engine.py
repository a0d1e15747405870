"""`python -m bench.gpu.race.steady_engine SPEC.json`: one engine in steady state, for bench.gpu race.

The engine is vLLM's engine core without the worker around it. Each line of standard output is a JSON message
about a part that has ended; the last one is "done" or "failed".
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.flag_help import prints_usage
from bench.gpu.race.running_rows import RunningRows
from bench.gpu.race.steady_load import RaceLengths, SteadyLoad
from bench.gpu.race.step_log import WindowSetting, window_figures
from bench.gpu.race.step_recording import RecordingSpec, record_steps
from bench.gpu.replay import say_answer, take_output
from bench.processes import read_cpu_s
from worker.engine_protocol import EngineDead
from worker.engines.vllm.causes import CauseLog, one_line
from worker.engines.vllm.compile_log import CompileLog
from worker.engines.vllm.engine_args import build_engine, parse_engine_flags
from worker.engines.vllm.engine_core import CoreClient
from worker.machine.nvml import process_tree

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

RECORDED = "recorded"
"""Part after each window if steps are recorded."""
MIN_STEPS = 3
Say = Callable[[Mapping[str, object]], None]


class SteadySpec(NamedTuple):
    """Task of the process; written as JSON by `to_json`."""

    model: str
    argv: list[str]
    """vLLM's flags."""
    rows: list[int]
    """Requests that run at a time in each window, not ascending."""
    window_s: list[float]
    """Length of each window."""
    settle_s: float
    """Time between a change of the rows and the window."""
    prefill_group_tokens: list[int]
    """Prompt tokens of a group of requests in each window; 0: no groups."""
    requests_per_prefix: int
    lengths: RaceLengths
    recording: RecordingSpec | None = None
    """What is recorded after each window; None: nothing."""

    def to_json(self) -> str:
        """Return the content of the file."""
        recording = None if self.recording is None else self.recording._asdict()
        return json.dumps(self._asdict() | {"lengths": asdict(self.lengths), "recording": recording})

    @classmethod
    def read(cls, path: Path) -> "SteadySpec":
        """Read the file."""
        values = json.loads(path.read_text(encoding="utf-8"))
        recording = values["recording"] and RecordingSpec(**values["recording"])
        return cls(**values | {"lengths": RaceLengths(**values["lengths"]), "recording": recording})


def main(argv: list[str]) -> int:
    """Load the engine and measure all windows."""
    if prints_usage(argv, __doc__):
        return 0
    answers = take_output()
    spec = SteadySpec.read(Path(argv[0]))
    begun_s = time.monotonic()

    def say(message: Mapping[str, object]) -> None:
        say_answer(answers, {"after_s": time.monotonic() - begun_s, **message})

    with closing(CauseLog(is_local=True)) as causes, closing(CompileLog()) as compile_log:
        try:
            recording = [] if spec.recording is None else spec.recording.argv()
            flags = parse_engine_flags([*spec.argv, *recording], spec.model)
            say({"part": "imported"})
            llm = build_engine(flags)
            say({"part": "loaded"})
            asyncio.run(_Windows(spec, llm, compile_log, say).measure())
        except (EngineDead, ValueError, TimeoutError) as error:
            say({"part": "failed", "reason": causes.first() or one_line(error)})
            return 1
    # The caller kills this process now: vLLM's processes end with it, without the seconds of a shutdown.
    say({"part": "done"})
    return 0


class _Windows:
    """The windows of one engine."""

    def __init__(self, spec: SteadySpec, llm: "AsyncLLM", compile_log: CompileLog, say: Say) -> None:
        self._spec = spec
        self._llm = llm
        self._compile_log = compile_log
        self._say = say
        self._load = SteadyLoad(spec.lengths)
        cache, scheduler = llm.vllm_config.cache_config, llm.vllm_config.scheduler_config
        self._setting = WindowSetting(
            self._load.prompt_tokens_per_output_token,
            self._load.answers,
            cache.num_gpu_blocks or 1,
            cache.block_size,
        )
        self._engine = {
            "kv_blocks": cache.num_gpu_blocks,
            "kv_block_size": cache.block_size,
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "async_scheduling": bool(scheduler.async_scheduling),
        }

    async def measure(self) -> None:
        """Start the requests of the first window, then measure each window."""
        spec = self._spec
        core = CoreClient(self._llm)
        await core.prepare()
        vocab_size = self._llm.vllm_config.model_config.get_vocab_size()
        rows = RunningRows(core, self._load, vocab_size)
        gc.collect()
        gc.freeze()
        await rows.start(spec.rows[0], spec.requests_per_prefix)
        self._say({"part": "running", "engine": self._engine, **rows.start_figures()})
        windows = zip(spec.rows, spec.window_s, spec.prefill_group_tokens, strict=True)
        for num_rows, window_s, group_tokens in windows:
            await rows.reduce(num_rows)
            rows.group_prompts(group_tokens)
            await rows.run_for(spec.settle_s)
            figures = await self._window(rows, num_rows, window_s)
            self._say({"part": "window", "figures": figures | {"prefill_group_tokens": group_tokens}})
            if spec.recording is not None:
                recorded = await record_steps(self._llm, rows, spec.recording)
                self._say({"part": RECORDED, "rows": num_rows, **recorded})

    async def _window(self, rows: RunningRows, num_rows: int, window_s: float) -> dict[str, Any]:
        self._compile_log.begin_run()
        before_s, begin_ns, begin_s = _cpu_s(), time.monotonic_ns(), time.time()
        await rows.run_for(window_s)
        after_s, end_ns, end_s = _cpu_s(), time.monotonic_ns(), time.time()
        steps = rows.log.between(begin_ns, end_ns)
        if len(steps) < MIN_STEPS:
            raise TimeoutError(f"{len(steps)} steps within {window_s:g} s, fewer than {MIN_STEPS}")
        compiled = self._compile_log.counts()
        took_s = (end_ns - begin_ns) / 1e9
        return {
            "rows": num_rows,
            "begin_s": begin_s,
            "end_s": end_s,
            **window_figures(steps, self._setting),
            "expected_context_len": self._load.mean_context_len,
            "compiled": None if compiled is None else compiled._asdict(),
            "front_cores": (after_s[0] - before_s[0]) / took_s,
            "engine_cores": (after_s[1] - before_s[1]) / took_s,
        }


def _cpu_s() -> tuple[float, float]:
    """Return the CPU time of this process, and of vLLM's processes."""
    return time.process_time(), sum(map(read_cpu_s, process_tree(os.getpid()) - {os.getpid()}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
