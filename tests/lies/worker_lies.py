"""Lies of a worker about itself: refused at the start of a run, and "not back" after a loss."""

import math
from collections.abc import Callable
from typing import Any

from grpc_health.v1 import health_pb2

from coordinator.transport.worker_answers import MAX_ANSWER_BYTES
from protos import worker_pb2 as pb
from protos.hashes import engine_hash
from tests.lies.lying_worker import SHORT_S, VOCAB_SIZE, Lie, pack

ESCAPE = "\x1b[31m\x07\r\n"


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
    "33 warnings": (Lie(info=fields(warnings=["x"] * 33)), "33 warnings, at most 32"),
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
    "opened with other engine facts": (
        Lie(opened=opened(lambda o: edit(_with_lora)(o.info))),
        "enable_lora differs",
    ),
    "opened with other engine facts under the old hash": (
        Lie(opened=opened(lambda o: _with_lora(o.info))),
        "its engine hash is",
    ),
    "opened with another model": (
        Lie(opened=opened(lambda o: fields(model_hash="d" * 64)(o.info))),
        "model_hash differs",
    ),
    "opened with another stop id": (
        Lie(opened=opened(lambda o: fields(stop_token_ids=[199_999])(o.info))),
        "stop_token_ids differs",
    ),
    "opened with a shorter context": (
        Lie(opened=opened(lambda o: fields(max_model_len=16)(o.info))),
        "max_model_len differs",
    ),
    "opened without a slot": (
        Lie(opened=opened(lambda o: edit(lambda info: info.ClearField("max_num_seqs"))(o.info))),
        "max_num_seqs is 0",
    ),
    "tokens instead of opened": (Lie(opened=lambda _: pack([], 0)), "answers open with tokens"),
    "opened that does not parse": (Lie(opened=lambda _: b"\xff\xff"), "answers open with no message"),
    "no answer to open": (Lie(opened=lambda _: None, patience_s=SHORT_S), "no answer within"),
}


def _other_engine(info: pb.WorkerInfo) -> None:
    info.engine = "other"


def _with_lora(info: pb.WorkerInfo) -> None:
    info.engine_facts["enable_lora"] = "true"
