"""Leave secrets out of the engine arguments that a worker reports: GetInfo needs no run token.

An argument that holds an object may hold credentials, for example of an object store or of a KV cache server.
Its values are reported as they are only under keys that are known to hold none. Values under other keys are
replaced by a hash, so that workers can still be compared. Values under keys that sound like a credential are
neither reported nor compared, and so are those that are different in every process.
"""

import hashlib
import json
import re
from collections.abc import Mapping

HIDDEN = "(hidden)"
"""Stands for a value that is neither reported nor compared."""
HASH_LEN = 16
"""Hexadecimal digits of SHA-256 that stand for the value of an unknown key."""


def names_in(text: str) -> frozenset[str]:
    """Return the names of a list that is written as text, separated by spaces."""
    return frozenset(text.split())


# Arguments whose objects describe the model, its kernels or its batches.
_DESCRIBING = names_in(
    """
    hf_overrides override_generation_config quantization_config rope_parameters speculative_config
    compilation_config attention_config kernel_config mamba_config ir_op_priority eplb_config pooler_config
    diffusion_config structured_outputs_config reasoning_config limit_mm_per_prompt media_io_kwargs
    mm_processor_kwargs default_mm_loras cuda_graph_config random_weights
    """
)
# Keys of the other objects that hold no credential.
_KNOWN_KEYS = names_in(
    """
    kv_connector kv_connector_module_path kv_role kv_parallel_size kv_buffer_device kv_buffer_size
    kv_load_failure_policy enable_permute_local_kv ec_connector ec_connector_module_path ec_role
    ec_parallel_size ec_buffer_device ec_buffer_size block_size chunk_size num_cpu_blocks cpu_bytes_to_use
    cpu_bytes_to_use_per_rank offload_prompt_only lazy_offload eviction_policy use_mla backend strategy
    concurrency memory_limit distributed pattern num_threads enable_multithread_load
    """
)
# Addresses and ids that are different in every process.
_PLACES = names_in("engine_id kv_ip kv_port kv_rank ec_ip ec_port ec_rank")
_CREDENTIAL = re.compile(
    r"key|secret|token(?!iz)|passw|passphrase|pwd|credential|auth|cookie|signature|bearer"
)
# User information and query of a URL.
_URL_USER = re.compile(r"(?<=://)[^/?#\s\"]*@")
_URL_QUERY = re.compile(r"(?<=://)([^?\s\"]*)\?[^\s\"]*")


def redact(name: str, value: object) -> object:
    """Return the value of an engine argument or environment variable without secrets.

    Args:
        name: The argument or variable.
        value: Its value as JSON can hold it.
    """
    if name == "hf_token" or (isinstance(value, str) and _CREDENTIAL.search(name.lower())):
        return HIDDEN
    return _redact(value, describes=name in _DESCRIBING, shown=True)


def _redact(value: object, *, describes: bool, shown: bool) -> object:
    """Redact a part of an argument.

    Args:
        value: The part.
        describes: The argument is one of _DESCRIBING.
        shown: The part is reported as it is, unless it is an object.
    """
    if isinstance(value, Mapping):
        return {key: _redact_entry(str(key), part, describes=describes) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(part, describes=describes, shown=shown) for part in value]
    if value is None or isinstance(value, bool):
        return value
    if not shown:
        return f"sha256:{hashlib.sha256(json.dumps(value).encode()).hexdigest()[:HASH_LEN]}"
    return _without_credentials(value) if isinstance(value, str) else value


def _redact_entry(key: str, value: object, *, describes: bool) -> object:
    # In a description only texts can be credentials: eos_token_id is a number or a list of them.
    may_be_secret = isinstance(value, str) or not (describes or value is None or isinstance(value, bool))
    if may_be_secret and (key in _PLACES or _CREDENTIAL.search(key.lower())):
        return HIDDEN
    return _redact(value, describes=describes, shown=describes or key in _KNOWN_KEYS)


def _without_credentials(text: str) -> str:
    """Remove user information and query from the URLs in a text."""
    return _URL_QUERY.sub(rf"\1?{HIDDEN}", _URL_USER.sub(f"{HIDDEN}@", text))
