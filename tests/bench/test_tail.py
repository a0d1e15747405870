"""bench.tail's virtual-time model, compared with times computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.tail.__main__ import main
from bench.tail.policies import POLICIES
from bench.tail.virtual_replicas import Cost, Replica, draw_answer_lens, spread_speeds

# A step of n sequences takes 1 + n s at speed 1.
COST = Cost(step_s=1.0, sequence_s=1.0, max_num_seqs=2)
# Long answers in little virtual time, because one policy acts once per virtual second.
FAST = Cost(step_s=0.01, sequence_s=0.001, max_num_seqs=16)


def ends(policy: str, answer_lens: list[int], speeds: list[float]) -> list[float]:
    """Simulate a policy; return when each replica ends."""
    replicas = POLICIES[policy](np.array(answer_lens), np.array(speeds), COST)
    return [replica.empty() for replica in replicas]


def test_a_replica_steps_all_that_run_and_starts_what_waits() -> None:
    """2 and 3 tokens at 3 s per step; the third request starts at 6 s; ends at 9 and 9 + 2 x 2 s."""
    replica = Replica(COST, 1.0)
    for answer_len in (2, 3, 3):
        replica.give(answer_len)
    assert (3, 6.0) == (replica.outstanding, replica.next_end_s)
    assert 13.0 == replica.empty()
    assert (8.0, 3) == (replica.num_tokens, replica.num_finished)


def test_fixed_parts_end_when_the_longest_does() -> None:
    """Contiguous: 4 and 4, then 1: ends at 12 + 2 s. Distributed: 4 and 1, then 1: at 3 + 3 + 2 x 2 s."""
    assert [14.0, 5.0] == ends("static split", [4, 4, 1, 1, 1, 1], [1.0, 1.0])
    assert [10.0, 10.0] == ends("round robin", [4, 4, 1, 1, 1, 1], [1.0, 1.0])
    assert [28.0, 5.0] == ends("static split", [4, 4, 1, 1, 1, 1], [0.5, 1.0])


def test_pull_gives_the_next_to_whoever_is_free() -> None:
    """Replica 0 has 9 and 9; replica 1 ends 1 and 1 at 3 s and takes both waiting requests, for 3 s more."""
    assert [27.0, 6.0] == ends("plain pull", [9, 1, 9, 1, 1, 1], [1.0, 1.0])


def test_the_clairvoyant_starts_the_longest_first() -> None:
    """4 and 1, then 1, end at 3 + 3 + 2 x 2 s; in order of issue 4 starts at 3 s and takes 4 x 2 s."""
    assert 10.0 == max(ends("clairvoyant", [1, 1, 1, 1, 4], [1.0, 1.0]))
    assert 11.0 == max(ends("plain pull", [1, 1, 1, 1, 4], [1.0, 1.0]))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_every_policy_runs_every_request_once(policy: str, spread: float) -> None:
    """Tokens and requests over all replicas equal those drawn."""
    lens = draw_answer_lens(100, seed=3)
    replicas = POLICIES[policy](lens, spread_speeds(3, spread), FAST)
    for replica in replicas:
        replica.empty()
    assert 100 == sum(replica.num_finished for replica in replicas)
    assert lens.sum() == round(sum(replica.num_tokens for replica in replicas))


def test_speeds_are_spaced_around_one() -> None:
    """`spread` is the difference between the fastest and the slowest speed."""
    assert [0.925, 1.0, 1.075] == pytest.approx(spread_speeds(3, 0.15).tolist())


def test_the_command_writes_every_policy_of_both_fleets(tmp_path: Path) -> None:
    """Two fleets, two spreads, five policies; the file has the flags and the cost model."""
    path = tmp_path / "tail.json"
    flags = ["--replicas", "3", "--beside", "2", "--samples-per-replica", "2000", "--seeds", "1"]
    assert 0 == main([*flags, "--output", str(path)])
    record = json.loads(path.read_text(encoding="utf-8"))
    assert 2 * 2 * 5 == len(record["rows"])
    assert (0.01, "3") == (record["cost"]["step_s"], record["flags"]["replicas"])


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--replicas", "0"], "--replicas: 0 is not in 1..1000"),
        (["--spread", "2"], "--spread: 2.0 is not in 0..1"),
        (["--output", "/nowhere/at/all.json"], "--output: /nowhere/at is not a directory"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the violated bound or the missing directory; exit code 2."""
    assert 2 == main(flags)
    assert f"bench.tail: {words}\n" == capsys.readouterr().err
