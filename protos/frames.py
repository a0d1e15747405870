"""Columns of the wire: numpy arrays on one side, packed little-endian bytes on the other.

Whatever arrives is bounds-checked here, before it touches an array of either process.
"""

import hashlib
import json
import struct
from typing import Any, NamedTuple, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from protos import worker_pb2 as pb

PROTOCOL_VERSION = 2
SERVICE = "tokenfleet.v1.Worker"

# A Submit is cut at this many prompt tokens (4 MiB); an Offline window then takes a few messages.
MAX_SUBMIT_TOKENS = 1 << 20
# A time of a monotonic clock fits 63 bits, and so does the difference of two.
MAX_NS = (1 << 63) - 1
# Largest frame: a step of 16,384 first tokens is 0.3 MB, a merged backlog of a slow reader is more.
MAX_MESSAGE_BYTES = 64 << 20
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    # A worker that comes back is found within seconds: a new connection for each channel, short pauses.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Without this a second server would silently share the port with the first.
    ("grpc.so_reuseport", 0),
]

Requests = NDArray[np.uint64]
TokenIds = NDArray[np.int32]
FiveColumns = tuple[bytes, bytes, bytes, bytes, bytes]
Lens = NDArray[np.uint32]
_Dtype = TypeVar("_Dtype", bound=np.generic)
_DIGEST_HEAD = struct.Struct("<7Q")
_LITTLE: dict[type[np.generic], np.dtype[Any]] = {
    kind: np.dtype(kind).newbyteorder("<") for kind in (np.uint64, np.uint32, np.int32, np.uint8)
}


class FrameError(ValueError):
    """A message whose columns contradict each other or their bounds."""


class PromptColumns(NamedTuple):
    """R requests on their way to an engine, T prompt tokens in all."""

    requests: Requests
    """(R,) slot | generation << 32."""
    prompt_lens: Lens
    """(R,) tokens, each at least 1."""
    prompt_tokens: TokenIds
    """(T,) prompts end to end."""
    max_new_tokens: Lens
    """(R,) tokens still allowed, each at least 1."""
    produced: Lens
    """(R,) answer tokens at the end of each prompt, produced elsewhere."""


class TokenColumns(NamedTuple):
    """New tokens of R requests, T tokens in all; a request has at most one row."""

    requests: Requests
    """(R,) slot | generation << 32."""
    counts: Lens | None
    """(R,) new tokens of each row; None: each row has one."""
    tokens: TokenIds
    """(T,) rows end to end."""
    finished_rows: Lens
    """(F,) rows that end here, ascending."""
    finish_reasons: NDArray[np.uint8]
    """(F,) values of pb.FinishReason."""
    produced_ns: int
    """When the engine handed them over, worker's monotonic clock; see worker.proto for several steps."""


def name_requests(slots: NDArray[np.int64], generations: NDArray[np.uint32]) -> Requests:
    """Join slots and generations, both (R,), to request names."""
    return slots.astype(np.uint64) | (generations.astype(np.uint64) << np.uint64(32))


def slots_of(requests: Requests) -> NDArray[np.int64]:
    """Take the slots, (R,), out of request names."""
    return _halves(requests)[:, 0].astype(np.int64)


def generations_of(requests: Requests) -> NDArray[np.uint32]:
    """Take the generations, (R,), out of request names."""
    return _halves(requests)[:, 1]


def digest_of(columns: FiveColumns, produced_ns: int = 0, sequence: int = 0) -> int:
    """Hash a message's columns, where one ends and the next begins, and a frame's numbers.

    Returns:
        XXH3-64 of the five sizes in bytes and the two numbers, <u8 each, and the columns.
    """
    # Spelled out: with cold caches a loop over the columns takes three times as long.
    one, two, three, four, five = columns
    head = _DIGEST_HEAD.pack(len(one), len(two), len(three), len(four), len(five), produced_ns, sequence)
    digest: int = xxhash.xxh3_64_intdigest(b"".join((head, one, two, three, four, five)))
    return digest


def pack_submit(prompts: PromptColumns) -> pb.Submit:
    """Pack prompts for the wire."""
    columns = (
        prompts.requests.tobytes(),
        prompts.prompt_lens.tobytes(),
        prompts.prompt_tokens.tobytes(),
        prompts.max_new_tokens.tobytes(),
        prompts.produced.tobytes() if prompts.produced.any() else b"",
    )
    requests, prompt_lens, prompt_tokens, max_new_tokens, produced = columns
    return pb.Submit(
        requests=requests,
        prompt_lens=prompt_lens,
        prompt_tokens=prompt_tokens,
        max_new_tokens=max_new_tokens,
        produced=produced,
        digest=digest_of(columns),
    )


