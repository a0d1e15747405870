"""The engine hash and the run hash that must be equal for all workers of a run."""

import pytest

from protos import worker_pb2 as pb
from protos.hashes import engine_hash, run_hash

SPEC = {"temperature": 1.0, "top_p": 0.5, "top_k": -1, "max_new_tokens": 10_240, "seed": 0}
INFO = {
    "protocol_version": 2,
    "engine": "counting",
    "engine_version": "1",
    "model_hash": "ab",
    "vocab_size": 201_088,
    "max_model_len": 4096,
    "stop_token_ids": [199_999, 200_002],
    "hostname": "node1",
    "tensor_parallel_size": 8,
    "pid": 1,
    "instance_id": "i1",
    "max_num_seqs": 256,
    "model": "/models/a",
    "state": pb.WORKER_STATE_READY,
    "engine_args": {"port": "1"},
    "engine_facts": {"kv_cache_dtype": '"auto"'},
    "execution_facts": {"block_size": "16"},
    "weights_sha256": "",
}


def hash_of(**changed: object) -> str:
    """Hash the values above with some changed; None leaves a value out."""
    values = {k: v for k, v in (SPEC | INFO | changed).items() if v is not None}
    spec = pb.RunSpec(**{k: v for k, v in values.items() if k in SPEC})  # type: ignore[arg-type]
    info = pb.WorkerInfo(**{k: v for k, v in values.items() if k in INFO})  # type: ignore[arg-type]
    return run_hash(spec, info)


@pytest.mark.parametrize(
    "field, value",
    [
        ("temperature", 0.5),
        ("temperature", 1.0000001192092896),  # the next float32
        ("top_p", 0.25),
        ("top_k", 1),
        ("max_new_tokens", 10_000),
        ("seed", 1),
        ("seed", None),  # an absent seed is not seed 0
        ("protocol_version", 1),
        ("engine", "vllm"),
        ("engine_version", "2"),
        ("model_hash", "ac"),
        ("vocab_size", 201_089),
        ("max_model_len", 4097),
        ("stop_token_ids", [199_999]),
        ("stop_token_ids", [199_999, 200_002, 200_012]),
        ("engine_facts", {}),
        ("engine_facts", {"kv_cache_dtype": '"fp8"'}),
        ("engine_facts", {"kv_cache_dtype": '"auto"', "seed": "0"}),
    ],
)
def test_whatever_decides_an_answer_changes_the_hash(field: str, value: object) -> None:
    """Each field of the run specification, model, engine and limits changes the hash."""
    assert hash_of() != hash_of(**{field: value})


@pytest.mark.parametrize(
    "field, value",
    [
        ("hostname", "node2"),
        ("tensor_parallel_size", 1),
        ("pid", 2),
        ("instance_id", "i2"),
        ("max_num_seqs", 1024),
        ("model", "/other/place"),
        ("state", pb.WORKER_STATE_DRAINING),
        ("engine_args", {"port": "2"}),
        ("execution_facts", {"block_size": "32"}),
        # Not every worker has read its weights completely; where two have, the coordinator compares.
        ("weights_sha256", "ab"),
    ],
)
def test_unequal_nodes_may_share_a_hash(field: str, value: object) -> None:
    """Host, parallel sizes and the number of running requests do not change the hash."""
    assert hash_of() == hash_of(**{field: value})


def test_the_hash_is_sha256_in_hex() -> None:
    """The hash has 64 lower-case hexadecimal digits, and is the same for a message off the wire."""
    spec = pb.RunSpec.FromString(pb.RunSpec(temperature=0.1, top_p=0.9).SerializeToString())
    assert run_hash(pb.RunSpec(temperature=0.1, top_p=0.9), pb.WorkerInfo()) == run_hash(
        spec, pb.WorkerInfo()
    )
    assert len(hash_of()) == 64
    assert set(hash_of()) <= set("0123456789abcdef")


def test_the_engine_hash_is_independent_of_the_run() -> None:
    """The run specification changes the run hash only; a fact changes both."""
    info = pb.WorkerInfo(**INFO)  # type: ignore[arg-type]
    before = engine_hash(info)
    info.protocol_version = 99
    assert before == engine_hash(info)
    info.engine_facts["seed"] = "1"
    assert before != engine_hash(info)
