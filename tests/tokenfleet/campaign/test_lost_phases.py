"""A whole campaign loses itself (SIGKILL) or its worker in every phase, and ends in the same tree.

Files that differ from an undisturbed campaign: the logs of LoadGen hold times; accuracy logs are in the order
of completion, and so is their hash in accuracy.txt; README.md names the ports of the workers. To run them
(10 minutes): pytest -m long tests/tokenfleet/campaign/test_lost_phases.py
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import fleet
from tests.tokenfleet.campaign.plans import StartedCampaign
from tests.tokenfleet.campaign.small_benchmark import TREE_MOVES
from tests.tokenfleet.campaign.small_campaign import (
    RUNS,
    Process,
    SmallCampaign,
    stopped_process,
)
from tests.tokenfleet.test_local_run import wait_gone

pytestmark = pytest.mark.long
# Grading and laying out take seconds; a busy machine takes several times as long.
RUN_TIMEOUT_S = 300.0
END_TIMEOUT_S = 600.0
NUM_GRADED_BEFORE_KILL = 3
Documents = dict[str, str]


@contextlib.contextmanager
def small_campaign(directory: Path) -> Iterator[SmallCampaign]:
    """Prepare a campaign; whatever is left of it at the end is killed."""
    campaign = SmallCampaign(directory)
    try:
        yield campaign
    finally:
        campaign.kill_all()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """Carry out a campaign that nothing disturbs, and return its tree."""
    with small_campaign(tmp_path_factory.mktemp("undisturbed")) as small:
        started = small.start()
        assert 0 == started.end(END_TIMEOUT_S), started.text()
        assert small.expected_answers() == small.answers(small.directory / "tree")
        return small.documents()


class Phase(NamedTuple):
    """A phase in which the campaign is killed."""

    reach: Callable[[SmallCampaign, StartedCampaign], Process | None]
    """Waits until the phase is reached for certain; returns a stopped process that holds it there."""
    state: str
    """Last change of state that the campaign has shown by then."""
    resumed: str
    """What the next start shows when it repeats or continues the phase."""
    pause: str = ""
    """Place where the campaign waits for its end."""


def loading(small: SmallCampaign, started: StartedCampaign) -> Process:
    """Wait until the worker has started, and stop it before it serves."""
    started.wait_until(small.worker)
    process = Process(small.worker()["pid"])
    process.stop()
    assert "serving" not in (small.out / "logs" / "worker.log").read_text()
    return process


def running(run: str) -> Callable[[SmallCampaign, StartedCampaign], None]:
    """Wait until requests of a run are on the workers."""
    return lambda small, started: started.wait_until(lambda: small.is_busy(run), RUN_TIMEOUT_S)


def in_process(*words: str) -> Callable[[SmallCampaign, StartedCampaign], Process]:
    """Stop a process that has these words in its command line."""
    return lambda _, started: stopped_process(started, words)


def code_grading(small: SmallCampaign, started: StartedCampaign) -> Process:
    """Stop the grading of the Offline accuracy run when it has graded some programs, and not all."""
    run = "offline accuracy"
    process = stopped_process(started, ["tokenfleet", "accuracy"])
    deadline_s = time.monotonic() + RUN_TIMEOUT_S
    while len(small.graded(run)) < NUM_GRADED_BEFORE_KILL:
        assert time.monotonic() < deadline_s, started.text()
        process.resume()
        time.sleep(0.02)
        process.stop()
    assert not (small.run_dir(run) / "accuracy.json").exists()
    return process


def paused(small: SmallCampaign, started: StartedCampaign) -> None:
    """Wait until the campaign waits."""
    started.wait_for_file(small.paused, RUN_TIMEOUT_S)


TEST09_COMPLIANCE = ("sut.results.compliance", "out/offline/TEST09")
PHASES = {
    "worker start": Phase(loading, "offline performance: loading", "offline performance: loading"),
    "performance": Phase(
        running("offline performance"), "offline performance: running", "offline performance is run anew"
    ),
    "between runs": Phase(
        paused, "offline performance: done", "offline accuracy: running", "offline accuracy"
    ),
    "accuracy": Phase(
        running("offline accuracy"), "offline accuracy: running", "offline accuracy is run anew"
    ),
    "accuracy scoring": Phase(
        in_process("tokenfleet", "accuracy"), "offline accuracy: grading", "offline accuracy: grading"
    ),
    "code grading": Phase(code_grading, "offline accuracy: grading", "offline accuracy: grading"),
    "TEST07": Phase(running("offline TEST07"), "offline TEST07: running", "offline TEST07 is run anew"),
    "compliance of TEST07": Phase(
        in_process("tokenfleet", "compliance"), "offline TEST07: grading", "offline TEST07: grading"
    ),
    "TEST09": Phase(running("offline TEST09"), "offline TEST09: running", "offline TEST09 is run anew"),
    # The run itself decides TEST09, before it ends; its record is complete by then.
    "compliance of TEST09": Phase(
        in_process(*TEST09_COMPLIANCE), "offline TEST09: running", "offline TEST09: grading"
    ),
    "Server": Phase(
        running("server performance"), "server performance: running", "server performance is run anew"
    ),
    "layout": Phase(in_process("tokenfleet", "submission"), "server TEST09: done", "tree: "),
    "moves of the tree": Phase(paused, "server TEST09: done", "tree: ", TREE_MOVES),
}
REPEATED = [name for name, phase in PHASES.items() if "run anew" in phase.resumed]


def last_state(started: StartedCampaign) -> str:
    """Return the last change of state of a run in a campaign's output."""
    lines = [line.partition(" ")[2] for line in started.text().splitlines()]
    return [line for line in lines if any(line.startswith(f"{run}: ") for run in RUNS)][-1]


