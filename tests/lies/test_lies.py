"""A table of lies, each told beside an honest worker: lost, refused, INVALID or harmless."""

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

import coordinator.transport.fleet
import coordinator.transport.stream
from coordinator.transport.worker_answers import MAX_ANSWER_BYTES
from protos import worker_pb2 as pb
from protos.columns import digest_of
from protos.hashes import engine_hash
from sut.results import checks
from tests.lies.lying_worker import (
    BUDGET,
    LENGTH,
    STOP,
    STOP_ID,
    VOCAB_SIZE,
    Lie,
    Outcome,
    Row,
    Step,
    expected_answers,
    pack,
    run_beside_honest,
)

ESCAPE = "\x1b[31m\x07\r\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shorten every interval, and silence gRPC's log of messages that do not parse."""
    monkeypatch.setattr(coordinator.transport.stream, "STATUS_TIMEOUT_S", 0.05)
    monkeypatch.setattr(coordinator.transport.stream, "BEAT_INTERVAL_S", 0.1)
    monkeypatch.setattr(coordinator.transport.fleet, "BEAT_INTERVAL_S", 0.1)
    monkeypatch.setattr(coordinator.transport.stream, "CALL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(coordinator.transport.worker_link, "CALL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(coordinator.transport.fleet, "CALL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(coordinator.transport.fleet, "PROBE_INTERVAL_S", 0.02)
    for name in ("grpc._common", "grpc._cython.cygrpc"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    yield


def edit(change: Callable[[pb.WorkerInfo], object]) -> Callable[[pb.WorkerInfo], pb.WorkerInfo]:
    """Change a description and make its engine hash that of what it says."""

    def edited(info: pb.WorkerInfo) -> pb.WorkerInfo:
        change(info)
        info.engine_hash = engine_hash(info)
        return info

    return edited


def fields(**values: Any) -> Callable[[pb.WorkerInfo], pb.WorkerInfo]:
    """Change fields of a description."""
    return edit(lambda info: info.MergeFrom(pb.WorkerInfo(**values)))


def replicas(*ports: int) -> Callable[[pb.WorkerInfo], pb.WorkerInfo]:
    """Claim to be a node."""
    return fields(replicas=[pb.Replica(port=port, state=pb.WORKER_STATE_READY) for port in ports])


# What a worker says about itself: refused at the start, and "not back" after a loss.
INFO_LIES: dict[str, tuple[Lie, str]] = {
    "health status 99": (
        Lie(health=lambda _: health_pb2.HealthCheckResponse(status=99).SerializeToString()),
        "status is 99, which is unknown",
    ),
    "health that does not parse": (Lie(health=lambda _: b"\xff\xff"), "health: the answer is not a message"),
    "info that does not parse": (Lie(info=lambda _: b"\xff\xff\xff"), "GetInfo: the answer is not a message"),
    "another message as info": (
        Lie(info=lambda _: pb.HostInfo(hostname="x").SerializeToString()),
        "speaks protocol 0",
    ),
    "info that is not UTF-8": (
        Lie(info=lambda _: b"\x12\x02\xff\xfe"),
        "GetInfo: the answer is not a message",
    ),
    "empty info": (Lie(info=lambda _: b""), "speaks protocol 0"),
    "info of 10 MB": (
        Lie(info=fields(model="x" * 10_000_000)),
        f"bytes, at most {MAX_ANSWER_BYTES}",
    ),
    "a name of 70,000 characters": (Lie(info=fields(hostname="x" * 70_000)), "hostname has 70000 characters"),
    "another protocol": (Lie(info=fields(protocol_version=99)), "speaks protocol 99"),
    "unknown state": (Lie(info=fields(state=99)), "state is 99, which is unknown"),
    "vocabulary of 2^32 - 1": (Lie(info=fields(vocab_size=2**32 - 1)), "vocab_size is 4294967295, at most"),
    "no vocabulary": (
        Lie(info=edit(lambda info: info.ClearField("vocab_size"))),
        "outside the vocabulary of 0",
    ),
    "another vocabulary": (Lie(info=fields(vocab_size=VOCAB_SIZE + 1)), "vocab_size differs"),
    "no slots": (Lie(info=edit(lambda info: info.ClearField("max_num_seqs"))), "max_num_seqs is 0"),
    "2^32 - 1 slots": (Lie(info=fields(max_num_seqs=2**32 - 1)), "max_num_seqs is 4294967295, at most"),
    "a stop id beyond the vocabulary": (
        Lie(info=fields(stop_token_ids=[VOCAB_SIZE])),
        f"stop token id {VOCAB_SIZE} is outside the vocabulary of {VOCAB_SIZE}",
    ),
    "100,000 stop ids": (Lie(info=fields(stop_token_ids=range(100_000))), "100001 stop_token_ids, at most"),
    "another stop id": (Lie(info=fields(stop_token_ids=[199_999])), "stop_token_ids differs"),
    "timeout NaN": (Lie(info=fields(coordinator_timeout_s=math.nan)), "coordinator_timeout_s is nan"),
    "timeout infinite": (Lie(info=fields(coordinator_timeout_s=math.inf)), "coordinator_timeout_s is inf"),
    "timeout negative": (Lie(info=fields(coordinator_timeout_s=-1.0)), "coordinator_timeout_s is -1.0"),
    "terminal escapes in the model hash": (Lie(info=fields(model_hash=ESCAPE)), "its engine hash is"),
    "terminal escapes in the engine's name": (Lie(info=fields(engine=ESCAPE)), "its engine hash is"),
    "an engine hash of something else": (
        Lie(info=lambda info: pb.WorkerInfo.FromString(info.SerializeToString() + b"\x9a\x01\x01x")),
        "its engine hash is x",
    ),
    "the honest worker's identity": (Lie(info=fields(instance_id="honest")), "are the same worker"),
    "a replica at port 0": (Lie(info=replicas(0)), "a replica at port 0"),
    "a replica at port 70,000": (Lie(info=replicas(70_000)), "a replica at port 70000"),
    "a port twice": (Lie(info=replicas(9, 9)), "two replicas at one port"),
    "2,000 replicas": (Lie(info=replicas(*range(1, 2001))), "2000 replicas, at most 1024"),
}


def opened(change: Callable[[pb.Opened], object]) -> Callable[[pb.Opened], pb.FromWorker]:
    """Change the answer to `open`."""

    def changed(answer: pb.Opened) -> pb.FromWorker:
        change(answer)
        return pb.FromWorker(opened=answer)

    return changed


# The answer to `open`: refused at the start, and "not back" after a loss.
OPEN_LIES: dict[str, tuple[Lie, str]] = {
    "another run": (
        Lie(opened=opened(lambda o: o.MergeFrom(pb.Opened(run_id="other")))),
        "answers for run 'other'",
    ),
    "another run hash": (Lie(opened=opened(lambda o: o.MergeFrom(pb.Opened(spec_hash="f")))), "hash f"),
    "escapes in the run hash": (
        Lie(opened=opened(lambda o: o.MergeFrom(pb.Opened(spec_hash=ESCAPE)))),
        "run specification differs",
    ),
    "opened with NaN": (
        Lie(opened=opened(lambda o: o.info.MergeFrom(pb.WorkerInfo(coordinator_timeout_s=math.nan)))),
        "coordinator_timeout_s is nan",
    ),
    "opened with another engine": (
        Lie(opened=opened(lambda o: edit(_other_engine)(o.info))),
        "engine differs",
    ),
    "tokens instead of opened": (Lie(opened=lambda _: pack([], 0)), "answers open with tokens"),
    "opened that does not parse": (Lie(opened=lambda _: b"\xff\xff"), ""),
    "no answer to open": (Lie(opened=lambda _: None), "no answer within"),
}


def _other_engine(info: pb.WorkerInfo) -> None:
    info.engine = "other"


def last(change: Callable[[Row], Row]) -> Callable[[list[Step]], list[Step]]:
    """Change the rows that end a request."""
    return lambda steps: [*steps[:-1], [change(row) for row in steps[-1]]]


def first_row(change: Callable[[Row], Row]) -> Callable[[list[Step]], list[Step]]:
    """Change the first row of the first frame."""
    return lambda steps: [[change(steps[0][0]), *steps[0][1:]], *steps[1:]] if steps[0] else steps


def tampered(**columns: Any) -> Callable[[list[bytes]], list[bytes]]:
    """Replace columns of an otherwise empty first frame."""
    return lambda frames: [pack([], 0, **columns), *frames]


def packed(change: Callable[[bytes], bytes]) -> Callable[[list[bytes]], list[bytes]]:
    """Change the packed columns of the first frame, under a right digest."""

    def changed(frames: list[bytes]) -> list[bytes]:
        columns = change(pb.FromWorker.FromString(frames[0]).tokens.packed)
        frame = pb.Tokens(packed=columns, digest=digest_of(columns))
        return [pb.FromWorker(tokens=frame).SerializeToString(), *frames[1:]]

    return changed


def ended_in_middle(steps: list[Step]) -> list[Step]:
    """End each answer by LENGTH before its last token."""
    return [steps[0], [row._replace(reason=LENGTH) for row in steps[1]], []]


def behind(steps: list[Step]) -> list[Step]:
    """Send a stop id without an end, and the rest of a longer answer in the next frame."""
    names = [row.name for row in steps[2]]
    return [*steps[:2], [Row(name, [STOP_ID]) for name in names], [Row(name, [5], STOP) for name in names]]


INSIDE = "a stop id inside an answer, or without the end of the answer"
U4 = np.uint32
# What a worker sends in a run: it is lost with this reason, and its requests continue on the honest worker.
STREAM_LIES: dict[str, tuple[Lie, str]] = {
    "LENGTH below the budget": (Lie(steps=ended_in_middle), f"LENGTH at [0-9]+ of {BUDGET} tokens"),
    "LENGTH for STOP": (
        Lie(steps=last(lambda r: r._replace(reason=LENGTH))),
        f"LENGTH at [0-9]+ of {BUDGET}",
    ),
    "STOP on a token that is no stop id": (
        Lie(steps=last(lambda r: r._replace(tokens=[5], reason=STOP))),
        "its last token is no stop id",
    ),
    "STOP before the stop id": (
        Lie(steps=lambda s: [s[0], [row._replace(reason=STOP) for row in s[1]]]),
        "its last token is no stop id",
    ),
    "tokens behind a stop id, in one frame": (
        Lie(steps=last(lambda r: r._replace(tokens=[STOP_ID, 5, STOP_ID], reason=STOP))),
        INSIDE,
    ),
    "tokens behind a stop id, in the next frame": (Lie(steps=behind), INSIDE),
    "a stop id without an end": (Lie(steps=last(lambda r: Row(r.name, [STOP_ID]))), INSIDE),
    "a stop id as first token, without an end": (
        Lie(steps=first_row(lambda r: Row(r.name, [STOP_ID]))),
        INSIDE,
    ),
    "STOP in a frame without its stop id": (
        Lie(steps=last(lambda r: Row(r.name, [], STOP))),
        "STOP after its tokens",
    ),
    "token -1": (Lie(steps=first_row(lambda r: Row(r.name, [-1]))), "outside the vocabulary"),
    "a token beyond the vocabulary": (
        Lie(steps=first_row(lambda r: Row(r.name, [VOCAB_SIZE]))),
        "outside the vocabulary",
    ),
    "more tokens than the budget": (
        Lie(steps=first_row(lambda r: Row(r.name, [5] * (BUDGET + 1)))),
        f"an answer beyond {BUDGET} tokens",
    ),
    "two rows of one request": (Lie(steps=lambda s: [[*s[0], s[0][0]], *s[1:]]), "two rows of one request"),
    "tokens after the end": (Lie(steps=lambda s: [*s, [Row(s[2][0].name, [5])]]), "does not hold"),
    "an end twice": (Lie(steps=lambda s: [*s, s[2]]), "does not hold"),
    "an older generation": (
        Lie(steps=first_row(lambda r: r._replace(name=(r.name - (1 << 32)) % 2**64))),
        "does not hold",
    ),
    "a request of the other worker": (
        Lie(steps=first_row(lambda r: r._replace(name=r.name ^ 1))),
        "does not hold",
    ),
    "a slot that does not exist": (
        Lie(steps=first_row(lambda r: r._replace(name=r.name | 0x7FFFFFFF))),
        "slot 2147483647 of",
    ),
    "finish reason 3": (Lie(steps=last(lambda r: r._replace(reason=3))), "unknown finish reason"),
    "finish reason 0": (Lie(steps=last(lambda r: r._replace(reason=0))), "unknown finish reason"),
    "the end of a row that does not exist": (
        Lie(frames=tampered(finished_rows=np.array([4], U4), finish_reasons=np.array([1], np.uint8))),
        "finished_rows not ascending below 0",
    ),
    "more counts than rows": (
        Lie(frames=tampered(counts=np.array([0, 0], U4))),
        "counts: 2 entries, expected 0",
    ),
    "tokens without rows": (
        Lie(frames=tampered(tokens=np.array([5], np.int32))),
        "tokens: 1 entries, expected 0",
    ),
    "a time beyond 2^63": (Lie(frames=tampered(produced_ns=2**64 - 1)), "the largest monotonic time"),
    "a wrong digest": (
        Lie(frames=lambda f: [pb.FromWorker(tokens=pb.Tokens(packed=b"", digest=1)).SerializeToString(), *f]),
        "the digest is not that of the columns",
    ),
    "a frame cut short": (Lie(frames=packed(lambda columns: columns[:-1])), "bytes, expected"),
    "half a header": (Lie(frames=packed(lambda columns: columns[:20])), "shorter than the header"),
    "a frame left out": (Lie(frames=lambda f: f[1:]), "frame [0-9]+, expected [0-9]+"),
    "a frame twice": (Lie(frames=lambda f: [f[0], *f]), "frame [0-9]+, expected [0-9]+"),
    "frames in another order": (Lie(frames=lambda f: [f[1], f[0], f[2]]), "frame [0-9]+, expected [0-9]+"),
    "a message that does not parse": (Lie(frames=lambda _: [b"\xff\xff\xff"]), ""),
    "an empty message": (Lie(frames=lambda f: [b"", *f]), "unexpected message: None"),
    "opened twice": (
        Lie(frames=lambda f: [pb.FromWorker(opened=pb.Opened(run_id="lies")).SerializeToString(), *f]),
        "unexpected message: opened",
    ),
    "no token": (Lie(steps=lambda _: []), "no token for"),
    "no message": (Lie(steps=lambda _: [], pong=lambda _: None), "(silent|no token) for"),
    "a pong to no ping": (Lie(pong=lambda p: pb.Pong(nonce=p.nonce + 99, worker_ns=9)), "without a ping"),
    "a clock beyond 2^63": (Lie(pong=lambda p: pb.Pong(nonce=p.nonce, worker_ns=2**64 - 1)), "worker_ns"),
    "a status with terminal escapes": (
        Lie(status=(grpc.StatusCode.UNAVAILABLE, f"engine {ESCAPE} died")),
        r"UNAVAILABLE: engine \?\[31m",
    ),
}


def play(lie: Lie, *, breaks_first: bool = False) -> Outcome:
    """Run beside an honest worker."""
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


@pytest.mark.parametrize(
    ("lie", "failed"),
    [
        (Lie(pong=lambda p: pb.Pong(nonce=p.nonce, worker_ns=9, produced_tokens=10**6)), ["tokens"]),
        (Lie(pong=lambda p: pb.Pong(nonce=p.nonce, worker_ns=9, produced_tokens=2**64 - 1)), ["tokens"]),
        (Lie(pong=lambda p: pb.Pong(nonce=p.nonce, worker_ns=9)), ["tokens"]),
        (Lie(pong=lambda _: None), ["tokens"]),
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
        "rows in another order",
        "a frame without rows, and one for each row",
    ],
)
def test_a_harmless_lie_changes_no_answer(lie: Lie) -> None:
    """What is not true, or unusual, but decides no answer: no loss, the right tokens, every check passes."""
    outcome = play(lie)
    check_exact(outcome)
    assert [] == outcome.losses
