"""The notes of a run distinguish right from wrong answers, and late queries from punctual ones."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from bench.fleet.noted import Notes, mapping_at, wrap
from bench.fleet.notes import RunNotes, Window
from bench.fleet.schedule import issue_delays_ns, scheduled_ns
from sut.sut import SUT

# The expected answers: 18, 19, 20 and the stop id; 8 and the stop id.
PROMPTS = np.array([[4, 9, 17], [2, 9, 7]], np.int32)
NOBODY: Any = None
"""Placeholder for a SUT that is never called."""
RIGHT = ([18, 19, 20, 200_002], [8, 200_002])


def noted(answers: list[tuple[int, list[int]]], directory: Path) -> RunNotes:
    """Record two queries, ids 101 and 102 for samples 0 and 1, and the given answers by LoadGen's id."""
    notes = Notes()
    for id_, sample in ((101, 0), (102, 1)):
        notes.issue(lambda *_: None, NOBODY, [id_], [sample])
    for id_, tokens in answers:
        memory = np.array(tokens, np.int32)
        call_times = notes.complete(lambda *_: (5, 6), NOBODY, [id_], [memory.ctypes.data], [len(tokens)])
        assert (5, 6) == call_times
    notes.reach("data set")
    notes.write(directory / "notes.npz")
    return RunNotes.read(directory / "notes.npz")


def test_right_answers_are_right(tmp_path: Path) -> None:
    """Each request has the answer expected for its prompt, in any order of arrival."""
    checked = noted([(102, RIGHT[1]), (101, RIGHT[0])], tmp_path).check(PROMPTS)
    assert checked.right
    assert (2, 6) == (checked.requests, checked.tokens)


@pytest.mark.parametrize(
    ("answers", "counts"),
    [
        ([(101, RIGHT[0])], (1, 0, 0)),
        ([(101, RIGHT[0]), (102, RIGHT[1]), (102, RIGHT[1])], (0, 1, 0)),
        ([(101, RIGHT[0]), (102, RIGHT[1]), (103, RIGHT[1])], (0, 1, 0)),
        ([(101, RIGHT[1]), (102, RIGHT[0])], (0, 0, 2)),
        ([(101, [18, 19, 21, 200_002]), (102, RIGHT[1])], (0, 0, 1)),
        ([(101, [18, 19, 20]), (102, RIGHT[1])], (0, 0, 1)),
        ([(101, []), (102, RIGHT[1])], (0, 0, 1)),
        ([], (2, 0, 0)),
    ],
)
def test_an_answer_that_is_not_right_is_counted(
    answers: list[tuple[int, list[int]]], counts: tuple[int, int, int], tmp_path: Path
) -> None:
    """Missing, repeated, unknown, swapped, changed and cut answers are each counted in their category."""
    checked = noted(answers, tmp_path).check(PROMPTS)
    assert counts == (checked.missing, checked.repeated, checked.wrong)
    assert not checked.right


def test_the_digest_is_that_of_the_tokens(tmp_path: Path) -> None:
    """The digest is XXH3-64 over the little-endian int32 tokens at the address that LoadGen gets."""
    found = noted([(101, RIGHT[0])], tmp_path)
    digest = xxhash.xxh3_64_intdigest(b"".join(token.to_bytes(4, "little") for token in RIGHT[0]))
    assert [[101, 4, digest]] == found.answers.tolist()
    assert ["LoadGen's queries", "data set"] == list(found.stages)


def test_the_rate_in_a_window_is_read_between_samples(tmp_path: Path) -> None:
    """0 tokens at 0 s, 100 at 1 s, 300 at 2 s: from 0.5 to 1.5 s 150 tokens came."""
    rows = [[0, 0, 1, 0, 0], [10**9, 100, 2, 0, 0], [2 * 10**9, 300, 3, 0, 0]]
    found = noted([], tmp_path)._replace(samples=np.array(rows))
    window = Window(500_000_000, 1_500_000_000)
    assert 150.0 == pytest.approx(found.tokens_per_s(window))
    assert [2] == found.within(window)[:, 2].tolist()


def test_a_mapping_is_found_by_an_address_in_it() -> None:
    """64 MiB, 8 of them written, lie in a mapping of at least these sizes; address 0 is in no mapping."""
    memory = np.frombuffer(mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    memory[: 8 << 20] = 1
    size, resident = mapping_at(memory.ctypes.data)
    assert size >= memory.nbytes
    assert 8 << 20 <= resident <= size
    assert (0, 0) == mapping_at(0)


def test_a_method_that_does_not_exist_is_named() -> None:
    """A method that the product no longer has ends the benchmark with an error that names it."""
    with pytest.raises(AttributeError, match="nothing"):
        wrap(SUT, "nothing", lambda function: function)


def test_the_schedule_is_the_one_that_loadgen_follows() -> None:
    """The first gaps at 300 queries/s with the official seed; LoadGen 6.0.17 kept them to within 0.4 ms."""
    gaps_ms = np.diff(scheduled_ns(16159082839903944936, 300.0, 6)) / 1e6
    assert [6.5, 1.4, 4.2, 2.4, 1.3] == pytest.approx(gaps_ms.tolist(), abs=0.4)


def test_delay_counts_from_the_least_late_query() -> None:
    """Due at 0, 10, 20 and issued at 105, 110, 121: delays of 5, 0, 1, independent of the clock's origin."""
    late = issue_delays_ns(np.array([105, 110, 121]), np.array([0, 10, 20]))
    assert [5, 0, 1] == late.tolist()


def test_another_schedule_is_refused() -> None:
    """Queries one second apart do not match a schedule of one per millisecond, so no delay is computed."""
    with pytest.raises(RuntimeError, match="schedule"):
        issue_delays_ns(np.arange(10) * 10**9, np.arange(10) * 10**6)
