"""A coordinator without memory, or killed: what it had received is on disk."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.scheduling.event_loop import BEATS_PER_FLUSH
from coordinator.transport.stream import BEAT_INTERVAL_S
from tests import fleet
from tests.coordinator.test_broken_runs import Started, check_freed, check_no_result, coordinator, wait_busy

BUDGET = 60_000
# One answer of 5 tokens to three of 3,000 steps of 20 ms, which do not end in this test.
PROMPTS = [[5 if i % 4 == 0 else 3000, 7, 1000 * i] for i in range(100)]
# 1,024 rows of 60,000 tokens are 246 MB of addresses. The run has more requests than that after 3 s.
CONF = "*.Server.min_duration = 60000\n*.Server.target_qps = 500\n"
HEADROOM_BYTES = 160 << 20
END_TIMEOUT_S = 40.0


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run one worker with room for all requests."""
    flags = ("--step-ms", "20", "--max-num-seqs", "8192")
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1, *flags) as (started,):
        yield started


def limit_address_space(run: Started) -> None:
    """Leave a coordinator some memory, but not as much as twice the rows take."""
    pages = int(Path(f"/proc/{run.process.pid}/statm").read_text().split()[0])
    num_bytes = pages * resource.getpagesize() + HEADROOM_BYTES
    resource.prlimit(run.process.pid, resource.RLIMIT_AS, (num_bytes, num_bytes))


def check_prefixes(samples: list[int], answers: list[list[int]], states: list[str]) -> None:
    """Check that each answer is the right one, or begins as it does."""
    for sample, tokens, state in zip(samples, answers, states, strict=True):
        whole = fleet.counting_answer(PROMPTS[sample], BUDGET)
        assert tokens == (whole if state == "complete" else whole[: len(tokens)]), sample


@pytest.mark.long
def test_a_run_without_memory_fails_and_keeps_what_it_had(
    worker: fleet.WorkerProcess, tmp_path: Path
) -> None:
    """Under RLIMIT_AS: FAILED with the reason, exit code 1, every answer in partial_outputs.parquet."""
    conf = fleet.write_conf(tmp_path / "server.conf", CONF)
    flags = ("--scenario", "server", "--max-new-tokens", str(BUDGET), "--user-conf", str(conf))
    with coordinator([worker], tmp_path, PROMPTS, *flags) as run:
        wait_busy([worker], run)
        limit_address_space(run)
        code, log = run.end(END_TIMEOUT_S)
    run_dir = tmp_path / "out" / "server" / "performance"
    assert 1 == code, log
    check_no_result(run_dir, "FAILED", "no memory for 2048 answers")
    found = pq.read_table(run_dir / "partial_outputs.parquet").to_pydict()
    check_prefixes(found["sample"], found["tokens"], found["state"])
    # All 1,024 slots were in use, some of them by complete answers; a quarter of the requests is short.
    assert len(found["state"]) >= 1024
    assert found["state"].count("complete") > 100
    assert found["state"].count("partial") > 700
    check_freed(worker)


@pytest.mark.long
def test_a_killed_run_has_complete_answers_on_disk(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """SIGKILL, as by the kernel's out-of-memory killer: outputs.arrows has what was complete 2 s before."""
    conf = fleet.write_conf(tmp_path / "server.conf", CONF)
    flags = ("--scenario", "server", "--max-new-tokens", str(BUDGET), "--user-conf", str(conf))
    with coordinator([worker], tmp_path, PROMPTS, *flags) as run:
        wait_busy([worker], run)
        stream = tmp_path / "out" / "server" / "performance" / "outputs.arrows"
        deadline_s = time.monotonic() + END_TIMEOUT_S
        while not stream.exists() or not stream.stat().st_size:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        time.sleep(BEATS_PER_FLUSH * BEAT_INTERVAL_S + 0.5)
        run.process.kill()
        run.process.wait(END_TIMEOUT_S)
    with pa.ipc.open_stream(stream) as reader:
        batches = list(batches_of(reader))
    samples = [sample for batch in batches for sample in batch["sample"]]
    tokens = [answer for batch in batches for answer in batch["tokens"]]
    assert len(samples) > 50
    check_prefixes(samples, tokens, ["complete"] * len(samples))
    assert "UNFINISHED" == fleet.run_json(stream.parent)["verdict"]["outcome"]
    check_freed(worker)


def batches_of(reader: pa.RecordBatchStreamReader) -> Iterator[dict[str, list[int]]]:
    """Read batches up to the end of the file, which a killed run does not close."""
    while True:
        try:
            yield reader.read_next_batch().to_pydict()
        except (StopIteration, pa.ArrowInvalid):
            return
