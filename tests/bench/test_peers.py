"""bench.peers does the same work on every side and judges its goals."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from bench.peers import streams
from bench.peers.__main__ import judge, main
from bench.peers.burst_load import BurstLoad, Workload
from bench.peers.flat_sides import SIDES, FlatFigures
from bench.peers.side_fleet import Round, Side, run_rounds
from bench.peers.step_worker import step_outbox
from bench.peers.zmq_sockets import MAX_QUEUED, Receiver, Sender
from bench.workload import counting_answer
from protos.columns import TokenColumns, unpack_tokens
from tests.bench.outliving import accuracy_log, run_bench
from tests.forked import end_of
from worker.engine_protocol import Step
from worker.engines.scripted.counting import CountingConfig, CountingEngine

TINY = ["--requests", "160", "--in-flight", "16", "--answer-tokens", "20", "--prompt-tokens", "4"]
NAMES = ["frames", "grpc-1", "grpc-10", "sse", "frames-step", "grpc-50", "zmq-msgspec"]


def figures(coordinator_cpu_s_per_mtok: float) -> FlatFigures:
    """Build figures in which only the coordinator's CPU time per million tokens matters."""
    return FlatFigures(
        requests=1,
        tokens=1,
        answers_sha256="",
        window_s=1.0,
        coordinator_cpu_s=1.0,
        coordinator_cpu_s_per_mtok=coordinator_cpu_s_per_mtok,
        workers_cpu_s_per_mtok=1.0,
        process_cpu_s=1.0,
        tokens_per_s=1.0,
        mtok_per_core_s=1 / coordinator_cpu_s_per_mtok,
        messages=1,
        tokens_per_message=1.0,
    )


@pytest.mark.long
def test_every_side_does_the_same_work_flat_out(tmp_path: Path) -> None:
    """Each side completes the same 160 requests and tokens, in the number of messages that its name gives."""
    output = tmp_path / "figures.json"
    done = run_bench(["bench.peers", "--rounds", "1", *TINY, "--output", str(output)])
    assert 0 == done.returncode, done.stdout + done.stderr
    record = json.loads(output.read_text())
    rounds = {name: side["rounds"][0] for name, side in record["sides"].items()}
    assert NAMES == list(rounds)
    for seen in rounds.values():
        assert (160, record["tokens"]) == (seen["requests"], seen["tokens"])
        assert rounds["frames"]["answers_sha256"] == seen["answers_sha256"]
        assert 0 < seen["coordinator_cpu_s"] < seen["process_cpu_s"]
    # Answers have 15 to 25 tokens: a first message, then one per 10 tokens (or 50) for the others.
    messages = {name: seen["messages"] for name, seen in rounds.items()}
    assert [record["tokens"]] * 3 == [messages[name] for name in ("grpc-1", "sse", "zmq-msgspec")]
    assert 2 * 160 == messages["grpc-50"]
    assert 2 * 160 < messages["grpc-10"] <= 4 * 160
    # At most 8 requests run in each of the 2 workers.
    assert record["tokens"] / 8 <= messages["frames-step"]
    assert 5 * 2 == len(record["goals"])


def test_sides_of_both_kinds_make_a_round() -> None:
    """A peer, whose driver gives no verdict, and the product with another outbox: each answer is compared."""
    rounds: list[tuple[str, int, int]] = []

    def take(_: int, side: Side, found: Round) -> None:
        rounds.append((side.name, found.answers.requests, found.answers.tokens))

    sides = tuple(side for side in SIDES if side.name in ("grpc-1", "frames-step"))
    load = BurstLoad(in_flight=4, answer_tokens=4, prompt_tokens=2, requests=8)
    num_tokens = run_rounds(sides, load, 1, take)
    assert {("grpc-1", 8, num_tokens), ("frames-step", 8, num_tokens)} == set(rounds)


def test_goals_are_judged_by_the_rounds() -> None:
    """0.1 s/Mtok is 10 million tokens per core-second; a ratio is the median of the rounds' ratios."""
    rounds = {name: [figures(0.1)] * 3 for name in NAMES}
    # Ratios 90, 110 and 95: the median is below 100.
    rounds["grpc-1"] = [figures(9.0), figures(11.0), figures(9.5)]
    rounds["sse"] = [figures(10.5)] * 3
    rounds["frames-step"] = [figures(0.25)] * 3
    seen = {(j.side, j.goal.peer): (round(j.seen, 6), j.met) for j in judge(rounds)}
    assert (10.0, True) == seen["frames", None]
    assert (95.0, False) == seen["frames", "grpc-1"]
    assert (105.0, True) == seen["frames", "sse"]
    assert (1.0, False) == seen["frames", "zmq-msgspec"]
    assert (4.0, False) == seen["frames-step", None]
    assert (38.0, False) == seen["frames-step", "grpc-1"]


