"""Kernels compiled inside a run: from the worker's pongs to run.json and the verdict."""

from pathlib import Path

import pytest

from coordinator.transport.compiled_kernels import MAX_NAMES, KernelCompilations
from protos import worker_pb2 as pb
from sut.results.compilations import WorkerCompilations, describe
from tests import fleet
from tests.forked import main_of

# A worker whose engine has a monitor like vLLM's: one kernel is compiled before the run, two are inside it.
COMPILES = """
import os
import sys
from types import SimpleNamespace
from worker.__main__ import main
from worker.engines.scripted.counting import CountingEngine
from worker.engines.vllm.compile_log import CompileLog
from worker.engines.vllm.compile_monitor import VARIABLE, EventFile, watch

log = CompileLog()
monitor = SimpleNamespace(activate=lambda **_: None, _handle_jit_event=lambda **_: None)
watch(monitor, EventFile(os.environ[VARIABLE]))
monitor.activate(mode="warn")
monitor._handle_jit_event(fn_name="before")
submit, load = CountingEngine.submit, CountingEngine.load

def compile_and_submit(self, prompts):
    if not log.counts().num:
        monitor._handle_jit_event(fn_name="_fwd_kernel")
        monitor._handle_jit_event(fn_name="\\x1b[2J")
    submit(self, prompts)

CountingEngine.open = lambda self, spec: log.begin_run()
CountingEngine.submit = compile_and_submit
CountingEngine.load = lambda self: load(self)._replace(compiled=log.counts())
sys.exit(main(sys.argv[1:]))
"""
UNKNOWN = """
import sys
from worker.__main__ import main
from worker.engines.scripted.counting import CountingEngine
load = CountingEngine.load
CountingEngine.load = lambda self: load(self)._replace(compiled=None)
sys.exit(main(sys.argv[1:]))
"""


def test_kernels_compiled_inside_the_run_are_a_warning(tmp_path: Path) -> None:
    """run.json has number, duration and names of each worker; the verdict warns and is not INVALID."""
    programs = {"compiles": COMPILES, "unknown": UNKNOWN}
    workers = [
        fleet.start_worker(tmp_path / f"{name}.log", program=main_of(code)) for name, code in programs.items()
    ]
    try:
        for worker in workers:
            fleet.wait_serving(worker)
        data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, i] for i in range(10)])
        ended = fleet.coordinate(workers, data, tmp_path / "out", "--accuracy", "--max-new-tokens", "8")
    finally:
        for worker in workers:
            worker.stop()
    assert 0 == ended.returncode, ended.stderr
    record = fleet.run_json(tmp_path / "out" / "offline" / "accuracy")
    compiled, unknown = (row["compiled_kernels"] for row in record["summary"]["workers"])
    assert {"num": 2, "num_untimed": 2, "ms": 0, "names": ["_fwd_kernel", "?[2J"]} == compiled
    assert unknown is None
    check = next(check for check in record["verdict"]["checks"] if check["name"] == "compiled_kernels")
    assert (True, True) == (check["passed"], check["warning"])
    assert check["seen"].startswith(
        "2 kernels were compiled inside the run on 1 of 1 workers, for at least 0 ms"
    )
    assert check["seen"].endswith(
        ": _fwd_kernel, ?[2J; not known of 1 of 2 workers: their engines do not tell"
    )


@pytest.mark.parametrize(
    "workers, num_workers, expected",
    [
        ([], 2, "not known of 2 of 2 workers: their engines do not tell"),
        ([WorkerCompilations("w:1", 0, 0, 0, ())], 1, "no kernel was compiled inside the run"),
        (
            [WorkerCompilations("w:1", 1, 0, 70, ("a",)), WorkerCompilations("w:2", 2, 0, 80, ("a", "b"))],
            2,
            "3 kernels were compiled inside the run on 2 of 2 workers, for 80 ms on w:2: a, b",
        ),
    ],
)
def test_the_line_of_the_verdict(workers: list[WorkerCompilations], num_workers: int, expected: str) -> None:
    """What is not known is called so, never 0; of several workers the longest time is named."""
    assert expected == describe(workers, num_workers)


def test_what_a_worker_says_is_bounded() -> None:
    """Names are cut and cleaned, numbers out of bounds count as unknown, streams are added up."""
    assert KernelCompilations.of(pb.EngineLoad()) is None
    too_many = pb.CompiledKernels(num=1 << 31, ms=1)
    assert KernelCompilations.of(pb.EngineLoad(compiled=too_many)) is None
    too_long = pb.CompiledKernels(num=1, ms=1 << 50)
    assert KernelCompilations.of(pb.EngineLoad(compiled=too_long)) is None
    names = [f"k{i}\n" + "x" * 200 for i in range(30)]
    found = KernelCompilations.of(pb.EngineLoad(compiled=pb.CompiledKernels(num=30, ms=9, names=names)))
    assert found is not None
    assert (MAX_NAMES, 100, "k0?x") == (len(found.names), len(found.names[0]), found.names[0][:4])
    twice = KernelCompilations.total([found, None, found])
    assert twice is not None
    assert (60, 18, found.names) == (twice.num, twice.ms, twice.names)
    assert KernelCompilations.total([None]) is None