def test_a_campaign_killed_in_each_phase_ends_in_the_same_tree(
    tmp_path: Path, undisturbed: Documents
) -> None:
    """Thirteen kills: no accepted run is repeated, the worker stays loaded, graded programs stay graded."""
    with small_campaign(tmp_path) as small:
        finished: dict[str, str] = {}
        graded: list[dict[str, object]] = []
        expected, worker, markers, num_kept = "", {}, [], 0
        for phase in PHASES.values():
            started = small.start(phase.pause)
            markers.append(started.marker)
            process = phase.reach(small, started)
            shown = last_state(started)
            started.kill()
            if process is not None:
                process.resume()
            assert shown.startswith(phase.state), shown
            assert expected in started.text()
            worker = worker or small.worker()
            assert worker in (small.worker(), {}) or phase.state.startswith("server TEST09"), phase
            assert finished.items() <= small.finished().items(), phase
            finished |= small.finished()
            assert graded == small.graded("offline accuracy")[: len(graded)]
            graded = small.graded("offline accuracy")
            if phase.reach is code_grading:
                num_kept = len(graded)
            expected = phase.resumed
        last = small.start()
        assert 0 == last.end(END_TIMEOUT_S), last.text()
        assert expected in last.text()
        assert set(RUNS) == set(finished)
        assert finished == small.finished()
        assert len(REPEATED) == small.num_repeated()
        regraded = {row["key"] for row in small.graded("offline accuracy")[num_kept:]}
        assert num_kept >= NUM_GRADED_BEFORE_KILL
        assert not regraded & {row["key"] for row in graded[:num_kept]}
        assert small.expected_answers() == small.answers(tmp_path / "tree")
        assert undisturbed == small.documents()
        for marker in (*markers, last.marker):
            wait_gone(marker)


def lose_worker(small: SmallCampaign) -> None:
    """Kill the worker's node, which takes its replicas along; wait first until an earlier loss is over."""
    deadline_s = time.monotonic() + 60
    while True:
        with contextlib.suppress(ProcessLookupError):
            if worker := small.worker():
                os.kill(worker["pid"], signal.SIGKILL)
                return
        assert time.monotonic() < deadline_s, "the worker was not started again"
        time.sleep(0.1)


def lose_replica(small: SmallCampaign) -> None:
    """Kill a replica that has requests."""
    os.kill(small.replica_pid(), signal.SIGKILL)


class Loss(NamedTuple):
    """A loss of a worker in one phase of a campaign."""

    reach: Callable[[SmallCampaign, StartedCampaign], Process | None]
    lose: Callable[[SmallCampaign], None]
    run: str = ""
    """Run whose requests continue elsewhere; empty: the worker was idle."""


def loading_worker(small: SmallCampaign, started: StartedCampaign) -> None:
    """Wait until the first worker loads."""
    started.wait_until(small.worker)
    assert "serving" not in (small.out / "logs" / "worker.log").read_text()


def loss_in(run: str) -> Loss:
    """Lose a worker during a run: all of it, or in Server, where LoadGen bounds latencies, one replica."""
    return Loss(running(run), lose_replica if run.startswith("server") else lose_worker, run)


LOSSES = [
    Loss(loading_worker, lose_worker),
    loss_in("offline performance"),
    Loss(paused, lose_worker),
    loss_in("offline accuracy"),
    Loss(in_process("tokenfleet", "accuracy"), lose_worker),
    loss_in("offline TEST07"),
    Loss(in_process("tokenfleet", "compliance"), lose_worker),
    loss_in("offline TEST09"),
    Loss(in_process(*TEST09_COMPLIANCE), lose_worker),
    *(loss_in(f"server {kind}") for kind in ("performance", "accuracy", "TEST07", "TEST09")),
]


def test_a_campaign_that_loses_its_worker_ends_in_the_same_tree(
    tmp_path: Path, undisturbed: Documents
) -> None:
    """Thirteen losses in one start, none of which repeats a run; the workers have ended before the layout."""
    with small_campaign(tmp_path) as small:
        started = small.start("offline accuracy")
        for loss in LOSSES:
            process = loss.reach(small, started)
            loss.lose(small)
            if process is not None:
                process.resume()
            if loss.reach is paused:
                small.resume()
        assert 0 == started.end(END_TIMEOUT_S), started.text()
        lost = {run for run in RUNS if fleet.run_json(small.run_dir(run))["summary"]["losses"]}
        assert {loss.run for loss in LOSSES if loss.run} <= lost
        assert set(RUNS) == set(small.finished())
        assert 0 == small.num_repeated()
        assert small.expected_answers() == small.answers(tmp_path / "tree")
        assert undisturbed == small.documents()
        wait_gone(started.marker)
