"""The simulated engine: content and duration of each step, computed by hand."""

import asyncio
from typing import NamedTuple

import pytest

from protos import worker_pb2 as pb
from tests.worker.asks import Ask, answer, rows_of, run, submit
from worker.engines.scripted.cost_model import CostModel
from worker.engines.scripted.simulated import SimulatedConfig, SimulatedEngine, parse_engine_flags

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
END = 200_002
# 10 ms a step, 1 ms more for each request past its prefill and for each prompt token.
COSTS = CostModel(prefill_tokens_per_s=1000, step_base_ms=10, step_per_seq_us=1000)


class Simulated(NamedTuple):
    """An engine that records step times instead of waiting."""

    engine: SimulatedEngine
    steps_ms: list[int]
    """How long each step lasted."""

    async def step(self) -> dict[int, list[int]]:
        """Take the next step's tokens by request."""
        return rows_of(await self.engine.step())


def simulated(max_num_seqs: int = 4, max_num_batched_tokens: int = 10) -> Simulated:
    """Make an engine that records how long each step would last."""
    steps_ms: list[int] = []

    async def wait(step_s: float) -> None:
        steps_ms.append(round(step_s * 1e3))

    config = SimulatedConfig(
        max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens, costs=COSTS
    )
    return Simulated(SimulatedEngine(config, wait), steps_ms)


def ask(answer_len: int, last: int, prompt_len: int) -> Ask:
    """Make a prompt of a length that asks for an answer counting on from `last`."""
    return Ask([answer_len, *[7] * (prompt_len - 2), last])


def test_a_first_token_comes_with_the_step_that_completes_the_prefill() -> None:
    """Prompts of 4, 12 and 3 tokens, 10 tokens a step: the second needs what two steps have left.

    Step 1: 4 + 6 of 12 prompt tokens, 20 ms. Step 2: one decodes, so 6 of 12 and all 3 of the third fit
    into its 9, 10 + 1 + 9 ms. Step 3: three decode, 13 ms.
    """

    async def walk() -> None:
        sim = simulated()
        submit(sim.engine, {1: ask(5, 10, 4), 2: ask(3, 20, 12), 3: ask(2, 30, 3)})
        assert sim.engine.load()[:2] == (0, 3)
        assert {1: [11]} == await sim.step()
        assert sim.engine.load()[:2] == (2, 1)
        assert {1: [12], 2: [21], 3: [31]} == await sim.step()
        assert sim.engine.load()[:2] == (3, 0)
        assert {1: [13], 2: [22], 3: [END]} == await sim.step()
        assert {1: [14], 2: [END]} == await sim.step()
        assert {1: [END]} == await sim.step()
        assert sim.steps_ms == [20, 20, 13, 12, 11]

    run(walk())


def test_a_step_of_prefill_alone_takes_its_time_and_gives_nothing() -> None:
    """25 tokens at 10 a step: 20 + 20 + 15 ms go by before the first token."""

    async def walk() -> None:
        sim = simulated()
        submit(sim.engine, {1: ask(2, 50, 25)})
        assert {1: [51]} == await sim.step()
        assert sim.steps_ms == [20, 20, 15]
        assert {1: [END]} == await sim.step()
        assert sim.steps_ms == [20, 20, 15, 11]

    run(walk())


def test_prefill_leaves_room_for_those_that_decode() -> None:
    """Budget and places of 4, three requests decoding: a prompt of 3 tokens takes one in each step."""

    async def walk() -> None:
        sim = simulated(max_num_seqs=4, max_num_batched_tokens=4)
        submit(sim.engine, {1: Ask([9]), 2: Ask([9]), 3: Ask([9])})
        await sim.step()
        submit(sim.engine, {4: ask(2, 40, 3)})
        steps = [await sim.step() for _ in range(3)]
        assert [{1, 2, 3}, {1, 2, 3}, {1, 2, 3, 4}] == [set(step) for step in steps]
        assert steps[2][4] == [41]
        assert sim.steps_ms == [13, 14, 14, 14]

    run(walk())


def test_no_more_than_max_num_seqs_run_and_the_others_wait_in_order() -> None:
    """Two places: the third prompt's prefill begins after the first end, the fourth's after the second."""

    async def walk() -> None:
        sim = simulated(max_num_seqs=2)
        submit(sim.engine, {1: ask(2, 10, 2), 2: ask(3, 20, 2), 3: ask(1, 30, 2), 4: ask(1, 40, 2)})
        assert {1: [11], 2: [21]} == await sim.step()
        assert sim.engine.load()[:2] == (2, 2)
        assert {1: [END], 2: [22]} == await sim.step()
        assert {2: [END], 3: [END]} == await sim.step()
        assert {4: [END]} == await sim.step()
        assert sim.engine.load()[:2] == (0, 0)
        assert sim.steps_ms == [14, 12, 13, 12]

    run(walk())


