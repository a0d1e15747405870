"""How a run begins on a worker, over a real socket: admission, and the status and message of refusals."""

import pytest

from protos import worker_pb2 as pb
from protos.hashes import run_hash
from tests.worker.raw_client import (
    MAX_MODEL_LEN,
    SPEC,
    Worker,
    assert_empty,
    connected,
    open_when_free,
    refusal_of,
    walk,
)
from worker import servicer as servicer_module
from worker.engines.scripted.counting import CountingConfig, CountingEngine

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
END = 200_002


def test_open_is_answered_with_info_and_hash() -> None:
    """`opened` is the first message, with the run id, the spec hash and the worker's info as in GetInfo."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        opened = await stream.open("named")
        assert opened.run_id == "named"
        info = await worker.stub.GetInfo(pb.GetInfoRequest())
        assert info == opened.info
        assert (info.engine, info.max_model_len, info.protocol_version) == ("counting", MAX_MODEL_LEN, 4)
        assert info.state == pb.WORKER_STATE_READY
        assert run_hash(pb.RunSpec(**SPEC), info) == opened.spec_hash  # type: ignore[arg-type]
        await stream.end()

    walk(steps)


def test_answers_come_home_token_exact() -> None:
    """Prompts of one Submit and of a later one, continued ones included, get the answers computed by hand."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({1: [4, 9, 17], 2: [1, 5], 3 << 32: [0, 5]})
        await stream.submit({4: [6, 30, 31, 32]}, produced=2)
        await stream.submit({5: [9, 40]}, budget=2)
        await stream.take_until_ended(1, 2, 3 << 32, 4, 5)
        assert stream.answers == {
            1: [18, 19, 20, END],
            2: [END],
            3 << 32: [],
            4: [33, 34, 35, END],
            5: [41, 42],
        }
        assert stream.reasons == {1: STOP, 2: STOP, 3 << 32: STOP, 4: STOP, 5: LENGTH}
        await stream.end()

    walk(steps)


def test_a_second_run_is_refused_and_the_first_goes_on() -> None:
    """The refusal is FAILED_PRECONDITION and names the run that holds the worker; that run continues."""

    async def steps(worker: Worker) -> None:
        first = worker.stream()
        await first.open("holder")
        expected = ("FAILED_PRECONDITION", "run holder holds this worker")
        assert await refusal_of(worker.channel) == expected
        async with connected(worker.address) as other:
            assert await refusal_of(other) == expected
        assert (await worker.stub.GetLoad(pb.GetLoadRequest())).run_id == "holder"
        await first.submit({1: [3, 9]})
        await first.take_until_ended(1)
        assert first.answers == {1: [10, 11, END]}
        await first.end()
        await assert_empty(await open_when_free(worker, "second"))

    walk(steps)


def test_a_worker_that_is_not_ready_refuses() -> None:
    """While the worker loads, GetInfo reports LOADING; a run is refused with UNAVAILABLE."""

    async def steps(worker: Worker) -> None:
        assert (await worker.stub.GetInfo(pb.GetInfoRequest())).state == pb.WORKER_STATE_LOADING
        assert await refusal_of(worker.channel) == ("UNAVAILABLE", "worker is WORKER_STATE_LOADING")

    walk(steps, ready=False)


@pytest.mark.parametrize("version", [0, 3, 5])
def test_another_protocol_version_is_refused(version: int) -> None:
    """FAILED_PRECONDITION names both versions, and leaves the worker free."""

    async def steps(worker: Worker) -> None:
        expected = ("FAILED_PRECONDITION", f"protocol version {version}, this worker speaks 4")
        assert await refusal_of(worker.channel, version=version) == expected
        await worker.stream().open()

    walk(steps)


@pytest.mark.parametrize(
    "first",
    [
        pb.ToWorker(ping=pb.Ping(nonce=1)),
        pb.ToWorker(submit=pb.Submit()),
        pb.ToWorker(cancel=pb.Cancel()),
        pb.ToWorker(),
        None,
    ],
    ids=["ping", "submit", "cancel", "nothing set", "no message"],
)
def test_the_first_message_must_be_open(first: pb.ToWorker | None) -> None:
    """Any other first message, or a stream closed without one, is INVALID_ARGUMENT, and holds nothing."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        if first is None:
            await stream.call.done_writing()
        else:
            await stream.call.write(first)
        assert await stream.refusal() == ("INVALID_ARGUMENT", "the first message must be open")
        await worker.stream().open()

    walk(steps)


def test_no_open_in_time_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without a first message ends with DEADLINE_EXCEEDED, and never holds the worker."""
    monkeypatch.setattr(servicer_module, "OPEN_TIMEOUT_S", 0.2)

    async def steps(worker: Worker) -> None:
        silent = worker.stream()
        holder = worker.stream()
        await holder.open()
        status, reason = await silent.refusal()
        assert (status, reason.split(" within")[0]) == ("DEADLINE_EXCEEDED", "no open")
        await assert_empty(holder)

    walk(steps)


@pytest.mark.parametrize(
    "field, value, named",
    [
        ("temperature", -0.5, "temperature -0.5 is not in [0, 2]"),
        ("temperature", float("nan"), "temperature nan is not in [0, 2]"),
        ("temperature", float("inf"), "temperature inf is not in [0, 2]"),
        ("temperature", 2.5, "temperature 2.5 is not in [0, 2]"),
        ("top_p", 0.0, "top_p 0.0 is not in (0, 1]"),
        ("top_p", 1.5, "top_p 1.5 is not in (0, 1]"),
        ("top_p", float("nan"), "top_p nan is not in (0, 1]"),
        ("top_k", 0, "top_k 0 is neither -1 nor 1 or more"),
        ("top_k", -2, "top_k -2 is neither -1 nor 1 or more"),
        ("max_new_tokens", 0, "max_new_tokens 0 is not in [1, 20000)"),
        ("max_new_tokens", MAX_MODEL_LEN, "max_new_tokens 20000 is not in [1, 20000)"),
        ("max_new_tokens", 0xFFFFFFFF, "max_new_tokens 4294967295 is not in [1, 20000)"),
    ],
)
def test_a_specification_out_of_bounds_is_refused(field: str, value: float, named: str) -> None:
    """INVALID_ARGUMENT names the field, its value and the bound, and leaves the worker free."""

    async def steps(worker: Worker) -> None:
        assert await refusal_of(worker.channel, **{field: value}) == ("INVALID_ARGUMENT", named)
        await worker.stream().open(temperature=2.0, top_p=0.1, top_k=1, max_new_tokens=MAX_MODEL_LEN - 1)

    walk(steps)


class PickyEngine(CountingEngine):
    """Refuses every seed."""

    def open(self, spec: pb.RunSpec) -> None:
        """Refuse a specification with a seed."""
        if spec.HasField("seed"):
            raise ValueError("no seeds here")
        super().open(spec)


def test_what_the_engine_refuses_is_refused() -> None:
    """INVALID_ARGUMENT quotes the engine's message, and leaves the worker free."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        spec = pb.RunSpec(**SPEC, seed=1)  # type: ignore[arg-type]
        await stream.send(open=pb.Open(protocol_version=4, run_id="seeded", spec=spec))
        says = "the engine refuses the specification: no seeds here"
        assert ("INVALID_ARGUMENT", says) == await stream.refusal()
        await worker.stream().open()

    walk(steps, PickyEngine(CountingConfig(step_ms=0, max_model_len=MAX_MODEL_LEN)))
