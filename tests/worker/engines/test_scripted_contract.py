"""The scripted engines keep the contract of an engine."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.worker.engines.engine_contract import EngineContract, Served
from worker.engine_protocol import Engine
from worker.engines.scripted import counting, replay, simulated
from worker.engines.scripted.answers_file import read_answers
from worker.prefill_groups import PrefillGroups

END = 200_002
# The first token is the length of the answer, which counts upward from the last one.
SHORT, LONG = [5, 17], [900, 30]
ANSWERS = [[18, 19, 20, 21, END], [*range(31, 930), END]]
SLOTS = 4


def counting_engine(_: Path) -> Engine:
    """Make the counting engine."""
    return counting.CountingEngine(counting.CountingConfig(step_ms=0.1, max_num_seqs=SLOTS))


def simulated_engine(_: Path) -> Engine:
    """Make the simulated engine; a prompt is prefilled in one step."""
    flags = "--prefill-tokens-per-s 1e6 --step-base-ms 0.1 --step-per-seq-us 1 --max-num-seqs 4"
    return simulated.SimulatedEngine(simulated.parse_engine_flags(flags.split()))


def engine_with_groups(_: Path) -> Engine:
    """Make the counting engine, with prompts in groups of two."""
    engine = counting.CountingEngine(counting.CountingConfig(step_ms=0.1, max_num_seqs=64))
    return PrefillGroups(engine, group_tokens=4, hold_s=0.002)


def replay_engine(directory: Path) -> Engine:
    """Make the replaying engine with the same answers in its file."""
    path = directory / "answers.parquet"
    table = pa.table({"input_tokens": [SHORT, LONG], "output_tokens": ANSWERS})
    pyarrow.parquet.write_table(table, path)
    config = replay.parse_engine_flags(["--answers", str(path), "--max-num-seqs", str(SLOTS)])
    return replay.ReplayEngine(config, read_answers(path))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Keep one event loop for the tests of this file."""
    with asyncio.Runner() as loop_runner:
        yield loop_runner


@pytest.fixture(scope="module", params=[counting_engine, simulated_engine, replay_engine, engine_with_groups])
def served(
    request: pytest.FixtureRequest, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Served:
    """Start the engine."""
    make: Callable[[Path], Engine] = request.param
    engine = make(tmp_path_factory.mktemp("engine"))
    info = runner.run(engine.start())
    return Served(engine, info, (SHORT, ANSWERS[0]), (LONG, ANSWERS[1][:12]))


class TestScriptedEngines(EngineContract):
    """Each of the three, and one behind groups of prompts."""
