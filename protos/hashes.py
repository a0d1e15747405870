"""The engine hash and the run hash, on which all workers of a run must agree."""

import hashlib
import json

from protos import worker_pb2 as pb


def engine_hash(info: pb.WorkerInfo) -> str:
    """Hash everything about an engine that decides its answers.

    Host, parallel sizes, backends and batch limits are not included, so that unequal nodes can serve one run.

    Returns:
        SHA-256 in hex.
    """
    return _sha256(
        {
            "engine": info.engine,
            "engine_version": info.engine_version,
            "model_hash": info.model_hash,
            "vocab_size": info.vocab_size,
            "max_model_len": info.max_model_len,
            "stop_token_ids": list(info.stop_token_ids),
            "engine_facts": dict(info.engine_facts),
        }
    )


def run_hash(spec: pb.RunSpec, info: pb.WorkerInfo) -> str:
    """Hash everything that decides the answers of a run: the engine hash and the run specification.

    Returns:
        SHA-256 in hex.
    """
    return _sha256(
        {
            "protocol_version": info.protocol_version,
            "engine_hash": engine_hash(info),
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "top_k": spec.top_k,
            "max_new_tokens": spec.max_new_tokens,
            "seed": spec.seed if spec.HasField("seed") else None,
        }
    )


def _sha256(facts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
