"""`tokenfleet campaign` with the counting engine: complete, killed in each phase, interrupted, refused."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fleet
from tests.tokenfleet.campaign.plans import (
    StartedCampaign,
    change_num_cores,
    run_ids,
    stop_local_worker,
    write_rehearsal,
)
from tests.tokenfleet.test_local_run import wait_gone

pytestmark = pytest.mark.long
SLOW = ("step-ms = 2", "step-ms = 60")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Give a directory; a worker that is left there is killed."""
    yield tmp_path
    stop_local_worker(tmp_path / "out")


def local_pid(output_dir: Path) -> int:
    """Return the process id of the local worker."""
    (process,) = json.loads((output_dir / "campaign.json").read_text())["local_workers"]
    pid: int = process["pid"]
    return pid


def run_states(output_dir: Path) -> dict[str, str]:
    """Return the state of each run by campaign.json."""
    runs = json.loads((output_dir / "campaign.json").read_text())["runs"]
    return {name: facts["state"] for name, facts in runs.items()}


def test_a_campaign_repeats_only_what_does_not_count(directory: Path) -> None:
    """A second start repeats nothing; a lost run, or one of another plan, is run anew and alone."""
    out = directory / "out"
    plan = write_rehearsal(directory)
    first = StartedCampaign(plan)
    assert 0 == first.end(), first.text()
    assert "2 of 2 done" in first.text()
    ids = run_ids(out)
    assert {"offline performance", "offline accuracy"} == set(ids)
    wait_gone(first.marker)
    assert [] == json.loads((out / "campaign.json").read_text())["local_workers"]

    again = StartedCampaign(plan)
    assert 0 == again.end()
    assert ids == run_ids(out)
    assert "loading" not in again.text()
    assert dict.fromkeys(ids, "kept") == run_states(out)

    (out / "offline" / "accuracy" / "run.json").unlink()
    third = StartedCampaign(plan)
    assert 0 == third.end()
    assert ids["offline performance"] == run_ids(out)["offline performance"]
    assert ids["offline accuracy"] != run_ids(out)["offline accuracy"]

    write_rehearsal(directory, ("max-new-tokens = 64", "max-new-tokens = 32"))
    changed = StartedCampaign(plan)
    assert 0 == changed.end()
    assert "offline accuracy is run anew: sampling of the plan changed" in changed.text()
    assert set(ids.values()) & set(run_ids(out).values()) == set()
    # What does not count is set aside, not deleted.
    names = ["offline-accuracy-1", "offline-accuracy-2", "offline-performance-1"]
    assert names == sorted(path.name for path in (out / "superseded").iterdir())


def test_output_that_nobody_reads_stops_no_campaign(directory: Path) -> None:
    """Stdout and stderr are a full pipe whose reader is stopped: every run is made, exit code 0."""
    with fleet.full_pipe() as output:
        campaign = StartedCampaign(write_rehearsal(directory), stdout=output, stderr=output)
        try:
            assert 0 == campaign.end()
        finally:
            campaign.kill()
    assert {"done"} == set(run_states(directory / "out").values())


