"""bench.gpu: the requests of the product's side, over a worker with the counting engine."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import parquet

from bench.fleet.notes import RunNotes
from bench.fleet.schedule import scheduled_ns
from bench.gpu.coordinate import Setting, coordinate, coordinator_argv
from bench.gpu.load import Lengths, Work, prepare
from bench.gpu.loadgen import draw_arrivals, draw_offline
from bench.processes import Processes, wait_listening
from tests.fleet import free_port

SMALL = Lengths(requests=60, mean_prompt_len=6, max_prompt_len=12, mean_answer_len=5, max_answer_len=12)


@pytest.fixture
def counting(tmp_path: Path, checkpoint: Path) -> Iterator[SimpleNamespace]:
    """Prepare a setting with a counting worker, whose answers have the length that the first token names."""
    work: Work = prepare(checkpoint, SMALL, tmp_path)
    with Processes() as processes:
        port, log = free_port(), tmp_path / "worker.log"
        worker = processes.start(["worker", "--engine", "counting", "--port", str(port)], log)
        wait_listening(worker, port, log, 30.0)
        setting = Setting(processes, work, [], tmp_path, 60.0)
        yield SimpleNamespace(setting=setting, port=port)


def test_offline_asks_for_each_sample_once(counting: SimpleNamespace) -> None:
    """LoadGen's Offline run has the requests and tokens of the plan of the other sides, in its order."""
    setting = counting.setting
    plan = draw_offline(setting.processes, SMALL.requests, setting.directory)
    assert [*range(60)] == sorted(plan.samples.tolist()) != plan.samples.tolist()
    found = coordinate(counting.setting, counting.port, plan, "a")
    table = parquet.read_table(setting.directory / "a" / "offline" / "performance" / "requests.parquet")
    queries, samples = (table.column(name).to_numpy() for name in ("query", "sample"))
    assert plan.samples.tolist() == samples[queries.argsort()].tolist()
    expected = int(counting.setting.work.budgets.sum())
    assert (60, expected) == (found.requests, found.tokens)
    assert expected == counting.setting.work.num_tokens(plan)
    assert "VALID" == found.verdict


def test_arrivals_are_those_of_loadgens_server_run(counting: SimpleNamespace) -> None:
    """A real run issues the samples in the drawn order at the computed times."""
    setting = counting.setting
    plan = draw_arrivals(setting.processes, SMALL.requests, 200.0, setting.directory)
    samples = plan.samples.tolist()
    assert [*range(60)] == sorted(samples)
    argv, log = coordinator_argv(setting, counting.port, plan, "b")
    notes = setting.directory / "notes.npz"
    setting.processes.run(["bench.fleet.noted", str(notes), *argv[1:]], log, 60.0)
    found = RunNotes.read(notes)
    assert samples == found.issued_samples.tolist()
    seed = json.loads((setting.directory / "server-dry.json").read_text())["seed"]
    # Raises unless LoadGen's calls match these times.
    assert 60 == len(found.issue_delays_ns(seed, 200.0))
    assert scheduled_ns(seed, 200.0, 60).tolist() == plan.due_ns.tolist()


def test_the_ttft_of_each_request_is_the_one_that_loadgen_counts(counting: SimpleNamespace) -> None:
    """Of 60 requests in a Server run, the median is LoadGen's, which is the 31st.

    A busy machine may pause a thread between our reading of the clock and LoadGen's: that moves single
    requests, and the median by as many places.
    """
    setting = counting.setting
    plan = draw_arrivals(setting.processes, SMALL.requests, 200.0, setting.directory)
    found = coordinate(setting, counting.port, plan, "b")
    assert 60 == len(found.request_ttft_ms)
    ttft_ms = sorted(found.request_ttft_ms)
    assert ttft_ms[30 - 3] - 1.0 <= found.ttft_ms["p50"] <= ttft_ms[30 + 3] + 1.0
