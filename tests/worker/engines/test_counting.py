"""The counting engine's answers, each written out by hand from the module's rule."""

import asyncio

import pytest

from protos import worker_pb2 as pb
from tests.worker.asks import Ask, answer, rows_of, run, submit
from worker.engines.scripted.counting import CountingConfig, CountingEngine, parse_engine_flags

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
END = 200_002


def engine(max_num_seqs: int = 256) -> CountingEngine:
    """Make an engine whose steps take no time."""
    return CountingEngine(CountingConfig(step_ms=0, max_num_seqs=max_num_seqs))


@pytest.mark.parametrize(
    "ask, tokens, reason",
    [
        (Ask([4, 9, 17]), [18, 19, 20, END], STOP),
        (Ask([4, 9, 17], 4), [18, 19, 20, END], STOP),
        (Ask([4, 9, 17], 3), [18, 19, 20], LENGTH),
        (Ask([4, 9, 17], 2), [18, 19], LENGTH),
        (Ask([4, 9, 17], 1), [18], LENGTH),
        (Ask([2, 9, 17]), [18, END], STOP),
        (Ask([1, 9, 17]), [END], STOP),
        (Ask([1, 9, 17], 1), [END], STOP),
        (Ask([0, 9, 17]), [], STOP),
        (Ask([0, 9, 17], 1), [], STOP),
        (Ask([3]), [4, 5, END], STOP),
        (Ask([1]), [END], STOP),
        (Ask([0]), [], STOP),
        (Ask([5, 199_996]), [199_997, 199_998, 0, 1, END], STOP),
        (Ask([3, 199_998]), [0, 1, END], STOP),
        (Ask([3, 200_012]), [14, 15, END], STOP),  # 200,013 - 199,999
        # A continuation gives what is left of the same answer.
        (Ask([4, 9, 17, 18], produced=1), [19, 20, END], STOP),
        (Ask([4, 9, 17, 18, 19], produced=2), [20, END], STOP),
        (Ask([4, 9, 17, 18, 19, 20], produced=3), [END], STOP),
        (Ask([4, 9, 17, 18, 19, 20, END], produced=4), [], STOP),
        (Ask([4, 9, 17, 18], 2, produced=1), [19, 20], LENGTH),
        (Ask([4, 9, 17, 18], 3, produced=1), [19, 20, END], STOP),
        (Ask([5, 199_997, 199_998, 0], produced=2), [1, 2, END], STOP),
    ],
)
def test_an_answer_is_the_one_computed_by_hand(ask: Ask, tokens: list[int], reason: int) -> None:
    """Length, counting, wrap at 199,999, stop id, budget and continuation follow the module's rule."""

    async def walk() -> dict[int, tuple[list[int], int]]:
        counting = engine()
        submit(counting, {7: ask})
        return await answer(counting, 1)

    assert run(walk()) == {7: (tokens, reason)}


def test_requests_of_one_message_do_not_mix() -> None:
    """Six requests of different lengths, one continued and one empty, each get their own answer."""

    async def walk() -> dict[int, tuple[list[int], int]]:
        counting = engine()
        submit(counting, {1: Ask([3, 10]), 2: Ask([0, 20]), 1 << 32: Ask([2, 30])})
        submit(counting, {4: Ask([9, 40], 2), 5: Ask([4, 50, 51], produced=1), 2**64 - 1: Ask([1, 60])})
        return await answer(counting, 6)

    assert run(walk()) == {
        1: ([11, 12, END], STOP),
        2: ([], STOP),
        1 << 32: ([31, END], STOP),
        4: ([41, 42], LENGTH),
        5: ([52, 53, END], STOP),
        2**64 - 1: ([END], STOP),
    }