def unpack_submit(submit: pb.Submit) -> PromptColumns:
    """Check and unpack a Submit.

    Raises:
        FrameError: Columns of different lengths, an empty prompt or budget, lengths that do not add up, or
            a request with two rows, or a digest of other columns.
    """
    # Each read of a field copies it.
    columns = (
        submit.requests,
        submit.prompt_lens,
        submit.prompt_tokens,
        submit.max_new_tokens,
        submit.produced,
    )
    raw_requests, raw_lens, raw_tokens, raw_budgets, raw_produced = columns
    requests = unpack_requests(raw_requests)
    rows = len(requests)
    lens = _column("prompt_lens", raw_lens, np.uint32, rows)
    tokens = _column("prompt_tokens", raw_tokens, np.int32, _sum(lens))
    budgets = _column("max_new_tokens", raw_budgets, np.uint32, rows)
    produced = np.zeros(rows, np.uint32)
    if raw_produced:
        produced = _column("produced", raw_produced, np.uint32, rows)
    if rows and (lens.min() < 1 or budgets.min() < 1):
        raise FrameError("submit: an empty prompt or a budget of 0 tokens")
    if len(np.unique(requests)) < rows:
        raise FrameError("submit: two rows of one request")
    if (produced >= lens).any():
        raise FrameError("submit: more tokens produced than the prompt holds")
    if submit.digest != digest_of(columns):
        raise FrameError("submit: the digest is not that of the columns")
    return PromptColumns(requests, lens, tokens, budgets, produced)


def pack_tokens(columns: TokenColumns, packed_ns: int, sequence: int) -> pb.Tokens:
    """Pack new tokens for the wire.

    Args:
        columns: What the engine produced.
        packed_ns: The worker's monotonic time.
        sequence: Frames of tokens before this one on the stream.
    """
    packed = (
        columns.requests.tobytes(),
        b"" if columns.counts is None else columns.counts.tobytes(),
        columns.tokens.tobytes(),
        columns.finished_rows.tobytes(),
        columns.finish_reasons.tobytes(),
    )
    requests, counts, tokens, finished_rows, finish_reasons = packed
    return pb.Tokens(
        requests=requests,
        counts=counts,
        tokens=tokens,
        finished_rows=finished_rows,
        finish_reasons=finish_reasons,
        produced_ns=columns.produced_ns,
        packed_ns=packed_ns,
        sequence=sequence,
        digest=digest_of(packed, columns.produced_ns, sequence),
    )


def unpack_tokens(frame: pb.Tokens, sequence: int) -> TokenColumns:
    """Check and unpack a Tokens frame; the arrays are views of its bytes.

    Args:
        frame: As it came.
        sequence: Frames of tokens before this one on the stream.

    Raises:
        FrameError: Columns of different lengths, rows out of range or out of order, an unknown reason, a
            frame out of sequence, a time beyond MAX_NS, or a digest of other columns.
    """
    if frame.sequence != sequence:
        raise FrameError(f"tokens: frame {frame.sequence} where {sequence} belongs")
    if frame.produced_ns > MAX_NS:
        raise FrameError(f"tokens: produced_ns {frame.produced_ns} is no time of a monotonic clock")
    # Each read of a field copies it.
    columns = (frame.requests, frame.counts, frame.tokens, frame.finished_rows, frame.finish_reasons)
    raw_requests, raw_counts, raw_tokens, raw_finished, raw_reasons = columns
    requests = unpack_requests(raw_requests)
    rows = len(requests)
    counts = _column("counts", raw_counts, np.uint32, rows) if raw_counts else None
    num_tokens = rows if counts is None else _sum(counts)
    tokens = _column("tokens", raw_tokens, np.int32, num_tokens)
    finished = _column("finished_rows", raw_finished, np.uint32)
    reasons = _column("finish_reasons", raw_reasons, np.uint8, len(finished))
    if len(finished):
        if finished[-1] >= rows or (finished[1:] <= finished[:-1]).any():
            raise FrameError(f"tokens: finished_rows not ascending below {rows}")
        if reasons.min() < pb.FINISH_REASON_STOP or reasons.max() > pb.FINISH_REASON_LENGTH:
            raise FrameError("tokens: unknown finish reason")
    if frame.digest != digest_of(columns, frame.produced_ns, sequence):
        raise FrameError("tokens: the digest is not that of the columns")
    return TokenColumns(requests, counts, tokens, finished, reasons, frame.produced_ns)


def unpack_requests(column: bytes) -> Requests:
    """Check and unpack a column of request names, (R,).

    Raises:
        FrameError: Its size is no multiple of 8 bytes.
    """
    return _column("requests", column, np.uint64)


def spec_hash(spec: pb.RunSpec, info: pb.WorkerInfo) -> str:
    """Hash what decides a run's answers: the specification, the model, the engine and its limits.

    Tensor parallel size and host are left out: unequal nodes may serve one run.

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


def _halves(requests: Requests) -> NDArray[np.uint32]:
    """View request names as (R, 2): the low halves, and the high ones."""
    return requests.astype("<u8", copy=False).view("<u4").reshape(-1, 2)


def _sum(lens: Lens) -> int:
    return int(lens.sum(dtype=np.uint64))


def _column(name: str, column: bytes, dtype: type[_Dtype], rows: int | None = None) -> NDArray[_Dtype]:
    little = _LITTLE[dtype]
    itemsize = little.itemsize
    if len(column) % itemsize:
        raise FrameError(f"{name}: {len(column)} bytes are no multiple of {itemsize}")
    if rows is not None and len(column) != rows * itemsize:
        raise FrameError(f"{name}: {len(column) // itemsize} entries where {rows} belong")
    return np.frombuffer(column, little)
