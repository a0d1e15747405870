"""The price of the guards is measured on the product, and a guard that has moved is missed at once."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench import guards, switched, unguarded, wakeups
from bench.unguarded import ALL, GUARDS, NONE, WORKERS_PATCH, GuardGone, Patch
from bench.windows import Cost, Pair, Window, steady_pairs
from coordinator.transport import stream
from protos import columns as wire
from tests.bench.outliving import check_takes_all_along
from tests.fleet import ROOT
from tests.forked import end_of

# 8 requests in flight / (16 tokens * 5 ms) = 100 a second, for 0.6 s: 60 requests.
TINY = [
    *["--in-flight", "8", "--answer-tokens", "16", "--step-ms", "5", "--seconds", "0.6"],
    *["--prompt-tokens", "4", "--window-s", "0.02"],
]
COMMAND = ["bench.guards", "--loads", "dense", "--scenarios", "server", *TINY]
PATCHES = [patch for guard in GUARDS.values() for patch in guard.patches]
MILLISECOND_NS = 1_000_000


def window(guarded: int, cpu_ms: float, frames_in: int = 10, wall_s: float = 0.2) -> Window:
    """Make a window with ten tokens a frame."""
    return Window(guarded, int(cpu_ms * MILLISECOND_NS), frames_in, 10 * frames_in, int(wall_s * 1e9))


def pairs_of(on_ms: list[float], off_ms: list[float]) -> list[Pair]:
    """Make pairs from the CPU time of their windows."""
    return [Pair(window(1, on), window(0, off)) for on, off in zip(on_ms, off_ms, strict=True)]


def main_of_quick_wakeups(argv: list[str]) -> int:
    """Be bench.guards, with wake-ups measured in 0.6 s instead of 6."""
    wakeups.SPACING_S /= 10
    return guards.main(argv)


def test_every_side_does_the_same_work_while_its_guards_go_on_and_off(tmp_path: Path) -> None:
    """Switched by turns and not at all, the same 60 requests are VALID with the same tokens."""
    output = tmp_path / "figures.json"
    argv = [*COMMAND[1:], "--output", str(output)]
    done = end_of(main_of_quick_wakeups, argv, tmp_path, timeout_s=120)
    assert 0 == done.code, done.stdout + done.stderr
    record = json.loads(output.read_text())
    assert 0 < record["wakeup_ns"] < 1e9
    sides = record["cases"]["dense server"]["sides"]
    assert [ALL, NONE] == list(sides)
    assert ["bench.switched", ALL, "0.02", "{output_dir}.windows.json"] == sides[ALL]["drive"]
    runs = [side["rounds"][0] for side in sides.values()]
    assert [60, 60] == [run["requests"] for run in runs]
    assert 1 == len({run["answers_sha256"] for run in runs})
    for run in runs:
        windows = [Window(*row) for row in run["windows"]]
        assert {0, 1} == {w.guarded for w in windows if w.frames}
        assert all(a.guarded + b.guarded == 1 for a, b in zip(windows[::2], windows[1::2], strict=False))
        assert 0 < sum(w.tokens for w in windows) <= run["tokens"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_benchmark(tmp_path: Path, signum: signal.Signals) -> None:
    """Interrupted or killed, the benchmark takes its workers and coordinator along."""
    # Two sides with two workers each, and a coordinator.
    check_takes_all_along(COMMAND, 5, tmp_path, signum)


@pytest.mark.parametrize("patch", [*PATCHES, WORKERS_PATCH], ids=lambda patch: patch.target)
def test_every_guard_is_where_it_is_looked_for(patch: Patch) -> None:
    """Each name that is replaced exists in the product and is called as its replacement is."""
    unguarded.find(patch)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch("coordinator.gone:Guard.check", len), "coordinator.gone:Guard.check does not exist"),
        (Patch("coordinator.transport.stream:gone", len), "coordinator.transport.stream:gone does not exist"),
        (
            Patch("coordinator.scheduling.request_table:RequestTable.gone", len),
            "coordinator.scheduling.request_table:RequestTable.gone does not exist",
        ),
        (Patch("coordinator.transport.stream:BEAT_INTERVAL_S", len), "is float, its replacement function"),
        (Patch("protos.columns:digest_of", len), "is function of packed, its replacement function of obj"),
        (Patch("coordinator.scheduling.event_loop:EventLoop._look", len), "is async function of"),
    ],
)
def test_a_guard_that_moved_is_missed(patch: Patch, message: str) -> None:
    """A module, name or method that is gone, of another type or with other arguments is named."""
    with pytest.raises(GuardGone, match=message):
        unguarded.find(patch)


@pytest.mark.parametrize(
    ("gone", "command", "argv"),
    [
        ("coordinator.transport.stream:Stream.beat", "switched", ["none", "0.1", "file", "--help"]),
        ("protos.columns:digest_of", "lenient_worker", ["--help"]),
    ],
)
def test_a_process_that_misses_a_guard_ends_with_its_name(gone: str, command: str, argv: list[str]) -> None:
    """Without the function that it would replace a process ends with 1 before the product's main."""
    module, _, path = gone.partition(":")
    script = (
        f"import sys, {module}; from bench.{command} import main;del {module}.{path}; sys.exit(main({argv}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    line = f"bench.{command}: {gone} does not exist: mend bench/unguarded.py\n"
    assert (1, line) == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["bounds", "0.2", "file"], "'bounds' is none of all, none, digest"),
        (["all,x", "0.2", "file"], "'all' is none of"),
        (["all", "0", "file"], "WINDOW_S: 0 is not above 0"),
        (["all", "0.2"], "give GUARDS, WINDOW_S, FILE"),
    ],
)
def test_bad_input_of_the_switched_coordinator_is_refused(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown guard, a window of no length, or too little gives exit code 2 and one line."""
    assert 2 == switched.main(argv)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--window-s", "0"], ["--output", "/gone/x.json"]])
def test_bad_input_of_the_benchmark_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No round, no window or no directory for the file: exit code 2 and the flag's name."""
    assert 2 == guards.main(flags)
    assert capsys.readouterr().out.startswith(f"bench.guards: {flags[0]}")


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put every guard back in its place after the test."""
    for patch in [*PATCHES, WORKERS_PATCH, Patch(switched.FRAMES_COME_IN, switched._unpack_tokens)]:
        owner, name, original = unguarded.find(patch)
        monkeypatch.setattr(owner, name, original)


def frame() -> wire.pb.Tokens:
    """Pack one token."""
    none = np.zeros(0, np.uint32)
    columns = wire.TokenColumns(
        np.array([5], np.uint64), None, np.array([7], np.int32), none, none.astype(np.uint8), 1
    )
    return wire.pack_tokens(columns, sequence=0)


@pytest.mark.usefixtures("mended")
def test_the_switch_decides_at_each_call() -> None:
    """A digest is made and checked while the switch is on, and neither while it is off."""
    digest = frame().digest
    switch = switched.Switch(["digest"])
    for _ in range(2):
        switch.guarded = False
        assert 0 == frame().digest
        assert [7] == wire.unpack_tokens(frame(), 0).tokens.tolist()
        bare = frame()
        switch.guarded = True
        assert digest == frame().digest != 0
        with pytest.raises(wire.FrameError, match="digest"):
            wire.unpack_tokens(bare, 0)


@pytest.mark.usefixtures("mended")
@pytest.mark.parametrize("names", [NONE, "pulse"])
def test_guards_that_are_not_named_stay_on_both_ways(names: str) -> None:
    """With `none`, or another guard, a digest is made and asked for whichever way the switch is."""
    digest = frame().digest
    switch = switched.Switch(unguarded.guards_of(names))
    for switch.guarded in (True, False):
        assert digest == frame().digest
        bare = frame()
        bare.digest = 0
        with pytest.raises(wire.FrameError, match="digest"):
            wire.unpack_tokens(bare, 0)


@pytest.mark.usefixtures("mended")
def test_windows_come_in_pairs_and_count_what_came_in() -> None:
    """Each pair has one window of each kind, both orders occur, and no frame is counted twice."""
    switch, tally = switched.Switch([]), switched.Tally()
    switcher = switched.Switcher(switch, tally, 0.001, "seed")
    switcher.start()
    num_frames = 0
    deadline_s = time.monotonic() + 30
    while len(switcher.windows) < 40:
        assert time.monotonic() < deadline_s
        stream.unpack_tokens(frame(), sequence=0)
        num_frames += 1
    switcher.stop()
    firsts = [w.guarded for w in switcher.windows[::2]]
    seconds = [w.guarded for w in switcher.windows[1::2]]
    assert {0, 1} == set(firsts)
    assert all(a + b == 1 for a, b in zip(firsts, seconds, strict=False))
    assert num_frames == tally.num_frames == tally.num_tokens
    counted = sum(w.frames for w in switcher.windows)
    assert 0 < counted <= num_frames
    assert counted == sum(w.tokens for w in switcher.windows)
    assert switch.guarded


@pytest.mark.usefixtures("mended")
def test_a_lenient_worker_takes_any_digest_and_makes_true_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts with digest 0 are taken as well as those with theirs; frames have the digest they had."""
    ones = np.ones(1, np.uint32)
    prompts = wire.PromptColumns(
        np.array([5], np.uint64), ones, np.array([7], np.int32), ones, np.zeros(1, np.uint32)
    )
    true, bare = wire.pack_submit(prompts), wire.pack_submit(prompts)
    bare.digest = 0
    with pytest.raises(wire.FrameError, match="digest"):
        wire.unpack_submit(bare)
    digest = frame().digest
    monkeypatch.setattr(wire, "digest_of", WORKERS_PATCH.replacement)
    assert [7] == wire.unpack_submit(bare).prompt_tokens.tolist()
    assert [7] == wire.unpack_submit(true).prompt_tokens.tolist()
    assert digest == frame().digest


def test_a_known_cost_is_found() -> None:
    """Differences of 1, 3, 1 and 3 ms on 100 ms are 2 %, give or take 1.1547 / 2 / 100."""
    cost = Cost.of(pairs_of([101, 104, 99, 104], [100, 101, 98, 101]))
    # Ten frames a window: 10 ms each. stdev of 1, 3, 1, 3: sqrt(4 / 3) = 1.1547 ms.
    assert 0.02 == pytest.approx(cost.share)
    assert 0.0057735 == pytest.approx(cost.standard_error, rel=1e-4)
    assert (0.02 - 1.96 * 0.0057735, 0.02 + 1.96 * 0.0057735) == pytest.approx(
        (cost.low, cost.high), rel=1e-4
    )
    assert (10_200, 10_000) == pytest.approx((cost.on_us_per_frame, cost.off_us_per_frame))
    # 100 ms in 200 ms; ten frames of ten tokens in 200 ms.
    assert (510, 500) == pytest.approx((cost.on_ms_per_s, cost.off_ms_per_s))
    assert (50, 500) == pytest.approx((cost.frames_per_s, cost.tokens_per_s))


def test_the_cost_is_a_frames() -> None:
    """Twice the CPU time for twice the frames costs nothing."""
    assert 0 == Cost.of([Pair(window(1, 200, 20), window(0, 100, 10))] * 2).share


def test_a_rare_cost_counts() -> None:
    """40 ms that fall into one pair of 20 are 2 ms a pair, which the median would not see."""
    assert 0.02 == pytest.approx(Cost.of(pairs_of([140] + [100] * 19, [100] * 20)).share)


@pytest.mark.parametrize(
    ("on_ms", "off_ms", "word"),
    [
        # Two differences by turns, n of each: the standard error is half of what parts them / sqrt(2n - 1).
        ([101.0, 102.0] * 15, [100.0] * 30, "below"),  # 1.5 +- 1.96 * 0.5 / sqrt(29) = [1.32, 1.68]
        ([103.0, 104.0] * 15, [100.0] * 30, "ABOVE"),  # [3.32, 3.68]
        ([99.0, 104.0] * 15, [100.0] * 30, "not decided"),  # 1.5 +- 1.96 * 2.5 / sqrt(29) = [0.59, 2.41]
        ([101.0, 102.0] * 14, [100.0] * 28, "not decided"),  # too few
        ([103.0, 104.0] * 14, [100.0] * 28, "not decided"),
    ],
)
def test_the_bound_is_judged_by_the_whole_interval(
    on_ms: list[float], off_ms: list[float], word: str
) -> None:
    """An interval below the bound of 2 % is below, one above is ABOVE, one that holds it is neither."""
    assert Cost.of(pairs_of(on_ms, off_ms)).judgement().startswith(word)


def test_what_cannot_be_switched_off_is_added() -> None:
    """5 ms a second on 500 ms a second are 1 % more: 1.5 % below the bound become 2.5 % above it."""
    cost = Cost.of(pairs_of([101.0, 102.0] * 15, [100.0] * 30))
    whole = cost.plus(5.0)
    assert (0.025, cost.standard_error) == pytest.approx((whole.share, whole.standard_error))
    assert "ABOVE" == whole.judgement()


def test_only_pairs_of_the_steady_part_count() -> None:
    """Idle and half-empty pairs are left out, then a tenth at each end, in a long run 3 s."""
    idle, thin = [window(1, 1, 0), window(0, 1, 0)], [window(0, 1, 10), window(1, 1, 4)]
    busy = [row for k in range(20) for row in (window(0, k), window(1, k))]
    short = steady_pairs([*idle, *busy[:20], *thin, *busy[20:], *idle, window(1, 1)])
    # A tenth of 20 pairs is 2, 3 s would be 8 pairs of 0.4 s.
    assert [k * MILLISECOND_NS for k in range(2, 18)] == [pair.on.cpu_ns for pair in short]
    assert all(pair.on.guarded and not pair.off.guarded for pair in short)
    long = steady_pairs([row for k in range(100) for row in (window(1, k), window(0, k))])
    assert [k * MILLISECOND_NS for k in range(8, 92)] == [pair.off.cpu_ns for pair in long]
    assert [] == steady_pairs(idle) == steady_pairs([])
