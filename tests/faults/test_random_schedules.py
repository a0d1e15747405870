"""Random fault schedules: no token is lost, doubled or wrong."""

import collections
import concurrent.futures
import os
import queue
from pathlib import Path
from typing import Any

import pytest

from tests.faults.schedules import Lane, Schedule, draw, lane
from tests.faults.table import Table

NUM_SCHEDULES = 200
NUM_LANES = 2


def seeds() -> range:
    """Choose the seeds: FAULTS_SEEDS=a:b means a <= seed < b."""
    first, _, end = os.environ.get("FAULTS_SEEDS", f"0:{NUM_SCHEDULES}").partition(":")
    return range(int(first), int(end or int(first) + 1))


def play(lanes: "queue.Queue[Lane]", schedule: Schedule) -> Any:
    """Play a schedule on a lane that is free; returns run.json.

    Raises:
        AssertionError: The invariant does not hold; names the schedule.
    """
    free = lanes.get()
    try:
        return free.play(schedule)
    except Exception as error:
        raise AssertionError(f"{schedule}\n{error!r}") from error
    finally:
        lanes.put(free)


def count(outcomes: "collections.Counter[str]", found: Any) -> None:
    """Count the outcome and the losses of a run."""
    outcomes[found["verdict"]["outcome"]] += 1
    if found["verdict"]["reason"]:
        outcomes[f"run: {found['verdict']['reason']}"] += 1
    losses = found["summary"]["losses"]
    outcomes["losses"] += len(losses)
    outcomes["continued"] += len(found["summary"]["continuations"])
    outcomes["kept"] += sum(loss["kept_tokens"] for loss in losses)
    outcomes["resent"] += sum(loss["resent_tokens"] for loss in losses)


def reasons(outcomes: "collections.Counter[str]") -> list[str]:
    """List why runs were not VALID."""
    return [f"{num} {what}" for what, num in outcomes.items() if what.startswith("run: ")]


@pytest.mark.long
def test_invariant_of_random_schedules(tmp_path: Path, table: Table) -> None:
    """Each run is complete with every token as computed by hand, or fails with a reason and no summary."""
    outcomes: collections.Counter[str] = collections.Counter()
    failures = []
    with (
        lane(tmp_path / "a") as first,
        lane(tmp_path / "b") as second,
        concurrent.futures.ThreadPoolExecutor(NUM_LANES) as pool,
    ):
        lanes: queue.Queue[Lane] = queue.Queue()
        for one in (first, second):
            lanes.put(one)
        jobs = [pool.submit(play, lanes, draw(seed)) for seed in seeds()]
        for job in concurrent.futures.as_completed(jobs):
            try:
                count(outcomes, job.result())
            except AssertionError as error:
                failures.append(str(error))
    table.note(
        f"random schedules, seeds {seeds()[0]} to {seeds()[-1]}",
        outcome=", ".join(f"{outcomes[o]} {o}" for o in ("VALID", "NOT_GRADED", "INVALID", "FAILED")),
        continued=outcomes["continued"],
        kept=outcomes["kept"],
        resent=outcomes["resent"],
        happened=[f"{outcomes['losses']} losses", *reasons(outcomes)],
    )
    assert [] == failures, "\n\n".join(failures)
    # Otherwise the schedules would test too little.
    assert outcomes["VALID"] + outcomes["NOT_GRADED"] > len(seeds()) // 2
    assert outcomes["losses"] > len(seeds()) // 2
