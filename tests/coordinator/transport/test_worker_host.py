"""What a worker says of its machine is bounded and cleaned; a bad answer is noted and ends nothing."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

import coordinator.transport.worker_host
from coordinator.transport.worker_host import Accelerators, WorkerHost, read_host
from protos import worker_pb2 as pb
from protos.columns import SERVICE

GIB = 1 << 30
Answer = Callable[[], Awaitable[bytes]]


def ask(answer: Answer) -> WorkerHost:
    """Call GetHost on a server that answers with these bytes, whatever they are."""

    async def serve() -> WorkerHost:
        async def handle(_: bytes, __: object) -> bytes:
            return await answer()

        handler = grpc.method_handlers_generic_handler(
            SERVICE, {"GetHost": grpc.unary_unary_rpc_method_handler(handle)}
        )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await read_host(channel)
        finally:
            await server.stop(None)

    return asyncio.run(asyncio.wait_for(serve(), 60))


def answering(message: bytes) -> Answer:
    """Answer with one message."""

    async def answer() -> bytes:
        return message

    return answer


def test_equal_accelerators_are_counted() -> None:
    """Seven equal devices and one with another driver are two groups; cores, memory, versions are kept."""
    newer = pb.Accelerator(name="H200", driver_version="580", memory_bytes=141 * GIB, max_sm_clock_mhz=1980)
    devices = [newer] * 7
    devices.append(pb.Accelerator(name="H200", driver_version="575", memory_bytes=141 * GIB, ecc=False))
    host = pb.HostInfo(
        hostname="node1",
        commit="a" * 40,
        python_version="3.12.1",
        package_versions={"vllm": "0.25.1"},
        num_cores=96,
        num_usable_cores=12,
        memory_bytes=2048 * GIB,
        accelerators=devices,
        environment={"HF_HOME": "/data"},
        hardware={"processor_model": "EPYC"},
    )
    assert WorkerHost(
        hostname="node1",
        commit="a" * 40,
        python_version="3.12.1",
        package_versions={"vllm": "0.25.1"},
        num_cores=96,
        num_usable_cores=12,
        memory_bytes=2048 * GIB,
        hardware={"processor_model": "EPYC"},
        accelerators=(
            Accelerators("H200", "580", 141 * GIB, 1980, 7),
            Accelerators("H200", "575", 141 * GIB, None, 1, ecc=False),
        ),
    ) == ask(answering(host.SerializeToString()))


@pytest.mark.parametrize(
    "told, kept", [(None, None), (2.5, 2.5), (0.0, None), (float("nan"), None), (float("inf"), None)]
)
def test_a_cpu_quota_is_a_number_above_0(told: float | None, kept: float | None) -> None:
    """A worker in a container with a CPU limit; no limit, and numbers that no limit is, are not known."""
    assert kept == ask(answering(pb.HostInfo(cpu_quota_cores=told).SerializeToString())).cpu_quota_cores


def test_the_machines_of_an_engine_over_several_nodes_are_kept() -> None:
    """Those of the other nodes follow in their order; they have no other nodes themselves."""
    second = pb.HostInfo(hostname="node2", engine_hosts=[pb.HostInfo(hostname="no node")])
    host = pb.HostInfo(hostname="node1", engine_hosts=[second, pb.HostInfo(hostname="node3")])
    others = (WorkerHost(hostname="node2"), WorkerHost(hostname="node3"))
    assert WorkerHost(hostname="node1", engine_hosts=others) == ask(answering(host.SerializeToString()))


def test_text_is_cleaned_and_bounded() -> None:
    """Terminal escapes become `?`; long names are cut, and of many entries 64 are kept."""
    host = pb.HostInfo(
        hostname="\x1b[2Jnode",
        commit="c" * 1000,
        package_versions={f"p{i:03}\n": "1\r" for i in range(100)},
        not_told=["\x07"] * 100,
        accelerators=[pb.Accelerator(name=f"{i}\x1b") for i in range(100)],
    )
    found = ask(answering(host.SerializeToString()))
    assert ("?[2Jnode", 200) == (found.hostname, len(found.commit))
    assert {f"p{i:03}?": "1?" for i in range(64)} == found.package_versions
    assert ("?",) * 64 == found.not_told
    assert [f"{i}?" for i in range(64)] == [group.name for group in found.accelerators]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff\xff\xff", "GetHost: the answer is not a message of this protocol"),
        # Field 1, a string, that is no UTF-8.
        (b"\x0a\x01\xff", "GetHost: the answer is not a message of this protocol"),
        (bytes(1_100_000), "GetHost: an answer of 1100000 bytes, at most 1048576"),
    ],
    ids=["no-message", "no-utf-8", "too-long"],
)
def test_a_bad_answer_is_noted(message: bytes, reason: str) -> None:
    """Bytes that are no answer, or too many of them, give the reason instead of facts."""
    assert WorkerHost(not_told=(reason,)) == ask(answering(message))


def test_a_worker_that_does_not_answer_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call has a time limit, and a status of the worker's own is cleaned as well."""

    async def hang() -> bytes:
        await asyncio.sleep(20)
        return b""

    monkeypatch.setattr(coordinator.transport.worker_host, "TIMEOUT_S", 0.2)
    (reason,) = ask(hang).not_told
    assert reason.startswith("GetHost: DEADLINE_EXCEEDED")

    async def fail() -> bytes:
        raise RuntimeError("\x1b[2J")

    (reason,) = ask(fail).not_told
    assert reason.startswith("GetHost: UNKNOWN: ")
    assert "\x1b" not in reason


def test_the_coordinators_machine_has_the_same_facts() -> None:
    """The coordinator describes itself in the same form, with at least one core and its packages."""
    host = WorkerHost.of_this_process()
    assert host.num_cores >= host.num_usable_cores > 0
    assert "grpcio" in host.package_versions