def test_a_wrong_or_missing_answer_is_refused(tmp_path: Path) -> None:
    """The check accepts the right answers; it rejects a missing or changed token and a missing sample."""
    workload = Workload(BurstLoad(in_flight=1, answer_tokens=4, prompt_tokens=2, requests=5), tmp_path)
    right = [
        [(prompt[1] + 1 + i) % 199_999 for i in range(prompt[0] - 1)] + [200_002]
        for prompt in workload.prompts.tolist()
    ]
    log = tmp_path / "log.json"
    log.write_text(accuracy_log(right))
    answers = workload.check(log)
    assert (5, sum(map(len, right))) == (answers.requests, answers.tokens)
    short, other = [right[0][:-1], *right[1:]], [[7, *right[0][1:]], *right[1:]]
    for wrong in (short, other, right[:-1]):
        log.write_text(accuracy_log(wrong))
        with pytest.raises(RuntimeError, match=r"sample (0|4)"):
            workload.check(log)


def test_an_answer_is_known_from_its_prompt() -> None:
    """The prompt [4, 9, 17] has the answer 18, 19, 20 and the stop id; counting wraps at 199,999."""
    assert [18, 19, 20, 200_002] == counting_answer(np.array([4, 9, 17], np.int32)).tolist()
    assert [0, 1, 200_002] == counting_answer(np.array([3, 199_998], np.int32)).tolist()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--requests", "8", "--in-flight", "9"], "--in-flight: 9 is above --requests 8"),
        (["--answer-tokens", "3"], "--answer-tokens: 3 is below 4"),
        (["--rounds", "0"], "--rounds: 0 is below 1"),
    ],
)
def test_bad_input_is_told_in_a_line(tmp_path: Path, flags: list[str], said: str) -> None:
    """Flags out of bounds end the command with exit code 2 and a line with flag, value and bound."""
    assert (2, f"bench.peers: {said}\n", "") == end_of(main, flags, tmp_path)


def test_each_step_is_a_frame_of_its_own() -> None:
    """Three pending steps are sent as three frames, the oldest first."""

    async def frames() -> list[list[int]]:
        outbox = step_outbox(hold_ns=0)
        requests, no_rows, no_reasons = (
            np.array([5], np.uint64),
            np.zeros(0, np.uint32),
            np.zeros(0, np.uint8),
        )
        for token in (7, 8, 9):
            tokens = np.array([token], np.int32)
            outbox.put(Step(TokenColumns(requests, None, tokens, no_rows, no_reasons, 1), urgent=False))
        taken = [(await outbox.next()).tokens for _ in range(3)]
        return [unpack_tokens(frame, sequence=i).tokens.tolist() for i, frame in enumerate(taken)]

    assert [[7], [8], [9]] == asyncio.run(frames())


def test_an_engine_waits_for_its_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a reader at most the bound plus one step of chunks is produced; later all are delivered."""
    monkeypatch.setattr(streams, "MAX_UNSENT", 50)

    async def read() -> tuple[int, int]:
        engine = CountingEngine(CountingConfig(step_ms=0))
        served = streams.Streams(engine, 1)
        pump = asyncio.create_task(served.pump())
        chunks = served.generate(np.array([500, 1], np.int32), 500)
        num_read = len(list((await anext(chunks)).tokens))
        for _ in range(1000):
            await asyncio.sleep(0)
        produced = served._num_unsent
        num_read += sum([len(list(chunk.tokens)) async for chunk in chunks])
        pump.cancel()
        return produced, num_read

    assert (50, 500) == asyncio.run(read())


def test_no_message_is_lost_where_a_queue_is_full() -> None:
    """More messages than both queues hold all arrive, once each and in order."""
    num = 3 * MAX_QUEUED

    async def carry() -> list[bytes]:
        came: list[bytes] = []
        complete = asyncio.Event()

        def take(message: bytes) -> None:
            came.append(message)
            if len(came) == num:
                complete.set()

        receiver = Receiver(take)
        sender = Sender(receiver.bind_anywhere())
        for number in range(num):
            sender.send(number.to_bytes(4, "big"))
        async with asyncio.timeout(60):
            await sender.room()
            await complete.wait()
        sender.close()
        receiver.close()
        return came

    assert [number.to_bytes(4, "big") for number in range(num)] == asyncio.run(carry())


def test_sides_are_named_once() -> None:
    """No two sides share a name, because figures are stored by name."""
    assert NAMES == [side.name for side in SIDES]
