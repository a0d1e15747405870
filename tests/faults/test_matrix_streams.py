"""Connection faults: reset inside a frame, slow reading, dropped data in one direction or both."""

import time
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.crew import addresses_of, crew, wait_until
from tests.faults.moments import in_decode, seats
from tests.faults.proxy import proxied
from tests.faults.table import Table

pytestmark = pytest.mark.long
STEP = ("--step-ms", "5", "--max-num-seqs")


@pytest.mark.parametrize("mode", runs.MODES)
@pytest.mark.parametrize("num_bytes", [1, 333, 4000])
def test_reset_inside_a_frame(tmp_path: Path, table: Table, mode: str, num_bytes: int) -> None:
    """After a reset inside a frame, complete frames are kept and the rest is produced again, once."""
    with (
        crew(tmp_path, 2, *STEP, seats(mode)) as members,
        proxied(addresses_of(members)) as proxies,
        runs.started(tmp_path, mode, [proxy.address for proxy in proxies], runs.make_prompts()) as run,
    ):
        in_decode(members)
        injected_ns = time.monotonic_ns()
        proxies[0].reset_after(num_bytes)
        wait_until(lambda: proxies[0].num_resets == 1, "the reset")
        found = runs.check_valid(run)
    table.add(f"reset inside a frame after {num_bytes} bytes", run, 0, injected_ns)
    [loss] = found["summary"]["losses"]
    assert proxies[0].address == loss["address"]
    assert "UNAVAILABLE" in loss["reason"]


@pytest.mark.parametrize("mode", runs.MODES)
def test_slow_reader(tmp_path: Path, table: Table, mode: str) -> None:
    """A worker on a 20 kB/s connection is slow but not lost: its pongs are late, its tokens exact."""
    # It produces some 100 kB/s.
    prompts = runs.make_prompts(150, shortest=350, longest=400)
    with (
        crew(tmp_path, 2, *STEP, "256") as members,
        proxied(addresses_of(members)) as proxies,
        runs.started(tmp_path, mode, [proxy.address for proxy in proxies], prompts) as run,
    ):
        in_decode(members)
        proxies[0].throttle(20_000)
        found = runs.check_valid(run)
    table.add("worker read at 20 kB/s", run, 0)
    assert [] == found["summary"]["losses"]
    # The brake held: at full speed this would have taken a fifth of the time.
    assert found["wall_s"] > proxies[0].num_bytes / 20_000 / 2


@pytest.mark.parametrize("mode", runs.MODES)
@pytest.mark.parametrize("late", [False, True])
def test_swallowed_for_a_while(tmp_path: Path, table: Table, mode: str, late: bool) -> None:
    """A silent connection loses its worker only beyond the limit."""
    limit_s = "2" if late else "6"
    prompts = runs.make_prompts(140)
    with (
        crew(tmp_path, 2, *STEP, seats(mode, 8)) as members,
        proxied(addresses_of(members)) as proxies,
        runs.started(
            *(tmp_path, mode, [proxy.address for proxy in proxies], prompts),
            *("--worker-timeout-s", limit_s),
            server_s=9,
        ) as run,
    ):
        in_decode(members)
        injected_ns = time.monotonic_ns()
        proxies[0].swallow()
        if late:
            wait_until(lambda: run.says(f"{proxies[0].address} lost: silent for 2 s"), "lost")
        else:
            time.sleep(1.5)
        proxies[0].heal()
        found = runs.check_valid(run)
    when = f"beyond the limit of {limit_s} s" if late else f"for 1.5 s, limit {limit_s} s"
    table.add(f"connection swallows {when}", run, 0, injected_ns)
    expected = [proxies[0].address] if late else []
    assert expected == [loss["address"] for loss in found["summary"]["losses"]]