def test_no_more_than_max_num_seqs_run_and_the_others_wait_in_order() -> None:
    """Two slots: the third request's first token comes after the first end, the fourth's after the second."""

    async def walk() -> list[dict[int, list[int]]]:
        counting = engine(max_num_seqs=2)
        submit(counting, {1: Ask([2, 10]), 2: Ask([3, 20]), 3: Ask([1, 30]), 4: Ask([2, 40])})
        assert counting.load()[:2] == (0, 4)
        steps = [rows_of(await counting.step())]
        assert counting.load()[:2] == (2, 2)
        steps += [rows_of(await counting.step()) for _ in range(4)]
        assert counting.load()[:2] == (0, 0)
        return steps

    assert run(walk()) == [
        {1: [11], 2: [21]},
        {1: [END], 2: [22]},
        {2: [END], 3: [END]},
        {4: [41]},
        {4: [END]},
    ]


def test_only_first_tokens_and_ends_are_urgent() -> None:
    """A step is urgent if it has a request's first or last token, otherwise not."""

    async def walk() -> list[bool]:
        counting = engine()
        submit(counting, {1: Ask([6, 10])})
        urgent = [(await counting.step()).urgent for _ in range(3)]
        submit(counting, {2: Ask([9, 20])})
        return urgent + [(await counting.step()).urgent for _ in range(4)]

    assert run(walk()) == [True, False, False, True, False, True, False]


def test_a_cancelled_request_is_heard_of_no_more() -> None:
    """Cancel drops a running and a waiting request; unknown and ended names are ignored, others continue."""

    async def walk() -> tuple[dict[int, list[int]], dict[int, tuple[list[int], int]]]:
        counting = engine(max_num_seqs=3)
        submit(
            counting, {1: Ask([50, 10]), 2: Ask([3, 20]), 3: Ask([1, 30]), 4: Ask([50, 40]), 5: Ask([2, 50])}
        )
        first = rows_of(await counting.step())
        counting.cancel([1, 3, 4, 999])
        assert counting.load()[:2] == (1, 1)
        return first, await answer(counting, 2)

    first, rest = run(walk())
    assert first == {1: [11], 2: [21], 3: [END]}
    assert rest == {2: ([22, END], STOP), 5: ([51, END], STOP)}


def test_reset_forgets_every_request() -> None:
    """After a reset the engine is empty and returns no old token; the next run's answers are right."""

    async def walk() -> dict[int, tuple[list[int], int]]:
        counting = engine(max_num_seqs=1)
        submit(counting, {1: Ask([50, 10]), 2: Ask([50, 20])})
        await counting.step()
        await counting.reset()
        assert counting.load()[:2] == (0, 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await counting.step()
        submit(counting, {1: Ask([2, 70])})
        return await answer(counting, 1)

    assert run(walk()) == {1: ([71, END], STOP)}


def test_step_waits_for_work() -> None:
    """A step of an empty engine returns only after a request is submitted."""

    async def walk() -> dict[int, list[int]]:
        counting = engine()
        waiting = asyncio.ensure_future(counting.step())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        submit(counting, {1: Ask([2, 70])})
        return rows_of(await waiting)

    assert run(walk()) == {1: [71]}


def test_the_engine_says_what_it_is() -> None:
    """The info has gpt-oss's vocabulary, the one stop id, and the limits of the configuration."""
    config = CountingConfig(max_num_seqs=3, max_model_len=99)
    info = run(CountingEngine(config).start())
    assert (info.engine, info.vocab_size, info.stop_token_ids) == ("counting", 201_088, (200_002,))
    assert (info.max_num_seqs, info.max_model_len, info.tensor_parallel_size) == (3, 99, 1)


@pytest.mark.parametrize(
    "flag, value",
    [
        *[
            (flag, value)
            for flag in ("--prefill-ms", "--step-ms", "--load-ms")
            for value in ("-1", "-0.5", "nan")
        ],
        *[(flag, value) for flag in ("--max-num-seqs", "--max-model-len") for value in ("-1", "0")],
    ],
)
def test_a_value_out_of_bounds_is_named(flag: str, value: str) -> None:
    """Times below 0 or NaN, and counts below 1, are refused with flag and value."""
    with pytest.raises(ValueError, match=rf"^{flag}: {value}"):
        parse_engine_flags([f"{flag}={value}"])