def test_output_that_cannot_be_written_is_told_at_the_end(directory: Path) -> None:
    """Stdout is a closed pipe: every run is made, then one line on stderr and exit code 1."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        campaign = StartedCampaign(write_rehearsal(directory), stdout=writer)
    finally:
        os.close(writer)
    assert 1 == campaign.end()
    assert "campaign: stdout: [Errno 32] Broken pipe" == campaign.text().splitlines()[-1]
    assert {"done"} == set(run_states(directory / "out").values())


def test_runs_of_another_engine_than_the_plan_has_now_do_not_count(directory: Path) -> None:
    """Other worker flags are compared by the engine hash: another step time keeps runs, a seed does not."""
    out = directory / "out"
    first = StartedCampaign(write_rehearsal(directory))
    assert 0 == first.end(), first.text()
    ids = run_ids(out)

    same = StartedCampaign(write_rehearsal(directory, ("step-ms = 2", "step-ms = 3")))
    assert 0 == same.end(), same.text()
    assert "group all: the worker flags changed; its engine is compared with the runs" in same.text()
    assert ids == run_ids(out)

    other = StartedCampaign(write_rehearsal(directory, ("step-ms = 2", "step-ms = 2\nseed = 5")))
    assert 0 == other.end(), other.text()
    assert "offline accuracy is run anew: the workers have another engine hash" in other.text()
    assert set(ids.values()) & set(run_ids(out).values()) == set()


def test_without_a_tree_runs_may_have_had_other_machines(directory: Path) -> None:
    """A rehearsal of two groups on unlike nodes: the run that counts stays, and the other one is run."""
    out = directory / "out"
    plan = write_rehearsal(directory)
    first = StartedCampaign(plan)
    assert 0 == first.end(), first.text()
    ids = run_ids(out)
    (out / "offline" / "accuracy" / "run.json").unlink()
    change_num_cores(out / "offline" / "performance" / "run.json")
    again = StartedCampaign(plan)
    assert 0 == again.end(), again.text()
    assert ids["offline performance"] == run_ids(out)["offline performance"]


def test_a_run_whose_logs_changed_does_not_count(directory: Path) -> None:
    """One log is cut short and one is lost: no tree could hold these runs, and both are run anew at once."""
    out = directory / "out"
    plan = write_rehearsal(directory)
    first = StartedCampaign(plan)
    assert 0 == first.end(), first.text()
    ids = run_ids(out)
    detail = out / "offline" / "performance" / "mlperf_log_detail.txt"
    detail.write_bytes(detail.read_bytes()[:-1])
    (out / "offline" / "accuracy" / "mlperf_log_accuracy.json").unlink()

    again = StartedCampaign(plan)
    assert 0 == again.end(), again.text()
    reason = "is not the file of the run any more"
    assert f"offline performance is run anew: mlperf_log_detail.txt {reason}" in again.text()
    assert f"offline accuracy is run anew: mlperf_log_accuracy.json {reason}" in again.text()
    assert set(ids.values()) & set(run_ids(out).values()) == set()


def test_a_killed_campaign_continues(directory: Path) -> None:
    """SIGKILL in each phase: the worker stays loaded, what counts is kept, everything is done in the end."""
    out = directory / "out"
    plan = write_rehearsal(directory, SLOW)
    loading = StartedCampaign(plan)
    loading.wait_for("offline performance: running")
    pid = local_pid(out)
    loading.kill()

    running = StartedCampaign(plan)
    running.wait_for_file(out / "offline" / "performance" / "run.json")
    assert pid == local_pid(out)
    running.kill()

    accuracy = StartedCampaign(plan)
    accuracy.wait_for("offline accuracy: running")
    kept = run_ids(out)["offline performance"]
    accuracy.wait_for_file(out / "offline" / "accuracy" / "run.json")
    assert pid == local_pid(out)
    accuracy.kill()

    last = StartedCampaign(plan)
    assert 0 == last.end(), last.text()
    assert kept == run_ids(out)["offline performance"]
    assert "offline performance: kept" in last.text()
    assert {"offline-performance-1", "offline-accuracy-1"} == {
        path.name for path in (out / "superseded").iterdir()
    }
    wait_gone(loading.marker)
    wait_gone(last.marker)


def test_an_interrupted_accuracy_run_starts_anew(directory: Path) -> None:
    """No answer of the interrupted run is given to LoadGen: the second worker counts with another seed."""
    out = directory / "out"
    only = ('runs = ["performance", "accuracy"]', 'runs = ["accuracy"]')
    interrupted = StartedCampaign(write_rehearsal(directory, SLOW, only))
    interrupted.wait_for_file(out / "offline" / "accuracy" / "run.json")
    log = out / "offline" / "accuracy" / "rejected_mlperf_log_accuracy.json"
    interrupted.wait_for_file(log)
    interrupted.kill()
    plan = write_rehearsal(directory, ("step-ms = 2", "step-ms = 2\nseed = 5"), only)
    anew = StartedCampaign(plan)
    assert 0 == anew.end(), anew.text()
    prompts = fleet.counting_prompts(40)
    expected = {
        index: fleet.counting_answer([*prompt[:-1], prompt[-1] + 5], 64)
        for index, prompt in enumerate(prompts)
    }
    entries = fleet.accuracy_entries(out / "offline" / "accuracy")
    assert expected == {entry["qsl_idx"]: fleet.tokens_of(str(entry["data"])) for entry in entries}
    assert 40 == len(entries)
    record = fleet.run_json(out / "offline" / "accuracy")
    assert [40] == [worker["requests"] for worker in record["summary"]["workers"]]


def test_a_lost_worker_is_started_again(directory: Path) -> None:
    """A worker killed in a run is started on the same port; the run ends with a warning, or is repeated."""
    out = directory / "out"
    flags = ("[coordinator]", "[coordinator]\nno-worker-timeout-s = 20")
    campaign = StartedCampaign(write_rehearsal(directory, SLOW, flags))
    campaign.wait_for_file(out / "offline" / "performance" / "run.json")
    os.kill(local_pid(out), signal.SIGKILL)
    assert 0 == campaign.end(), campaign.text()
    assert {"offline performance", "offline accuracy"} == set(run_ids(out))
    checks = fleet.run_json(out / "offline" / "performance")["verdict"]["checks"]
    (lost,) = (check["warning"] for check in checks if check["name"] == "continuation")
    (row,) = re.findall(r"^offline performance  .* done  .*", campaign.text(), re.M)
    assert lost == ("; warn continuation" in row), row
    wait_gone(campaign.marker)


def test_a_run_that_fails_too_often_stops_the_campaign(directory: Path) -> None:
    """Three attempts, then exit code 1 with the reason; the worker is stopped."""
    flags = ("[coordinator]", '[coordinator]\non-worker-loss = "fail"')
    attempts = ('output-dir = "out"', 'output-dir = "out"\nmax-attempts = 2')
    campaign = StartedCampaign(write_rehearsal(directory, SLOW, flags, attempts))
    record = directory / "out" / "offline" / "performance" / "run.json"
    for attempt in (1, 2):
        campaign.wait_for(f"attempt {attempt}" if attempt > 1 else "running")
        campaign.wait_for_file(record)
        os.kill(local_pid(directory / "out"), signal.SIGKILL)
        campaign.wait_for(f"offline performance, attempt {attempt}: ")
    assert 1 == campaign.end(), campaign.text()
    assert "campaign: offline performance: failed 2 times, last: " in campaign.text()
    wait_gone(campaign.marker)


def test_a_signal_ends_everything(directory: Path) -> None:
    """SIGTERM in a run: exit code 143, no process is left, and the run is recorded as interrupted."""
    out = directory / "out"
    campaign = StartedCampaign(write_rehearsal(directory, SLOW))
    campaign.wait_for_file(out / "offline" / "performance" / "run.json")
    second = StartedCampaign(directory / "plan.toml")
    assert 2 == second.end()
    assert "out belongs to a campaign that has not ended" in second.text()
    campaign.process.send_signal(signal.SIGTERM)
    assert 143 == campaign.end()
    assert {"offline performance": "stopped"} == run_states(out)
    assert "INTERRUPTED" == fleet.run_json(out / "offline" / "performance")["verdict"]["outcome"]
    wait_gone(campaign.marker)
