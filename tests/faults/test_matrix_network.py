"""Workers on separate hosts: the network is cut in one direction or both, and restored early or late."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.crew import addresses_of, check_free, crew, wait_until
from tests.faults.hosts import Host, hosts
from tests.faults.moments import in_decode, seats
from tests.faults.table import Table

pytestmark = pytest.mark.long
DIRECTIONS = {
    "coordinator to worker": {"to_host": True},
    "worker to coordinator": {"from_host": True},
    "both ways": {"to_host": True, "from_host": True},
}


@pytest.fixture
def two() -> Iterator[list[Host]]:
    """Set up two hosts."""
    with hosts(2) as made:
        yield made


@pytest.mark.parametrize("mode", runs.MODES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_cut_healed_before_the_limit(
    tmp_path: Path, table: Table, two: list[Host], mode: str, direction: str
) -> None:
    """A cut of 1 s under a limit of 8 s loses no worker: TCP retransmits."""
    with crew(tmp_path, 2, "--step-ms", "5", "--max-num-seqs", seats(mode), hosts=two) as members:
        flags = ("--worker-timeout-s", "8")
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts(), *flags) as run:
            in_decode(members)
            two[0].cut(**DIRECTIONS[direction])
            time.sleep(1.0)
            two[0].heal()
            found = runs.check_valid(run)
        table.add(f"cut {direction} for 1 s, limit 8 s", run, 0)
        assert [] == found["summary"]["losses"]


@pytest.mark.parametrize("mode", runs.MODES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_cut_healed_after_the_limit(
    tmp_path: Path, table: Table, two: list[Host], mode: str, direction: str
) -> None:
    """A cut beyond the limit loses the worker; once restored, it is used again or free for the next run."""
    with crew(tmp_path, 2, "--step-ms", "5", "--max-num-seqs", seats(mode, 8), hosts=two) as members:
        flags = ("--worker-timeout-s", "2")
        prompts = runs.make_prompts(140)
        with runs.started(tmp_path, mode, addresses_of(members), prompts, *flags, server_s=9) as run:
            in_decode(members)
            injected_ns = time.monotonic_ns()
            two[0].cut(**DIRECTIONS[direction])
            wait_until(lambda: run.says(f"{members[0].address} lost: silent for 2 s"), "lost")
            two[0].heal()
            found = runs.check_valid(run)
        streams = found["summary"]["workers"][0]["streams"]
        back = "taken back" if streams > 1 else "not back in time"
        table.add(f"cut {direction}, limit 2 s, {back}", run, 0, injected_ns)
        [loss] = found["summary"]["losses"]
        assert members[0].address == loss["address"]
        check_free(members, 40)
