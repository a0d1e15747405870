"""A table of lies, each told beside an honest worker: lost, refused, INVALID or harmless."""

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest

from coordinator.transport import fleet, stream, worker_link
from coordinator.transport.engine_reading import NO_READING
from protos import worker_pb2 as pb
from protos.columns import MAX_NS
from sut.results import checks
from sut.results.timing.clock_offsets import UNKNOWN_NS
from sut.results.timing.decomposition import RunDecomposition
from sut.results.timing.request_records import BEGIN_MARKS, END_MARKS
from tests.lies.lying_worker import (
    PROMPTS,
    SHORT_S,
    STOP,
    STOP_ID,
    Lie,
    Outcome,
    Row,
    expected_answers,
    run_beside_honest,
)
from tests.lies.stream_lies import STREAM_LIES, timed_at
from tests.lies.worker_lies import ESCAPE, INFO_LIES, OPEN_LIES, fields


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shorten every interval, and silence gRPC's log of messages that do not parse."""
    monkeypatch.setattr(stream, "BEAT_INTERVAL_S", 0.1)
    monkeypatch.setattr(fleet, "BEAT_INTERVAL_S", 0.1)
    monkeypatch.setattr(fleet, "PROBE_INTERVAL_S", 0.02)
    for name in ("grpc._common", "grpc._cython.cygrpc"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    yield


def play(lie: Lie, *, breaks_first: bool = False) -> Outcome:
    """Run beside an honest worker."""
    with contextlib.ExitStack() as stack:
        for module in (stream, worker_link, fleet):
            stack.enter_context(mock.patch.object(module, "CALL_TIMEOUT_S", lie.patience_s))
        return asyncio.run(run_beside_honest(lie, breaks_first=breaks_first))


def check_exact(outcome: Outcome) -> None:
    """Check that the run completed with exactly the right answers, and that its counts pass."""
    assert outcome.counts is not None, outcome.refusal
    assert ([], expected_answers()) == (outcome.failures, outcome.answers)
    assert [] == failed_checks(outcome)


def failed_checks(outcome: Outcome) -> list[str]:
    """List the checks that fail; LoadGen, which is absent here, counts answers below 2 tokens as errors."""
    assert outcome.counts is not None
    counts = outcome.counts
    results = [checks.completion(counts), checks.tokens(counts)]
    failed = [result.name for result in results if not result.passed]
    return [*failed, *(["loadgen_errors"] if counts.num_short else [])]


IMPOSSIBLE_LOAD = pb.EngineLoad(
    running=2**32 - 1,
    waiting=2**32 - 1,
    kv_use=math.nan,
    gpus=[pb.GpuLoad(power_w=-math.inf, sm_clock_mhz=2**32 - 1, used_memory_bytes=2**64 - 1)] * 1000,
)


def one_line(text: str) -> bool:
    """Whether a text is one printable line of bounded length."""
    return text.isprintable() and len(text) < 1000


@pytest.mark.parametrize(("lie", "reason"), (INFO_LIES | OPEN_LIES).values(), ids=INFO_LIES | OPEN_LIES)
def test_a_lie_about_the_worker_is_refused_in_one_line_at_the_start(lie: Lie, reason: str) -> None:
    """One printable line names the address and the value; no request is sent."""
    outcome = play(lie)
    assert outcome.counts is None
    assert reason in outcome.refusal
    assert "127.0.0.1:" in outcome.refusal
    assert one_line(outcome.refusal)


@pytest.mark.parametrize(("lie", "reason"), (INFO_LIES | OPEN_LIES).values(), ids=INFO_LIES | OPEN_LIES)
def test_a_lie_of_a_worker_that_was_lost_does_not_end_the_run(
    lie: Lie, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker is lost, comes back with the lie, and is not taken: the run completes, exact."""
    with caplog.at_level(logging.INFO):
        outcome = play(lie, breaks_first=True)
    check_exact(outcome)
    assert ["stream ended"] == outcome.losses
    told = [record.getMessage() for record in caplog.records if " is not back: " in record.getMessage()]
    assert any(reason in line for line in told), told
    assert all(map(one_line, told))


@pytest.mark.parametrize(("lie", "reason"), STREAM_LIES.values(), ids=STREAM_LIES)
def test_a_lie_on_the_stream_loses_the_worker(lie: Lie, reason: str) -> None:
    """The worker is lost with the reason, one printable line; the answers are exactly the right ones."""
    outcome = play(lie)
    check_exact(outcome)
    assert outcome.losses
    assert all(map(one_line, outcome.losses))
    assert re.search(reason, outcome.losses[0]), outcome.losses


def counting(produced: int) -> Lie:
    """Tell this number of produced tokens, which the coordinator then waits for."""
    return Lie(
        pong=lambda p: pb.Pong(nonce=p.nonce, worker_ns=9, produced_tokens=produced), patience_s=SHORT_S
    )


@pytest.mark.parametrize(
    ("lie", "failed"),
    [
        (counting(10**6), ["tokens"]),
        (counting(2**64 - 1), ["tokens"]),
        (counting(0), ["tokens"]),
        (Lie(pong=lambda _: None, patience_s=SHORT_S), ["tokens"]),
        (Lie(steps=lambda s: [[], [], [Row(r.name, [], STOP) for r in s[2]]]), ["loadgen_errors"]),
        (Lie(steps=lambda s: [[], [], [Row(r.name, [STOP_ID], STOP) for r in s[2]]]), ["loadgen_errors"]),
    ],
    ids=[
        "more tokens produced than sent",
        "2^64 - 1 tokens produced",
        "fewer tokens produced than sent",
        "no answer to any ping",
        "answers without tokens",
        "answers of one token",
    ],
)
def test_a_lie_that_only_the_end_shows_makes_the_run_invalid(lie: Lie, failed: list[str]) -> None:
    """Counts of engines and frames that differ, and short answers, fail a check of the verdict."""
    outcome = play(lie)
    assert [] == outcome.failures
    assert failed == failed_checks(outcome)


def test_answers_of_one_repeated_token_are_counted() -> None:
    """NaN logits: every token of every long answer is id 0. The counts for the verdict say so."""
    outcome = play(Lie(steps=lambda s: [s[0], [Row(r.name, [0] * len(r.tokens)) for r in s[1]], s[2]]))
    assert outcome.counts is not None
    zeros = [a for a in outcome.answers.values() if len(a) > 3 and set(a[1:-1]) == {0}]
    assert zeros
    whole = play(
        Lie(
            steps=lambda s: [
                [Row(r.name, [0]) for r in s[0]],
                [Row(r.name, [0] * len(r.tokens)) for r in s[1]],
                s[2],
            ]
        )
    )
    assert whole.counts is not None
    repeated = [a for a in whole.answers.values() if len(a) >= 8 and set(a[:-1]) == {0}]
    assert len(repeated) == whole.counts.num_repeated_answers > 0


@pytest.mark.parametrize(
    "lie",
    [
        Lie(),
        Lie(info=fields(pid=2**32 - 1, hostname="x" * 100)),
        Lie(info=fields(max_num_seqs=1)),
        Lie(info=fields(coordinator_timeout_s=1e300)),
        Lie(info=fields(model=ESCAPE, engine_args={ESCAPE: ESCAPE})),
        Lie(
            pong=lambda p: pb.Pong(
                nonce=p.nonce, worker_ns=9, produced_tokens=p.produced_tokens, steps=2**64 - 1
            )
        ),
        Lie(
            pong=lambda p: pb.Pong(
                nonce=p.nonce, worker_ns=9, produced_tokens=p.produced_tokens, load=IMPOSSIBLE_LOAD
            )
        ),
        Lie(steps=lambda s: [s[0], s[1], s[2][::-1]]),
        Lie(steps=lambda s: [[*s[0]], [], *[[row] for row in s[1]], s[2]]),
    ],
    ids=[
        "none",
        "another process id",
        "one slot",
        "a very long timeout",
        "escapes in its model's name",
        "2^64 - 1 steps",
        "an impossible load",
        "rows in another order",
        "a frame without rows, and one for each row",
    ],
)
def test_a_harmless_lie_changes_no_answer(lie: Lie) -> None:
    """What is not true, or unusual, but decides no answer: no loss, the right tokens, every check passes."""
    outcome = play(lie)
    check_exact(outcome)
    assert [] == outcome.losses


@pytest.mark.parametrize("time_ns", [1, 1 << 62, MAX_NS])
def test_times_that_cannot_be_true_are_unknown_and_decide_nothing(time_ns: int) -> None:
    """One time for all events: it is believed only between sending a request and receiving its answer."""
    outcome = play(Lie(frames=timed_at(time_ns)))
    check_exact(outcome)
    assert [] == outcome.losses
    records = outcome.records
    assert records is not None
    columns = records.columns
    for names in (("sent_ns", *BEGIN_MARKS, "first_arrival_ns"), ("sent_ns", *END_MARKS, "done_arrival_ns")):
        marks = np.array([columns[name] for name in names])
        for times in marks.T.tolist():
            known = [one for one in times if one != UNKNOWN_NS]
            assert sorted(known) == known
    # Half of the requests are the liar's.
    is_impossible = time_ns > 1
    assert (len(PROMPTS) // 2 if is_impossible else 0) <= records.num_contradicting <= len(PROMPTS) // 2
    found = RunDecomposition.of(records, None)
    shares = [quantity.mean_parts_ns.values() for quantity in found.quantities.values()]
    assert all(math.isfinite(part) for parts in shares for part in parts)


def test_an_impossible_load_is_unknown() -> None:
    """Too many requests, no share of the cache, and powers, clocks and memories that no GPU has."""
    outcome = play(
        Lie(
            pong=lambda p: pb.Pong(
                nonce=p.nonce, worker_ns=9, produced_tokens=p.produced_tokens, load=IMPOSSIBLE_LOAD
            )
        )
    )
    honest, liar = outcome.readings
    assert (0, 0) == (honest.running, honest.waiting)
    assert repr(NO_READING) == repr(liar)
