"""The price of the guards is measured on the product, and a guard that has moved is missed at once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import unguarded
from bench.guards import AGAIN, BARE, GUARDED, Case, Figures
from bench.ratios import Ratio
from bench.unguarded import GUARDS, GuardGone, Patch
from bench.workload import Load
from protos import frames
from tests.bench.outliving import run_bench
from tests.fleet import ROOT

# 8 requests in flight / (8 tokens * 5 ms) = 200 a second, for 0.3 s: 60 requests.
TINY = [
    "--in-flight",
    "8",
    "--answer-tokens",
    "8",
    "--step-ms",
    "5",
    "--seconds",
    "0.3",
    "--prompt-tokens",
    "4",
]
PATCHES = [patch for guard in GUARDS.values() for patch in guard.patches]


def case(guarded: list[float], bare: list[float]) -> Case:
    """Make a case from CPU figures by round; the second guarded side equals the first."""
    sides = {GUARDED: guarded, AGAIN: guarded, BARE: bare}
    return Case("light server", Load(), (), {name: [figures(c) for c in cpu] for name, cpu in sides.items()})


def figures(cpu: float) -> Figures:
    """Make a round's figures, all but the CPU's time alike."""
    return Figures(
        requests=1,
        tokens=1,
        answers_sha256="",
        frames=1,
        window_s=1.0,
        coordinator_cpu_s=cpu,
        coordinator_cpu_s_per_mtok=cpu,
        coordinator_cpu_us_per_frame=cpu,
        coordinator_cpu_ms_per_s=cpu,
        workers_cpu_s_per_mtok=1.0,
        tokens_per_s=1.0,
    )


def test_every_side_does_the_same_work(tmp_path: Path) -> None:
    """With guards and without, the same 60 requests complete with the same tokens."""
    output = tmp_path / "figures.json"
    flags = ["--rounds", "1", "--loads", "dense", "--scenarios", "offline", *TINY, "--output", str(output)]
    done = run_bench(["bench.guards", *flags])
    assert 0 == done.returncode, done.stdout + done.stderr
    sides = json.loads(output.read_text())["cases"]["dense offline"]["sides"]
    assert ["guarded", "again", "bare"] == list(sides)
    assert ["bench.unguarded", "coordinator", "all"] == sides["bare"]["drive"]
    rounds = [side["rounds"][0] for side in sides.values()]
    assert [60, 60, 60] == [figures["requests"] for figures in rounds]
    assert 1 == len({figures["answers_sha256"] for figures in rounds})
    assert all(figures["coordinator_cpu_s"] > 0 and figures["frames"] > 0 for figures in rounds)


@pytest.mark.parametrize("patch", PATCHES, ids=[patch.target for patch in PATCHES])
def test_every_guard_is_where_it_is_looked_for(patch: Patch) -> None:
    """Each name that is replaced exists in the product and is called as its replacement is."""
    unguarded.find(patch)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch("coordinator.gone:Guard.check", len), "coordinator.gone:Guard.check does not exist"),
        (Patch("coordinator.stream:gone", 1.0), "coordinator.stream:gone does not exist"),
        (Patch("coordinator.ledger:Ledger.gone", len), "coordinator.ledger:Ledger.gone does not exist"),
        (Patch("coordinator.stream:PING_INTERVAL_S", "1"), "is float, its replacement str"),
        (Patch("protos.frames:_tokens_digest", len), "is function of frame, its replacement"),
        (Patch("coordinator.dispatcher:Dispatcher._look", len), "is async function of"),
    ],
)
def test_a_guard_that_moved_is_missed(patch: Patch, message: str) -> None:
    """A module, name or method that is gone, of another type or with other arguments is named."""
    with pytest.raises(GuardGone, match=message):
        unguarded.replace(patch)


def test_a_process_that_misses_a_guard_ends_with_its_name() -> None:
    """Without the constant that it would replace the process ends with 1 before the product's main."""
    script = (
        "import sys, coordinator.stream; del coordinator.stream.PING_INTERVAL_S;"
        "from bench.unguarded import main; sys.exit(main(['coordinator', 'pings', '--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    line = "bench.unguarded: coordinator.stream:PING_INTERVAL_S does not exist: mend bench/unguarded.py\n"
    assert (1, line) == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("argv", "word"), [(["boss", "all"], "boss"), (["worker", "all,x"], "all"), ([], "")]
)
def test_what_is_no_role_or_guard_is_refused(argv: list[str], word: str) -> None:
    """An unknown role or guard, or none at all, gives exit code 2."""
    done = run_bench(["bench.unguarded", *argv])
    assert 2 == done.returncode
    assert word in done.stderr


def test_a_worker_gives_up_only_what_both_ends_share() -> None:
    """Of all guards a worker's process replaces the digests; the coordinator's are the coordinator's."""
    targets = [patch.target for patch in unguarded.patches_of("worker", "all")]
    assert ["protos.frames:_tokens_digest", "protos.frames:_submit_digest"] == targets


def test_a_digest_switched_off_is_neither_made_nor_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same frame with digest 0 is refused with the guard and taken without it."""
    none = np.zeros(0, np.uint32)
    columns = frames.TokenColumns(
        np.array([5], np.uint64), None, np.array([7], np.int32), none, none.astype(np.uint8), 1
    )
    frame = frames.pack_tokens(columns, packed_ns=2, sequence=0)
    frame.digest = 0
    with pytest.raises(frames.FrameError, match="digest"):
        frames.unpack_tokens(frame, 0)
    for patch in unguarded.patches_of("coordinator", "digest"):
        owner, name = unguarded.find(patch)
        monkeypatch.setattr(owner, name, patch.replacement)
    assert [7] == frames.unpack_tokens(frame, 0).tokens.tolist()
    assert 0 == frames.pack_tokens(columns, packed_ns=2, sequence=0).digest


@pytest.mark.parametrize(
    ("num", "left_out", "confidence"),
    # Outside: twice 1 of 2^6; twice 1 and 9 of 2^9; twice 1, 15, 105 and 455 of 2^15.
    [(1, 0, 0.0), (6, 0, 0.96875), (9, 1, 0.9609375), (15, 3, 0.96484375)],
)
def test_the_interval_of_a_median_is_the_sign_tests(num: int, left_out: int, confidence: float) -> None:
    """As many rounds are left out at each end as leave 95 %; below 6 rounds none are, and it says so."""
    ratio = Ratio.of([float(k) for k in range(num)], [1.0] * num)
    assert (left_out, num - 1 - left_out, confidence) == (ratio.low, ratio.high, ratio.confidence)


@pytest.mark.parametrize(
    ("guarded", "word"),
    [
        ([101.0] * 6, ": below"),
        ([105.0] * 6, ": ABOVE"),
        ([101.0] * 5 + [105.0], ": not decided"),
        ([101.0] * 5, ": not decided"),
    ],
)
def test_the_bound_is_judged_by_the_whole_interval(guarded: list[float], word: str) -> None:
    """1 % in six rounds is below the bound of 2 %, 5 % above; one round at 5 % or a round less: open."""
    assert word in case(guarded, [100.0] * len(guarded)).judgement()
