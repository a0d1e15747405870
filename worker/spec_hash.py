"""Hash of a run specification and the engine that serves it; must be equal for all workers of a run."""

import hashlib
import json

from protos import worker_pb2 as pb


def spec_hash(spec: pb.RunSpec, info: pb.WorkerInfo) -> str:
    """Hash everything that determines a run's answers: run specification, model, engine and its limits.

    Tensor parallel size and host are not included, so that unequal nodes can serve one run.

    Returns:
        SHA-256 in hex.
    """
    facts = {
        "protocol_version": info.protocol_version,
        "engine": info.engine,
        "engine_version": info.engine_version,
        "model_hash": info.model_hash,
        "vocab_size": info.vocab_size,
        "max_model_len": info.max_model_len,
        "stop_token_ids": list(info.stop_token_ids),
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "top_k": spec.top_k,
        "max_new_tokens": spec.max_new_tokens,
        "seed": spec.seed if spec.HasField("seed") else None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