def test_answers_end_as_they_do_elsewhere() -> None:
    """Stop id, budget, continuation and an answer of 0 tokens, mixed in one engine."""

    async def walk() -> dict[int, tuple[list[int], int]]:
        sim = simulated()
        submit(sim.engine, {1: Ask([3, 10]), 2: Ask([9, 40], 2), 3: Ask([0, 20])})
        submit(sim.engine, {4: Ask([4, 50, 51], produced=1), 5: Ask([2, 9, 17], 1)})
        return await answer(sim.engine, 5)

    assert run(walk()) == {
        1: ([11, 12, END], STOP),
        2: ([41, 42], LENGTH),
        3: ([], STOP),
        4: ([52, 53, END], STOP),
        5: ([18], LENGTH),
    }


def test_what_was_produced_elsewhere_is_prefilled_again() -> None:
    """A prompt of 3 tokens with 2 of its answer costs 5 of prefill, and its next token is the third."""

    async def walk() -> None:
        sim = simulated()
        submit(sim.engine, {1: Ask([4, 9, 17, 18, 19], produced=2)})
        assert {1: [20]} == await sim.step()
        assert sim.steps_ms == [15]

    run(walk())


def test_a_cancelled_request_is_heard_of_no_more() -> None:
    """Cancel drops running, partly prefilled and waiting requests; the next prompt is prefilled from 0."""

    async def walk() -> None:
        sim = simulated()
        submit(sim.engine, {1: ask(9, 10, 2), 2: ask(9, 20, 12), 3: ask(1, 30, 12), 4: Ask([9])})
        assert {1: [11]} == await sim.step()
        sim.engine.cancel([1, 2, 4, 999])
        assert sim.engine.load()[:2] == (0, 1)
        assert {3: [END]} == await sim.step()
        assert sim.steps_ms == [20, 20, 12]  # 12 tokens of the third, none of them before

    run(walk())


def test_only_first_tokens_and_ends_are_urgent() -> None:
    """A step is urgent if it has a request's first or last token, otherwise not."""

    async def walk() -> list[bool]:
        sim = simulated()
        submit(sim.engine, {1: Ask([5, 10])})
        urgent = [(await sim.engine.step()).urgent for _ in range(3)]
        submit(sim.engine, {2: Ask([9, 20])})
        return urgent + [(await sim.engine.step()).urgent for _ in range(3)]

    assert run(walk()) == [True, False, False, True, True, False]


def test_reset_forgets_every_request() -> None:
    """After a reset, also of a partial prefill, the engine is empty and the next run's answers are right."""

    async def walk() -> None:
        sim = simulated()
        submit(sim.engine, {1: ask(9, 10, 2), 2: ask(9, 20, 12)})
        await sim.step()
        await sim.engine.reset()
        assert sim.engine.load()[:2] == (0, 0)
        waiting = asyncio.ensure_future(sim.step())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        submit(sim.engine, {1: ask(2, 70, 9)})
        assert {1: [71]} == await waiting
        assert sim.steps_ms == [20, 19]

    run(walk())


def test_the_engine_says_what_it_is() -> None:
    """The info names the engine, its limits and its costs."""
    config = SimulatedConfig(max_num_seqs=3, max_num_batched_tokens=20, max_model_len=99, costs=COSTS)
    info = run(SimulatedEngine(config).start())
    assert (info.engine, info.model, info.vocab_size) == ("simulated", "simulated", 201_088)
    assert (info.max_num_seqs, info.max_model_len, info.stop_token_ids) == (3, 99, (200_002,))
    assert info.engine_args == {
        "max_num_seqs": "3",
        "seed": "0",
        "max_num_batched_tokens": "20",
        "max_model_len": "99",
        "prefill_tokens_per_s": "1000",
        "step_base_ms": "10",
        "step_per_seq_us": "1000",
    }


def test_flags_are_read() -> None:
    """Each flag sets its field; fields without a flag have the default."""
    assert SimulatedConfig() == parse_engine_flags([])
    flags = "--max-num-seqs 3 --max-num-batched-tokens 20 --max-model-len 99"
    costs = "--prefill-tokens-per-s 1000 --step-base-ms 10 --step-per-seq-us 1000"
    config = SimulatedConfig(max_num_seqs=3, max_num_batched_tokens=20, max_model_len=99, costs=COSTS)
    assert config == parse_engine_flags([*flags.split(), *costs.split()])


@pytest.mark.parametrize("flag", ["--max-num-seqs", "--max-num-batched-tokens", "--max-model-len"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_out_of_bounds_is_named(flag: str, value: int) -> None:
    """Counts below 1 are refused with flag and value."""
    with pytest.raises(ValueError, match=rf"^{flag}: {value} is below 1$"):
        parse_engine_flags([f"{flag}={value}"])
